"""Buckets: their golden values, balance, independence, and what a moved boundary moves."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.buckets import Experiment, bucket
from gplan_jax.foundation.config import parse_config
from gplan_jax.gsisr import COLUMNS, Sample, split_by_id

USERS = [f"user_{number}" for number in range(20_000)]
ids = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)


def experiment(arms: dict[str, float], **fields: Any) -> Experiment:
    values = {"name": "homepage", "arms": arms, "control": next(iter(arms))} | fields
    return parse_config(Experiment, values, source="experiment.yaml")


@pytest.mark.parametrize(
    ("salt", "unit", "digits"),
    [("0", "1", 0xEF134F2A180BA05D), ("homepage", "用户", 0xDDDF28404BA25C40)],
)
def test_golden_buckets(salt: str, unit: str, digits: int) -> None:
    """Digits as the program sha256sum gives them for "salt:unit"; they must never change."""
    assert bucket(salt, unit) == digits / 2**64


def test_a_pseudonym_is_salted_and_never_changes() -> None:
    one = experiment({"ctr": 0.5, "gplan": 0.5})
    assert one.pseudonym("u1") == "b13977d9167ab07a"  # sha256sum of "homepage:user:u1"
    assert one.pseudonym("u1") != experiment({"a": 0.5, "b": 0.5}, salt="x").pseudonym("u1")


@given(ids, st.integers(0, 50))
def test_a_split_by_id_uses_the_same_buckets(text: str, seed: int) -> None:
    row = Sample(**(dict.fromkeys(COLUMNS, "") | {"id": text}))
    _, test = split_by_id([row], 0.3, seed)
    assert bool(test) == (bucket(str(seed), text) < 0.3)


def test_shares_are_kept() -> None:
    arms = {"ctr": 0.5, "gplan": 0.3, "other": 0.2}
    drawn = [experiment(arms).assign(user) for user in USERS]
    counts = [drawn.count(arm) for arm in arms]
    assert sum(counts) == len(USERS)
    assert stats.chisquare(counts, np.array([*arms.values()]) * len(USERS)).pvalue > 0.001


def test_two_salts_divide_users_independently() -> None:
    arms = {"a": 0.5, "b": 0.5}
    first, second = (experiment(arms, salt=salt) for salt in ("one", "two"))
    table = np.zeros((2, 2))
    for user in USERS:
        table[first.assign(user) == "a", second.assign(user) == "a"] += 1
    assert stats.chi2_contingency(table).pvalue > 0.001
    # And one salt under two names is one division: that is what the salt is for.
    again = experiment(arms, name="renamed", salt="one")
    assert all(first.assign(user) == again.assign(user) for user in USERS[:500])


@given(ids.filter(bool), st.floats(0.01, 0.49), st.floats(0.5, 0.98))
def test_a_moved_boundary_moves_only_who_lies_between(user: str, low: float, high: float) -> None:
    before = experiment({"a": low, "b": 1 - low}).assign(user)
    after = experiment({"a": high, "b": 1 - high}).assign(user)
    between = low <= bucket("homepage", user) < high
    assert (before != after) == between
    if between:
        assert (before, after) == ("b", "a")


@given(ids.filter(bool))
def test_growing_the_last_arm_into_the_rest_moves_nobody_who_has_an_arm(user: str) -> None:
    small = experiment({"a": 0.1, "b": 0.1}).assign(user)
    large = experiment({"a": 0.1, "b": 0.6}).assign(user)
    assert small is None or small == large
    assert (large is None) == (bucket("homepage", user) >= 0.7)


@given(ids.filter(bool))
def test_shares_that_round_to_one_leave_nobody_out(user: str) -> None:
    assert experiment({"a": 1 / 3, "b": 1 / 3, "c": 1 / 3}).assign(user) is not None
    assert experiment(dict.fromkeys("abcdefghij", 0.1)).assign(user) is not None


def test_a_user_without_an_id_is_refused() -> None:
    with pytest.raises(GplanError, match=r"homepage.*without an id"):
        experiment({"a": 0.5, "b": 0.5}).assign("")


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({"control": "c"}, "'c' is none of the arms a, b"),
        ({"arms": {"a": 0.5, "b": 0.6}}, "add up to 1.1"),
        ({"arms": {"a": 1.0}}, "at least 2"),
        ({"arms": {"a": 0.0, "b": 0.5}}, "greater than 0"),
        ({"salt": "a:b"}, "salt"),
        ({"salt": "7"}, "salt"),
        ({"weights": {}}, "unknown key"),
    ],
)
def test_a_wrong_experiment_is_refused(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(GplanError, match=problem):
        experiment(**({"arms": {"a": 0.5, "b": 0.5}, "control": "a"} | fields))
