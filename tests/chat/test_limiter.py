from __future__ import annotations

import asyncio
from collections.abc import Coroutine
from contextlib import AsyncExitStack
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.chat.limiter import SHRINK, Limiter


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
