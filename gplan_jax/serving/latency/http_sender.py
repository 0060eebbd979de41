"""A lean HTTP/1.1 client: what a load generator spends on a request must be little and even.

A general client's connection pool looks through all its connections for each request, which makes
thousands of waiting requests cost the generator more than the server. Here a request takes the
connection that was used last, or opens one.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from typing import NamedTuple
from urllib.parse import urlsplit

import h11

from gplan_jax.foundation import GplanError

NO_ANSWER = 0
# Shorter than a server's own limit (uvicorn: 5 s), so that few requests meet a closing connection.
KEEPALIVE_S = 2.0
READ_BYTES = 65_536


class Reply(NamedTuple):
    """What came back: HTTP status and body, or ``NO_ANSWER`` and the name of what went wrong."""

    status: int
    body: bytes = b""
    problem: str = ""


Send = Callable[[bytes], Awaitable[Reply]]


class _NoReply(Exception):
    """The connection ended before an answer began."""


@dataclass
class _Connection:
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    parser: h11.Connection = field(default_factory=lambda: h11.Connection(h11.CLIENT))
    idle_since: float = 0.0

    async def exchange(self, request: h11.Request, body: bytes) -> Reply:
        """Sends a request, reads its answer; _NoReply where the server hangs up instead."""
        parser, status, parts = self.parser, NO_ANSWER, list[bytes]()
        head = parser.send(request) or b""
        content = parser.send(h11.Data(body)) or b""
        self.writer.write(head + content + (parser.send(h11.EndOfMessage()) or b""))
        while True:
            event = parser.next_event()
            if event is h11.NEED_DATA:
                received = await self.reader.read(READ_BYTES)
                if not received and status == NO_ANSWER:
                    raise _NoReply
                parser.receive_data(received)
            elif isinstance(event, h11.Response):
                status = event.status_code
            elif isinstance(event, h11.Data):
                parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return Reply(status, b"".join(parts))

    def reusable(self) -> bool:
        """Makes the connection ready for another request; False where it has to go."""
        if self.parser.our_state is h11.DONE and self.parser.their_state is h11.DONE:
            self.parser.start_next_cycle()
            return True
        return False


@asynccontextmanager
async def http_sender(
    url: str, *, path: str, timeout_s: float = 60.0, api_key: str | None = None
) -> AsyncIterator[Send]:
    """Yields what posts a JSON body to ``path`` of a server, over as many connections as it takes.

    ``api_key`` is sent as a bearer token. Proxies of the environment have no part.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise GplanError(f"{url} is no address of a server; write e.g. http://127.0.0.1:8000.")
    _allow_many_files()
    host, port = parts.hostname, parts.port or (443 if parts.scheme == "https" else 80)
    context = ssl.create_default_context() if parts.scheme == "https" else None
    target = parts.path.rstrip("/") + path
    fixed = [("Host", parts.netloc), ("Content-Type", "application/json")]
    if api_key:
        fixed.append(("Authorization", f"Bearer {api_key}"))
    clock, idle = asyncio.get_running_loop().time, list[_Connection]()

    async def connect() -> _Connection:
        return _Connection(*await asyncio.open_connection(host, port, ssl=context))

    async def attempt(connection: _Connection, body: bytes) -> Reply:
        headers = [*fixed, ("Content-Length", str(len(body)))]
        request = h11.Request(method="POST", target=target, headers=headers)
        done = False
        try:
            reply = await connection.exchange(request, body)
            done = connection.reusable()
        finally:
            if not done:
                connection.writer.close()
        if done:
            connection.idle_since = clock()
            idle.append(connection)
        return reply

    async def post(body: bytes) -> Reply:
        while idle:
            connection = idle.pop()
            if clock() - connection.idle_since > KEEPALIVE_S or connection.reader.at_eof():
                connection.writer.close()
                continue
            # The server may close an idle connection just as it is taken up again.
            with suppress(_NoReply, ConnectionError):
                return await attempt(connection, body)
        return await attempt(await connect(), body)

    async def send(body: bytes) -> Reply:
        try:
            async with asyncio.timeout(timeout_s):
                return await post(body)
        except TimeoutError:
            return Reply(NO_ANSWER, problem="Timeout")
        except _NoReply:
            return Reply(NO_ANSWER, problem="HungUp")
        except (OSError, h11.ProtocolError) as error:
            return Reply(NO_ANSWER, problem=type(error).__name__)

    try:
        yield send
    finally:
        for connection in idle:
            connection.writer.close()


def _allow_many_files() -> None:
    """Every waiting request holds a socket, and the usual soft limit is 1,024."""
    with suppress(ImportError, ValueError, OSError):  # Windows has no such limit.
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
