"""Folds keep a user's rows together, cover every row once and are as equal as that allows."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.baselines.rows.folds import check_apart, folds_by_id
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Sample


def rows(users: list[int]) -> list[Sample]:
    return [Sample.from_context({"id": f"u{user}"}) for user in users]


USERS = st.lists(st.integers(0, 30), min_size=1, max_size=80).filter(lambda u: len(set(u)) >= 4)


@given(users=USERS, count=st.integers(2, 4), seed=st.integers(0, 3))
def test_folds_are_whole_balanced_and_cover_all(users: list[int], count: int, seed: int) -> None:
    samples = rows(users)
    folds = folds_by_id(samples, count, seed)
    assert len(folds) == count
    assert sorted(index for fold in folds for index in fold.test) == list(range(len(samples)))
    for fold in folds:
        assert sorted(fold.train + fold.test) == list(range(len(samples)))
        check_apart([samples[i] for i in fold.train], [samples[i] for i in fold.test])
        assert fold.test and fold.train == tuple(sorted(fold.train))
    sizes = [len(fold.test) for fold in folds]
    assert max(sizes) - min(sizes) <= max(Counter(users).values())


@given(users=USERS, order=st.randoms())
def test_folds_hang_on_ids_and_seed_alone(users: list[int], order) -> None:  # type: ignore[no-untyped-def]
    samples = rows(users)
    shuffled = list(samples)
    order.shuffle(shuffled)

    def parts(samples: list[Sample]) -> list[set[str]]:
        return [{samples[i].id for i in fold.test} for fold in folds_by_id(samples, 3, 5)]

    assert parts(samples) == parts(shuffled)


def test_another_seed_deals_out_differently() -> None:
    samples = rows(list(range(50)))
    assert folds_by_id(samples, 5, 0) == folds_by_id(samples, 5, 0) != folds_by_id(samples, 5, 1)


def test_too_few_users_or_folds_are_refused() -> None:
    with pytest.raises(GplanError, match="2 ids, too few for 3"):
        folds_by_id(rows([1, 1, 1, 2]), 3)
    with pytest.raises(GplanError, match="1 folds"):
        folds_by_id(rows([1, 2]), 1)


def test_a_user_on_both_sides_is_named() -> None:
    with pytest.raises(GplanError, match="id u2 "):
        check_apart(rows([1, 2]), rows([2, 3]))
    with pytest.raises(GplanError, match=r"id u1 \(and 1 more"):
        check_apart(rows([1, 2]), rows([2, 1]))
    check_apart(rows([1, 2]), rows([3]))
