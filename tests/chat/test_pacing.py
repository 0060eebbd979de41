from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.chat.pacing import (
    LONGEST_BACKOFF_S,
    LONGEST_PAUSE_S,
    SHRINK,
    THROTTLES_PER_ATTEMPT,
    Fail,
    GiveUp,
    Limiter,
    Stop,
    Wait,
    decide,
    pause_s,
)
from gplan_jax.chat.wire import Kind, Outcome


class VirtualTime(asyncio.SelectorEventLoop):
    """A loop whose clock jumps to the next timer instead of waiting for it."""

    def __init__(self) -> None:
        super().__init__()
        self.now = 0.0

    def time(self) -> float:
        return self.now

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            self.now = max(self.now, self._scheduled[0].when())  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


def run(main: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=VirtualTime) as runner:
        runner.run(main)


@given(st.integers(1, 9), st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60))
def test_never_more_at_once_than_the_limit_and_nobody_is_forgotten(
    most: int, requests: list[tuple[int, bool]]
) -> None:
    async def main() -> None:
        limiter = Limiter(most)
        busy = served = 0

        async def request(duration: int, is_refused: bool) -> None:
            nonlocal busy, served
            async with limiter.slot() as round_:
                busy += 1
                assert busy <= most
                await asyncio.sleep(duration)
                if is_refused:
                    limiter.refused(round_, pause_s=duration)
                else:
                    limiter.answered()
                assert 1 <= limiter.limit <= most
                busy -= 1
            served += 1

        await asyncio.gather(*(request(*item) for item in requests))
        assert served == len(requests) and busy == 0

    run(main())


def test_requests_refused_together_shrink_the_limit_once() -> None:
    async def main() -> None:
        limiter = Limiter(100)
        async with AsyncExitStack() as stack:
            rounds = [await stack.enter_async_context(limiter.slot()) for _ in range(50)]
            for round_ in rounds:
                limiter.refused(round_)
            assert limiter.limit == 100 * SHRINK
        async with limiter.slot() as round_:
            limiter.refused(round_)
        assert limiter.limit == int(100 * SHRINK * SHRINK)

    run(main())


def test_a_round_of_answers_raises_the_limit_by_one() -> None:
    async def main() -> None:
        limiter = Limiter(10)
        async with limiter.slot() as round_:
            limiter.refused(round_)
        assert limiter.limit == 7
        for _ in range(8):
            limiter.answered()
        assert limiter.limit == 8
        for _ in range(1000):
            limiter.answered()
        assert limiter.limit == 10

    run(main())


def test_nothing_starts_during_a_pause_and_the_first_come_is_the_first_served() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        limiter = Limiter(2)
        started: list[tuple[float, int]] = []

        async def request(number: int) -> None:
            async with limiter.slot():
                started.append((loop.time(), number))
                await asyncio.sleep(1)

        async with limiter.slot() as round_:
            waiting = [asyncio.create_task(request(number)) for number in range(4)]
            await asyncio.sleep(0.5)
            limiter.refused(round_, pause_s=10)
            limiter.refused(round_, pause_s=3)  # A shorter one doesn't end the longer.
        await asyncio.gather(*waiting)
        # The first had the free slot; the others wait for the pause's end, then one at a time.
        assert started == [(0.0, 0), (10.5, 1), (11.5, 2), (12.5, 3)]

    run(main())


def test_a_request_whose_turn_comes_together_with_a_pause_waits() -> None:
    async def main() -> None:
        loop = asyncio.get_running_loop()
        limiter = Limiter(1)

        async def request() -> float:
            async with limiter.slot():
                return loop.time()

        async with limiter.slot() as round_:
            waiting = asyncio.create_task(request())
            await asyncio.sleep(0)
        limiter.refused(round_, pause_s=5)
        assert await waiting == 5.0

    run(main())


def test_a_cancelled_request_gives_its_turn_back() -> None:
    async def main() -> None:
        limiter = Limiter(1)

        async def request() -> None:
            async with limiter.slot():
                pass

        async with limiter.slot():
            first, second = asyncio.create_task(request()), asyncio.create_task(request())
            await asyncio.sleep(0)
        first.cancel()  # Its turn has come, but it hasn't run yet.
        await second
        assert first.cancelled()

    run(main())


def test_resume_ends_a_pause() -> None:
    async def main() -> None:
        limiter = Limiter(1)
        async with limiter.slot() as round_:
            limiter.refused(round_, pause_s=1000)
        asyncio.get_running_loop().call_later(2, limiter.resume)
        async with limiter.slot():
            assert asyncio.get_running_loop().time() == 2.0

    run(main())


TRANSIENT = (Kind.THROTTLED, Kind.OVERLOADED, Kind.FAULT, Kind.CUT, Kind.UNREACHABLE)
FAILURES = {
    "faults": st.integers(0, 2000),
    "throttles": st.integers(0, 2000),
    "attempts": st.integers(1, 100),
    "backoff_s": st.floats(0.001, 100),
    "jitter": st.floats(0, 1, exclude_max=True),
}


@given(
    st.sampled_from(TRANSIENT),
    st.none() | st.floats(0, 2 * LONGEST_PAUSE_S),
    st.fixed_dictionaries(FAILURES).filter(lambda given: given["faults"] + given["throttles"] > 0),
)
def test_a_passing_fault_waits_within_bounds_until_its_attempts_are_used_up(
    kind: Kind, asked: float | None, given: dict[str, float]
) -> None:
    decision = decide(Outcome(kind, "it failed", asked), **given)  # type: ignore[arg-type]
    used_up = (
        given["faults"] >= given["attempts"]
        or given["throttles"] >= THROTTLES_PER_ATTEMPT * given["attempts"]
    )
    if asked is not None and asked > LONGEST_PAUSE_S:
        assert isinstance(decision, Stop)
    elif used_up:
        assert isinstance(decision, GiveUp)
    else:
        assert isinstance(decision, Wait)
        failures = given["faults"] + given["throttles"]
        ceiling = min(LONGEST_BACKOFF_S, given["backoff_s"] * 2 ** min(failures - 1, 100))
        assert (asked or 0.0) <= decision.seconds <= max(ceiling, asked or 0.0)


def test_the_ceiling_doubles_up_to_a_minute() -> None:
    def wait(faults: int) -> float:
        decision = decide(
            Outcome(Kind.FAULT), faults=faults, throttles=0, attempts=99, backoff_s=0.5, jitter=0.5
        )
        assert isinstance(decision, Wait)
        return decision.seconds

    assert [wait(n) for n in (1, 2, 3, 7, 8, 20)] == [0.25, 0.5, 1.0, 16.0, 30.0, 30.0]


@given(st.fixed_dictionaries(FAILURES))
def test_what_no_repetition_mends_is_not_repeated(given: dict[str, float]) -> None:
    for kind, expected in [
        (Kind.REFUSED, Fail),
        (Kind.FILTERED, Fail),
        (Kind.FORMAT_REFUSED, Fail),
        (Kind.DENIED, Stop),
    ]:
        decision = decide(Outcome(kind, "why"), **given)  # type: ignore[arg-type]
        assert isinstance(decision, expected) and decision.reason == "why"


def test_only_an_overloaded_server_pauses_everybody() -> None:
    for kind in Kind:
        paused = kind in (Kind.THROTTLED, Kind.OVERLOADED)
        assert pause_s(Outcome(kind, "", 3.0)) == (3.0 if paused else 0.0)
    assert pause_s(Outcome(Kind.THROTTLED)) == 0.0
    assert pause_s(Outcome(Kind.THROTTLED, "", LONGEST_PAUSE_S + 1)) == 0.0
