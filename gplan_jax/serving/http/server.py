"""The process around the app: its socket, its signals, its shutdown.

Connections that nobody can hold for nothing, and half-closed clients that get their answers:
uvicorn waits for headers as long as a client likes, takes connections until descriptors run
out, and drops a client that has closed its sending side (uvicorn issues 157 and 1264).
"""

from __future__ import annotations

import asyncio
import errno
import functools
import logging
import math
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from gplan_jax.foundation.errors import GplanError
from gplan_jax.serving.http.middleware import Gate
from gplan_jax.serving.http.telemetry import log

HEADERS_S = 10.0  # for a request's headers, from the connection or from their first byte
PROBE_S = 0.5
RESERVED_FILES = 64  # descriptors for files, the engine's and the listening socket
MOST_CONNECTIONS, MOST_WAITING = 10_000, 1024
# Any client must pass over interim responses (RFC 9110, 15.2).
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"
# Once the engine is closed: seconds for responses to be written to slow clients.
LAST_WRITES_S = 3
# Longer than proxies keep idle connections, so that the server never closes one during a request.
KEEP_ALIVE_S = 75
FAULT_LINE_S = 10.0


@functools.cache
def connection_limits() -> tuple[int, int]:
    """Connections that may be open, and that may wait to be accepted; raises the soft limit of
    descriptors to the hard one. asyncio accepts all that wait at once, so both must fit below it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    files = MOST_CONNECTIONS * 2 if hard == resource.RLIM_INFINITY else hard
    waiting = min(MOST_WAITING, files // 4)
    return max(1, min(MOST_CONNECTIONS, files - waiting - RESERVED_FILES)), waiting


class GuardedProtocol(H11Protocol):
    """HTTP/1.1 with a deadline for headers and a bound on connections.

    Beyond the bound the connection goes that has waited longest for a request; where all are at
    work, the new one.
    """

    most: int | None = None  # that of ``connection_limits`` where it is None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._headers_due: asyncio.TimerHandle | None = None
        self._quiet_since = self.loop.time()
        self._probe: asyncio.TimerHandle | None = None

    @property
    def at_work(self) -> bool:
        """Whether a request has come and is not answered yet."""
        return self.cycle is not None and not self.cycle.response_complete

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Waits for headers; makes room where there are too many connections."""
        super().connection_made(transport)
        self._headers_due = self.loop.call_later(HEADERS_S, transport.abort)
        most = self.most or connection_limits()[0]
        if len(self.connections) > most:
            guarded = [c for c in self.connections if isinstance(c, GuardedProtocol)]
            there = [other for other in guarded if not other.transport.is_closing()]
            if len(there) > most:
                idle = [other for other in there if not other.at_work]
                # Aborted, as a polite end would wait for what such a client never reads.
                min(idle, key=lambda other: other._quiet_since, default=self).transport.abort()

    def data_received(self, data: bytes) -> None:
        """A drip of bytes wins no time: the deadline runs from the first one."""
        super().data_received(data)
        if self.at_work:
            self._await_headers(False)
        elif self._headers_due is None and not self.transport.is_closing():
            self._await_headers(True)

    def on_response_complete(self) -> None:
        """Between requests uvicorn's keep-alive time-out holds."""
        self._quiet_since = self.loop.time()
        super().on_response_complete()

    def eof_received(self) -> bool | None:  # type: ignore[override]
        """Keeps the connection until the request is answered.

        A client that has gone altogether looks the same: it is found out by writing to it.
        """
        if not self.at_work:
            return None
        self.cycle.keep_alive = False
        self._find_out()
        return True

    def connection_lost(self, exc: Exception | None) -> None:
        """Ends the timers."""
        self._await_headers(False)
        if self._probe is not None:
            self._probe.cancel()
        super().connection_lost(exc)

    def _await_headers(self, wait: bool) -> None:
        if self._headers_due is not None:
            self._headers_due.cancel()
        self._headers_due = self.loop.call_later(HEADERS_S, self.transport.abort) if wait else None

    def _find_out(self) -> None:
        if not self.at_work or self.cycle.response_started:
            return
        if self.scope["http_version"] == "1.1":
            self.transport.write(PROCESSING)
            self._probe = self.loop.call_later(PROBE_S, self._find_out)


def listen(host: str, port: int) -> socket.socket:
    """A listening socket; port 0 takes a free one. GplanError where the address can't be used."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        plain = socket.create_server((host, port), family=family, backlog=connection_limits()[1])
    except OSError as error:
        match error.errno:
            case errno.EADDRINUSE:
                problem = f"Port {port} of {host} is taken; name another one with --port."
            case errno.EACCES:
                problem = f"Port {port} may not be used here; name one above 1023 with --port."
            case _:
                problem = f"{host} is no address of this machine ({error}); see --host."
        raise GplanError(problem) from None
    # asyncio sends without delay (TCP_NODELAY) only where a socket names its protocol, which this
    # one does not; a body would wait up to 40 ms for the acknowledgement of its headers.
    return socket.socket(family, plain.type, socket.IPPROTO_TCP, fileno=plain.detach())


def quiet_config(app: FastAPI) -> uvicorn.Config:
    """Plain HTTP/1.1 around ``app``, and a uvicorn that logs nothing."""
    for name in ("uvicorn.error", "uvicorn.asgi"):  # Its tracebacks might quote a user.
        logging.getLogger(name).setLevel(logging.CRITICAL)
    return uvicorn.Config(
        app,
        http=GuardedProtocol,
        backlog=connection_limits()[1],
        ws="none",
        loop="asyncio",
        lifespan="off",
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=LAST_WRITES_S,
    )


class DrainingServer(uvicorn.Server):
    """Uvicorn that drains: told to stop, it refuses new plans, finishes accepted ones, and ends.

    Accepted is every request that was let in, with all contexts of a batch. While it drains the
    port stays open, so that probes see it (``/readyz`` 503) and late clients get a 503 with
    Retry-After. After ``drain_s`` seconds, what is left gets a 503 too. A second
    signal ends it at once. The exit code is the caller's: the signals are not raised again.
    """

    def __init__(
        self,
        app: FastAPI,
        *,
        drain_s: float,
        on_hangup: Callable[[], None] | None = None,
    ) -> None:
        super().__init__(quiet_config(app))
        self._on_hangup = on_hangup  # called on SIGHUP
        self._gate: Gate = app.state.gate
        self._drain_s = drain_s
        self._told, self._deadline = 0, math.inf
        self._close: asyncio.Task[None] | None = None
        self._next_fault_line = 0.0

    def stop(self) -> None:
        """Begins to drain; may be called from any thread."""
        self._told += 1

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Signals: the first drains, the second ends at once."""
        self.stop()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Opens the port; where no connection can be accepted, one line a while tells."""
        loop = asyncio.get_running_loop()
        loop.set_exception_handler(self._loop_fault)
        if self._on_hangup is not None and threading.current_thread() is threading.main_thread():
            loop.add_signal_handler(signal.SIGHUP, self._on_hangup)
        await super().startup(sockets)

    def _loop_fault(self, loop: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        """asyncio logs a traceback for every connection that it can't accept, thousands a second;
        what it says of other faults might quote a user.
        """
        if (now := loop.time()) >= self._next_fault_line:
            self._next_fault_line = now + FAULT_LINE_S
            fault = context.get("exception")
            log("loop_fault", error=type(fault).__name__, message=context["message"][:200])

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: begins to drain, and ends once that is done."""
        if self._told and not self._gate.draining:
            self._gate.draining = True
            self._deadline = time.monotonic() + self._drain_s
            log("draining", accepted=self._gate.inside, drain_s=self._drain_s)
        left = self._deadline - time.monotonic()
        if self._gate.draining and self._close is None and (not self._gate.inside or left <= 0):
            close = asyncio.to_thread(self._gate.engine.close, drain_s=max(left, 0.0))
            self._close = asyncio.create_task(close)
        if self._close is not None and self._close.done():
            self.should_exit = True
        if self._told > 1:
            self.should_exit = self.force_exit = True
        return await super().on_tick(counter)
