"""When something is sent: how many requests at once, and whether one is sent again.

Fewer at once where the server is overloaded, then more again: additive increase, multiplicative
decrease, as TCP does it (V. Jacobson, "Congestion avoidance and control", 1988). A refusal shrinks
the limit by a factor, each round of answers raises it by one.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from gplan_jax.chat.wire import Kind, Outcome

SHRINK = 0.7
GROW = 1.0
LONGEST_BACKOFF_S = 60.0
# A server that wants a longer pause (a daily quota) stops the run.
LONGEST_PAUSE_S = 900.0
# A refusal with 429 is the server's way to pace its clients, so it is forgiven more often.
THROTTLES_PER_ATTEMPT = 5


class Wait(NamedTuple):
    """Send it again after so long."""

    seconds: float


class Fail(NamedTuple):
    """This request has no answer."""

    reason: str


class Stop(NamedTuple):
    """No request will have an answer."""

    reason: str


class GiveUp(NamedTuple):
    """Its attempts are used up: a Fail where others get through, else a Stop."""

    reason: str


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
        return int(self._limit)

    @asynccontextmanager
    async def slot(self, *, first: bool = False) -> AsyncIterator[int]:
        """Holds a slot for the length of the block; yields the round it was given in.

        ``first`` is before all that wait: a repeated request keeps its place in line.
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


def decide(
    outcome: Outcome, *, faults: int, throttles: int, attempts: int, backoff_s: float, jitter: float
) -> Wait | Fail | Stop | GiveUp:
    """What follows from an attempt that brought no answer.

    The wait has full jitter: uniform in [0, min(60 s, backoff_s 2^(n-1))] after the n-th failure,
    and never below what the server asked for (M. Brooker, "Exponential Backoff And Jitter", AWS
    Architecture Blog, 2015). ``throttles`` are the 429s so far, ``faults`` this request's other
    failures, this one included; ``jitter`` is a random number in [0, 1).
    """
    if outcome.kind in (Kind.REFUSED, Kind.FILTERED, Kind.FORMAT_REFUSED):
        return Fail(outcome.message)
    if outcome.kind is Kind.DENIED:
        return Stop(outcome.message)
    asked = outcome.retry_after_s
    if asked is not None and asked > LONGEST_PAUSE_S:
        return Stop(f"{outcome.message} (it asks to wait {asked / 60:.0f} minutes)")
    if faults >= attempts or throttles >= attempts * THROTTLES_PER_ATTEMPT:
        return GiveUp(f"{outcome.message} (attempt {faults + throttles})")
    # The exponent is capped because 2.0**1024 overflows.
    ceiling = min(LONGEST_BACKOFF_S, backoff_s * 2.0 ** min(faults + throttles - 1, 32))
    return Wait(max(jitter * ceiling, asked or 0.0))


def pause_s(outcome: Outcome) -> float:
    """How long nothing at all is sent after ``outcome``: what an overloaded server asks for."""
    asked = outcome.retry_after_s or 0.0
    paced = outcome.kind in (Kind.THROTTLED, Kind.OVERLOADED)
    return asked if paced and asked <= LONGEST_PAUSE_S else 0.0
