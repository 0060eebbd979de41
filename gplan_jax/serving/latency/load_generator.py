"""An open-loop load generator: requests leave at times of their own, however slow the answers are.

A client that waits for one answer before it asks again sends less just when the server is slow, and
so never sees the queue that real users would stand in (coordinated omission). Here the times of a
Poisson process are drawn first, and a latency counts from the time a request was meant to leave:
neither a slow server nor a slow generator can hide waiting. Run it in a process of its own.

What a request costs the generator must be little and even, so its HTTP/1.1 client is a lean one. A
general client's connection pool looks through all its connections for each request, which makes
thousands of waiting requests cost the generator more than the server. Here a request takes the
connection that was used last, or opens one.
"""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from itertools import cycle
from typing import Any, NamedTuple
from urllib.parse import urlsplit

import h11
import numpy as np

from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import Sample

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
    # Every waiting request holds a socket, and the usual soft limit is 1,024.
    with suppress(ImportError, ValueError, OSError):  # Windows has no such limit.
        import resource

        _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
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
            # Ready for another request, or it has to go.
            done = connection.parser.our_state is connection.parser.their_state is h11.DONE
            if done:
                connection.parser.start_next_cycle()
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


PLAN_PATH = "/v1/plan"
OK, UNAVAILABLE = 200, 503
LEAD_S = 0.05  # between the start of a run and its first possible request


@dataclass(frozen=True)
class Exchange:
    """One request and how it ended; times in seconds from the start of the run."""

    intended_s: float  # when it was meant to leave
    sent_s: float  # when it left
    ended_s: float  # when its answer was complete, or it failed
    status: int  # HTTP, 0 where no answer came
    problem: str = ""  # the error's code or name
    timings_ms: dict[str, float] = field(default_factory=dict)  # the server's own, by name
    # the server's counts of tokens and passes, by name
    usage: dict[str, int] = field(default_factory=dict)
    passed: bool | None = None  # the rule filter; None where the server didn't say

    @property
    def answered(self) -> bool:
        """Whether a plan came back."""
        return self.status == OK and not self.problem

    @property
    def latency_ms(self) -> float:
        """From the intended time to the end: what a user of an evenly used service waits."""
        return (self.ended_s - self.intended_s) * 1e3

    @property
    def service_ms(self) -> float:
        """From when it was really sent to the end."""
        return (self.ended_s - self.sent_s) * 1e3

    @property
    def lag_ms(self) -> float:
        """How late it was sent."""
        return (self.sent_s - self.intended_s) * 1e3


def poisson_schedule(qps: float, duration_s: float, seed: int) -> np.ndarray:
    """Times of a Poisson process in [0, duration_s), float64 [N] in ascending seconds.

    Gaps are independent and exponential with mean 1 / ``qps``. A longer schedule begins with a
    shorter one of the same rate and seed.
    """
    if not (qps > 0 and duration_s > 0):
        raise GplanError(f"{qps} QPS for {duration_s} s: rate and duration must be positive.")
    generator = np.random.default_rng(seed)
    expected = qps * duration_s
    times = np.zeros(0)
    while not times.size or times[-1] < duration_s:
        gaps = generator.standard_exponential(int(expected + 4 * expected**0.5) + 16) / qps
        times = np.concatenate([times, (times[-1] if times.size else 0.0) + np.cumsum(gaps)])
    return times[times < duration_s]


def plan_bodies(samples: Iterable[Sample], *, deadline_ms: float | None = None) -> list[bytes]:
    """Bodies of ``POST /v1/plan`` for some contexts, labels left out."""
    extra = {} if deadline_ms is None else {"deadline_ms": round(deadline_ms)}
    bodies = []
    for sample in samples:
        body = {"context": sample.context(), **extra}
        bodies.append(json.dumps(body, ensure_ascii=False).encode())
    return bodies


async def send_on_schedule(
    send: Send,
    bodies: Iterable[bytes],
    intended_s: Sequence[float] | np.ndarray,
    *,
    ended: Callable[[Exchange], None] | None = None,
) -> list[Exchange]:
    """Sends a request at each intended time, ascending seconds from the start of the run; the
    exchanges in that order, each told to ``ended`` as it ends. Bodies are taken in order, and over
    again where there are fewer of them than times.
    """
    clock = asyncio.get_running_loop().time
    start = clock() + LEAD_S

    async def exchange(body: bytes, intended: float) -> Exchange:
        sent = clock() - start
        reply = await send(body)
        done = read_exchange(reply, intended, sent, clock() - start)
        if ended:
            ended(done)
        return done

    tasks = []
    async with asyncio.TaskGroup() as group:
        for body, intended in zip(cycle(bodies), map(float, intended_s), strict=False):
            await asyncio.sleep(start + intended - clock())
            tasks.append(group.create_task(exchange(body, intended)))
    return [task.result() for task in tasks]


def read_exchange(reply: Reply, intended: float, sent: float, ended: float) -> Exchange:
    """Reads an answer's figures; an answer that is no plan is a failure, whatever its status."""
    try:
        content = json.loads(reply.body) if reply.body else {}
        if reply.status == OK:
            return Exchange(
                intended,
                sent,
                ended,
                OK,
                timings_ms=dict(content["timings_ms"]),
                usage=dict(content["usage"]),
                passed=content.get("passed"),
            )
        problem = reply.problem or str(content["error"]["code"])
    except (ValueError, KeyError, TypeError):
        problem = "no plan" if reply.status == OK else reply.problem
    return Exchange(intended, sent, ended, reply.status, problem=problem or "no error code")


def exchange_row(exchange: Exchange) -> dict[str, Any]:
    """An exchange as a row of JSON: its times, and what the server said about it."""
    return {
        "intended_s": round(exchange.intended_s, 6),
        "lag_ms": round(exchange.lag_ms, 3),
        "latency_ms": round(exchange.latency_ms, 3),
        "status": exchange.status,
        "problem": exchange.problem,
        "timings_ms": exchange.timings_ms,
        "usage": exchange.usage,
        "passed": exchange.passed,
    }
