"""How many requests are under way at once: fewer where the server is overloaded, then more again.

Additive increase, multiplicative decrease, as TCP does it (V. Jacobson, "Congestion avoidance and
control", 1988): a refusal shrinks the limit by a factor, each round of answers raises it by one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

SHRINK = 0.7
GROW = 1.0


class Limiter:
    """Slots for requests; never more than ``most``, and none while the server wants a pause."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._limit = float(most)
        self._busy = 0
        self._round = 0
        self._open_at = 0.0
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._timer: asyncio.TimerHandle | None = None

    @property
    def limit(self) -> int:
        """Most requests at once, at this moment."""
        return int(self._limit)

    @asynccontextmanager
    async def slot(self, *, first: bool = False) -> AsyncIterator[int]:
        """Holds a slot for the length of the block; yields the round it was given in.

        Args:
            first: before all that wait: a repeated request keeps its place in line.
        """
        await self._acquire(first)
        try:
            yield self._round
        finally:
            self._busy -= 1
            self._admit()

    def answered(self) -> None:
        """An answer came: the limit rises by one for each ``limit`` answers."""
        self._limit = min(float(self._most), self._limit + GROW / self._limit)

    def refused(self, round_: int, pause_s: float = 0.0) -> None:
        """The server is overloaded; nothing is sent for ``pause_s``.

        Of the requests that were under way together only the first to be refused shrinks the limit:
        the rest say nothing new. ``round_`` is what ``slot`` yielded.
        """
        if round_ == self._round:
            self._round += 1
            self._limit = max(1.0, self._limit * SHRINK)
        self._open_at = max(self._open_at, asyncio.get_running_loop().time() + pause_s)

    def resume(self) -> None:
        """Ends a pause at once."""
        self._open_at = 0.0
        self._admit()

    async def _acquire(self, first: bool) -> None:
        loop = asyncio.get_running_loop()
        turn: asyncio.Future[None] = loop.create_future()
        if first:
            self._waiting.appendleft(turn)
        else:
            self._waiting.append(turn)
        self._admit()
        try:
            await turn
            # A pause may have begun between the turn and this task's awakening.
            while loop.time() < self._open_at:
                self._busy -= 1
                turn = loop.create_future()
                self._waiting.appendleft(turn)
                self._admit()
                await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._busy -= 1
            self._admit()
            raise

    def _admit(self) -> None:
        """Gives the free slots to those who waited longest."""
        loop = asyncio.get_running_loop()
        if self._waiting and loop.time() < self._open_at:
            if self._timer is None or self._timer.when() < self._open_at:
                if self._timer is not None:
                    self._timer.cancel()
                self._timer = loop.call_at(self._open_at, self._reopen)
            return
        while self._waiting and self._busy < self.limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._busy += 1
                turn.set_result(None)

    def _reopen(self) -> None:
        self._timer = None
        self._admit()
