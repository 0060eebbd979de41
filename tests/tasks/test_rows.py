from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation import GplanError
from gplan_jax.tasks.rows import draw_questions, shuffled


@given(st.integers(1, 120), st.text(max_size=5))
def test_a_shuffle_holds_every_number_once(size: int, key: str) -> None:
    assert sorted(shuffled(n, size, key) for n in range(size)) == list(range(size))


def test_a_shuffle_of_more_numbers_than_memory_holds() -> None:
    size = 3 * 2**300
    drawn = [shuffled(n, size, "key") for n in range(50)]
    assert len(set(drawn)) == 50 and all(0 <= n < size for n in drawn)
    assert max(drawn) > size // 2 > min(drawn)


@given(st.integers(10, 120), st.tuples(st.integers(), st.integers(), st.integers()))
def test_splits_share_nothing_whatever_their_seeds(size: int, seeds: tuple[int, int, int]) -> None:
    tenths = [size // 10, size * 2 // 10 - size // 10, size - size * 2 // 10]
    drawn = [
        list(draw_questions("task", size, split, rows, seed))
        for split, rows, seed in zip(("validation", "test", "train"), tenths, seeds, strict=True)
    ]
    assert sorted(n for split in drawn for n in split) == list(range(size))
    with pytest.raises(GplanError, match=f"task has {tenths[1]} test questions"):
        list(draw_questions("task", size, "test", tenths[1] + 1, 0))


def test_a_seed_orders_its_split() -> None:
    one, two = (list(draw_questions("task", 1000, "test", 100, seed)) for seed in (1, 2))
    assert one != two and sorted(one) == sorted(two)
    assert one[:10] == list(draw_questions("task", 1000, "test", 10, 1))
