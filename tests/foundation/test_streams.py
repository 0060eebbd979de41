from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation.streams import WINDOW, map_ordered


@given(st.lists(st.integers(0, 3), max_size=40), st.integers(1, 5))
def test_results_come_in_order_and_no_more_calls_run_than_asked(
    waits: list[int], at_once: int
) -> None:
    running, most = 0, 0

    async def call(item: tuple[int, int]) -> int:
        nonlocal running, most
        running += 1
        most = max(most, running)
        for _ in range(item[1]):
            await asyncio.sleep(0)
        running -= 1
        return item[0]

    assert list(map_ordered(call, enumerate(waits), at_once=at_once)) == list(range(len(waits)))
    assert most <= at_once and running == 0


def test_a_slow_call_at_the_head_lets_a_bounded_number_of_others_go_on() -> None:
    read: list[int] = []
    finished: list[int] = []
    gate = asyncio.Event()

    def items() -> Iterator[int]:
        for item in range(1000):
            read.append(item)
            yield item

    async def call(item: int) -> int:
        if item == 0:
            while len(finished) < WINDOW * 4 - 1:
                await asyncio.sleep(0)
            gate.set()
        finished.append(item)
        return item

    stream = map_ordered(call, items(), at_once=4)
    assert next(stream) == 0
    assert gate.is_set() and len(read) == WINDOW * 4
    stream.close()


def test_the_first_failure_in_order_ends_the_stream_and_everything_is_closed() -> None:
    cancelled: list[int] = []
    closed: list[bool] = []

    async def call(item: int) -> int:
        if item == 2:
            raise ValueError("two")
        if item > 2:
            try:
                await asyncio.sleep(60)
            except asyncio.CancelledError:
                cancelled.append(item)
                raise
        return item

    async def close() -> None:
        closed.append(True)

    results = []
    with pytest.raises(ValueError, match="two"):
        for result in map_ordered(call, range(6), at_once=4, close=close):
            results.append(result)
    assert results == [0, 1] and closed == [True]
    assert cancelled == [3, 4, 5]


def test_results_that_are_false_do_not_end_the_stream() -> None:
    async def nothing(item: int) -> None:
        return None

    assert list(map_ordered(nothing, range(3))) == [None, None, None]


def test_at_least_one_call_runs() -> None:
    async def call(item: int) -> int:
        return item

    with pytest.raises(ValueError, match="at_once is 0"):
        next(map_ordered(call, [1], at_once=0))


def test_an_exit_while_a_result_is_awaited_ends_the_stream_as_well() -> None:
    """As a handler of SIGTERM raises it: the loop is left with the task that waits."""
    ended: list[str] = []

    def leave() -> None:
        raise SystemExit(143)

    async def call(item: int) -> int:
        asyncio.get_running_loop().call_soon(leave)
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append("call")
        return item

    async def close() -> None:
        ended.append("close")

    with pytest.raises(SystemExit):
        list(map_ordered(call, [1], close=close))
    assert ended == ["call", "close"]
