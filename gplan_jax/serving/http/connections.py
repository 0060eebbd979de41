"""Connections that nobody can hold for nothing, and half-closed clients that get their answers.

uvicorn waits for headers as long as a client likes, takes connections until descriptors run
out, and drops a client that has closed its sending side (uvicorn issues 157 and 1264).
"""

from __future__ import annotations

import asyncio
import functools
import resource
from typing import Any

from uvicorn.protocols.http.h11_impl import H11Protocol

HEADERS_S = 10.0  # for a request's headers, from the connection or from their first byte
PROBE_S = 0.5
RESERVED_FILES = 64  # descriptors for files, the engine's and the listening socket
MOST_CONNECTIONS, MOST_WAITING = 10_000, 1024
# Any client must pass over interim responses (RFC 9110, 15.2).
PROCESSING = b"HTTP/1.1 102 Processing\r\n\r\n"


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
