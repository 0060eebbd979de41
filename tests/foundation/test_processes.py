"""Work over processes: in order, as a stream, and what goes wrong is heard of."""

from __future__ import annotations

import operator
import os
from collections.abc import Iterator

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.streams import QUEUED, map_in_processes


def test_results_come_in_order_and_few_items_are_taken_ahead() -> None:
    taken = []

    def items() -> Iterator[int]:
        for number in range(30):
            taken.append(number)
            yield number

    for result in map_in_processes(operator.neg, items(), processes=1):
        assert len(taken) + result <= QUEUED + 1
    assert len(taken) == 30


def test_faults_of_the_work_and_of_the_stream_are_raised_and_a_killed_process_is_named() -> None:
    with pytest.raises(ZeroDivisionError):
        list(map_in_processes((1).__truediv__, [2, 0], processes=1))
    with pytest.raises(RecursionError):
        list(map_in_processes(operator.neg, iter(self_referring, None), processes=1))
    with pytest.raises(GplanError, match="1 processes was killed"):
        list(map_in_processes(os._exit, [1], processes=1))


def self_referring() -> int:
    raise RecursionError
