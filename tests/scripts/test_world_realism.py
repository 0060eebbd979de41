from __future__ import annotations

import dataclasses
import itertools
import sys
from pathlib import Path

import numpy as np
import pytest
import world_realism
from hypothesis import given
from hypothesis import strategies as st
from world_realism import (
    ASPECTS,
    RowParts,
    answered_by_rules,
    auc_of,
    distances,
    is_working_day,
    take_apart,
    tell_apart,
)

from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, read_samples
from gplan_jax.synthesis.world.simulation import FIRST_ID, simulate_rows

LIBRARY = IntentLibrary.load()


def _rows(count: int, seed: int, first_id: int = FIRST_ID) -> list[RowParts]:
    found = filter(is_working_day, simulate_rows(10**9, seed, first_id=first_id))
    return [take_apart(sample, LIBRARY) for sample in itertools.islice(found, count)]


@pytest.fixture(autouse=True)
def _short_trials(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    """Few trees, and few features shuffled: what is asked here shows in the first of them."""
    if request.node.get_closest_marker("slow") is None:
        monkeypatch.setattr(world_realism, "TRIED", 8)
        monkeypatch.setattr(world_realism, "ROUNDS", 30)


@pytest.fixture(scope="module")
def rows() -> list[RowParts]:
    return _rows(100, seed=1)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=2, max_size=30))
def test_the_auc_is_the_chance_to_rank_a_pair_right(pairs: list[tuple[int, bool]]) -> None:
    scores, sides = [score for score, _ in pairs], [side for _, side in pairs]
    if len({*sides}) < 2:
        return
    wins = [
        1.0 if one > other else 0.5 if one == other else 0.0
        for one, side in pairs
        for other, other_side in pairs
        if side and not other_side
    ]
    found = auc_of(np.array(scores, float), np.array(sides, int))
    assert found == pytest.approx(sum(wins) / len(wins))


def test_rows_have_no_distance_from_themselves_and_all_from_strangers(rows: list[RowParts]) -> None:
    assert distances(rows, rows) == {name: 0.0 for name in ASPECTS}
    columns = {"trigger_1": "打车", "trigger_5": "", "profile_feat_5": "无名市"}
    strange = [
        take_apart(dataclasses.replace(row.sample, **columns), LIBRARY)
        for row in rows
        if row.sample.trigger_5
    ]
    found = distances(rows, strange)
    assert found["order type"] == 1.0
    unknown = sum(not row.sample.trigger_5 for row in rows) / len(rows)
    assert found["order time missing"] == pytest.approx(1 - unknown)
    assert found["place kind"] < 0.1


def test_a_world_is_not_told_from_itself_but_from_one_with_a_habit(rows: list[RowParts]) -> None:
    others = _rows(100, seed=1, first_id=FIRST_ID + 10_000)
    same = tell_apart(rows, others, "all")
    assert same.low < 0.5 < same.high and same.low <= same.auc <= same.high
    marked = [
        take_apart(dataclasses.replace(row.sample, profile_feat_10=""), LIBRARY) for row in others
    ]
    told = tell_apart(rows, marked, "contexts")
    assert told.auc > 0.95
    assert "profile_feat_10" in told.telling[0][0]


def test_plans_are_told_apart_in_equal_contexts_only(rows: list[RowParts]) -> None:
    # The rows' plans are the rules': both sides are the same rows.
    assert answered_by_rules(rows) == rows
    assert tell_apart(rows, [], "plans").auc == pytest.approx(0.5)
    shorter = [dataclasses.replace(row, plan=row.plan[:3]) for row in rows]
    told = tell_apart(shorter, [], "plans")
    assert told.auc > 0.99 and "plan" in told.telling[0][0]


def test_too_few_users_and_a_missing_package_are_named(
    rows: list[RowParts], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GplanError, match="too few"):
        tell_apart(rows[:3], rows[3:6], "all")
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    with pytest.raises(GplanError, match=r"gplan-jax\[baselines\]"):
        tell_apart(rows, rows, "all")


@pytest.mark.slow
def test_the_world_is_as_like_the_public_rows_as_its_docs_say(shared: Path) -> None:
    real = [take_apart(s, LIBRARY) for s in read_samples(shared / "gsisr/gsisr_dev.csv")]
    simulated = _rows(1400, seed=0)
    found = distances(real, simulated)
    assert max(found[name] for name in ("order type", "order distance", "plan length")) < 0.06
    assert found["first intent"] < 0.13 and found["intents"] < 0.13
    assert tell_apart(real, simulated, "contexts").auc < 0.9
    assert tell_apart(real, simulated, "plans").auc < 0.8
