"""Floors that are fitted: the context table, gradient boosting, nearest neighbours."""

from __future__ import annotations

import dataclasses
import math
import sys
from collections.abc import Sequence
from functools import cache

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.baselines.fitting.arms import ALL_FLOORS, CONTEXT_FLOORS, FLOORS
from gplan_jax.baselines.floors.boosting import Choice, GradientBoosting, open_now
from gplan_jax.baselines.floors.counting import ContextTable, Floor, voted_plan
from gplan_jax.baselines.floors.neighbours import NearestNeighbours, _corrected_information
from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.baselines.rows.plan_mask import initial_state, open_actions, plan_mask, taken
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import (
    IntentLibrary,
    Sample,
    canonical_plan,
    check_plan,
    parse_plan,
)
from gplan_jax.gsisr.filter import plan_rules

LIBRARY = IntentLibrary.load()
ATOMS = Atoms.of(LIBRARY)
CARD, WEATHER, REMINDER, TRAIN = ({"工具名称": f"tool_{n}"} for n in (6, 9, 8, 3))
RIDE = {"工具名称": "tool_1", "起始位置": "当前位置", "终点位置": "订单目的地"}
FITTED = [name for name in ALL_FLOORS if name not in FLOORS]


def row(
    plan: list[dict[str, str]], order: str = "酒店", *, user: str = "u", start: str = ""
) -> Sample:
    return Sample.from_context(
        {
            "id": user,
            "currenttime": "2026-01-05 08:00:00",
            "current_city": "甲市",
            "current_poi_name": "p_1",
            "trigger_1": order,
            "trigger_2": "甲市",
            "trigger_4": "p_1" if plan and plan[0] == CARD else "p_2",
            "trigger_6": start,
            "raw_labels": canonical_plan(plan) if plan else "",
        }
    )


SOON, LATER = "2026-01-05 09:00:00", "2026-01-08 09:00:00"
TO_HOTEL, AT_HOTEL = [RIDE, REMINDER, WEATHER], [CARD, WEATHER, REMINDER]
TICKETS = [TRAIN, WEATHER, REMINDER]
ROWS = [
    row(plan, order, user=f"u{i}", start=start)
    for i in range(12)
    for plan, order, start in (
        (TO_HOTEL, "酒店", SOON),
        (AT_HOTEL, "酒店", SOON),
        (TICKETS, "门票", LATER),
    )
]


@cache
def fitted(name: str) -> Floor:
    return ALL_FLOORS[name](ROWS, LIBRARY, InputMode.FULL)


@pytest.mark.parametrize("name", FITTED)
def test_what_the_context_decides_is_learnt(name: str) -> None:
    texts = fitted(name).predict(ROWS)
    wanted = [parse_plan(sample.raw_labels) for sample in ROWS]
    if name == "gradient_boosting_first":
        wanted = [plan[:1] for plan in wanted]
    assert [parse_plan(text) for text in texts] == wanted


@pytest.mark.parametrize("name", FITTED)
def test_neither_labels_nor_the_order_of_rows_matter(name: str) -> None:
    shuffled = ALL_FLOORS[name](ROWS[::-1], LIBRARY, InputMode.FULL)
    unlabelled = [sample.with_label("") for sample in ROWS]
    assert shuffled.predict(unlabelled) == fitted(name).predict(ROWS)


@pytest.mark.parametrize("name", FITTED)
def test_one_by_one_is_all_at_once(name: str) -> None:
    floor = fitted(name)
    assert [floor.plan_for(sample) for sample in ROWS[:3]] == floor.predict(ROWS[:3])
    assert floor.predict([]) == []


@pytest.mark.parametrize("name", ALL_FLOORS)
def test_the_history_mode_hides_the_context_or_the_floor_is_refused(
    name: str, world_rows: list[Sample]
) -> None:
    if name in CONTEXT_FLOORS:
        with pytest.raises(GplanError, match=f"{name}.*history mode"):
            ALL_FLOORS[name](world_rows, LIBRARY, InputMode.HISTORY)
        return
    floor = ALL_FLOORS[name](world_rows, LIBRARY, InputMode.HISTORY)
    other = [
        dataclasses.replace(sample, trigger_1="加油", trigger_4="p_1", current_tag="公园")
        for sample in world_rows
    ]
    assert floor.predict(other) == floor.predict(world_rows)


@pytest.mark.parametrize("name", FITTED)
def test_strange_rows_have_an_answer(name: str) -> None:
    floor = fitted(name)
    bare = Sample.from_context({"id": "x", "currenttime": "2026-01-05 08:00:00"})
    strange = dataclasses.replace(
        ROWS[0], trigger_1="火箭", current_tag="月球", short_term_behavior_seq="?, ??"
    )
    assert all(parse_plan(text) for text in floor.predict([bare, strange]))
    with pytest.raises(GplanError, match="currenttime is empty"):
        floor.plan_for(dataclasses.replace(bare, currenttime=""))


@pytest.mark.parametrize("name", FITTED)
def test_rows_without_a_usable_plan_are_left_out_and_only_them_refused(name: str) -> None:
    foreign = row([{"工具名称": "tool_99"}, WEATHER, CARD], user="v")
    floor = ALL_FLOORS[name]([*ROWS, row([]), foreign], LIBRARY, InputMode.FULL)
    assert floor.predict(ROWS) == fitted(name).predict(ROWS)
    with pytest.raises(GplanError, match="nothing to fit"):
        ALL_FLOORS[name]([row([]), foreign], LIBRARY, InputMode.FULL)


@pytest.mark.parametrize("name", FITTED)
def test_a_single_row_is_enough(name: str) -> None:
    text = ALL_FLOORS[name](ROWS[:1], LIBRARY, InputMode.FULL).plan_for(ROWS[2])
    assert parse_plan(text)[0] == RIDE


@pytest.mark.parametrize("name", ["context_table", "nearest_neighbours", "gradient_boosting"])
def test_a_label_that_breaks_a_rule_is_no_answer(name: str) -> None:
    broken = [dataclasses.replace(s, raw_labels=canonical_plan([RIDE] * 3)) for s in ROWS]
    floor = ALL_FLOORS[name]([*broken, *ROWS[:1]], LIBRARY, InputMode.FULL)
    assert all(check_plan(text, LIBRARY) == [] for text in floor.predict(ROWS[:4]))
    if name != "gradient_boosting":
        with pytest.raises(GplanError, match="breaks a rule"):
            ALL_FLOORS[name](broken, LIBRARY, InputMode.FULL)


def test_the_context_table_backs_off_where_it_saw_few_rows() -> None:
    table = ContextTable.fit([*ROWS, row(AT_HOTEL, start=LATER)], LIBRARY)
    # One row of a cell is not believed: eleven others at their hotel are, at another time.
    assert parse_plan(table.plan_for(row(AT_HOTEL, start=LATER))) == AT_HOTEL
    assert parse_plan(table.plan_for(row([], start=LATER))) == TO_HOTEL
    # An order type never seen: the plan of all rows; 12 each, and the card (13) has most.
    assert parse_plan(table.plan_for(row([], "加油"))) == AT_HOTEL


def test_the_context_table_tells_times_apart() -> None:
    rows = [row(TO_HOTEL, start=SOON)] * 5 + [row(TICKETS, start=LATER)] * 6
    table = ContextTable.fit(rows, LIBRARY)
    assert parse_plan(table.plan_for(row([], start=SOON))) == TO_HOTEL
    assert parse_plan(table.plan_for(row([], start=LATER))) == TICKETS
    assert parse_plan(table.plan_for(row([]))) == TICKETS


@given(st.dictionaries(st.lists(st.integers(0, 3), max_size=3).map(tuple), st.floats(0.5, 2),
                       min_size=1, max_size=8))  # fmt: skip
def test_a_voted_plan_is_one_of_those_voted_for(votes: dict[tuple[int, ...], float]) -> None:
    assert voted_plan(votes, ATOMS) in votes


def test_votes_go_intent_by_intent() -> None:
    # The most frequent plan is (1,), yet more plans begin with 0, and most of those go on to 2.
    votes = {(1,): 3.0, (0, 2): 1.0, (0, 2, 3): 1.5, (0, 1): 2.0}
    assert voted_plan(votes, ATOMS) == (0, 2, 3)


def test_boosted_plans_pass_the_filter_whatever_the_scores() -> None:
    """Scores at random in place of the classifiers': the rules alone keep plans valid."""

    class Noise:
        def scores(self, table: np.ndarray) -> np.ndarray:
            return np.random.default_rng(len(table)).normal(size=(len(table), ATOMS.count + 1))

    floor = fitted("gradient_boosting")
    assert isinstance(floor, GradientBoosting)
    noisy = dataclasses.replace(floor, first=Noise(), following=Noise())
    plans = noisy.predict(ROWS)
    assert len(set(plans)) > 20
    assert all(check_plan(plan, LIBRARY) == [] for plan in plans)


@given(st.lists(st.integers(0, ATOMS.count - 1), max_size=9))
def test_boosting_and_the_networks_have_the_same_rules(plan: Sequence[int]) -> None:
    rules, mask = plan_rules(LIBRARY, ATOMS.intents), plan_mask(ATOMS)
    state = initial_state(mask, 1)
    for atom in plan:
        state = taken(mask, state, np.array([atom]))
    [ways] = np.asarray(open_actions(mask, state))
    assert open_now(plan, rules) == np.flatnonzero(ways).tolist()


def test_a_rare_action_ranks_behind_every_class_but_can_be_taken() -> None:
    actions = np.array([0] * 10 + [1] * 10 + [2] * 3)
    table = np.arange(23.0)[:, None]
    choice = Choice.fit(table, actions, [False], 4)
    scores = choice.scores(table)
    assert choice.classes == (0, 1)
    assert (scores[:, :2] >= 0).all() and (scores[:, 3] < scores[:, 2]).all()
    assert (scores[:, 2] < 0).all()


def test_a_column_weighs_what_it_tells_of_the_first_intent() -> None:
    # The first intent itself: ln 2 nats, less (2 - 1)(2 - 1) / 2N. A constant tells nothing.
    firsts = np.array([3, 7] * 50)
    assert _corrected_information(firsts, firsts) == pytest.approx(math.log(2) - 1 / 200)
    assert _corrected_information(np.zeros(100, int), firsts) == 0


def test_the_number_of_neighbours_is_chosen_and_ends_with_the_rows() -> None:
    floor = fitted("nearest_neighbours")
    assert isinstance(floor, NearestNeighbours)
    assert floor.k in (5, 10, 20, 40)


@pytest.mark.parametrize("name", [n for n in FITTED if n != "context_table"])
def test_without_scikit_learn_the_extra_is_named(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "sklearn.ensemble", None)
    monkeypatch.setitem(sys.modules, "sklearn.neighbors", None)
    with pytest.raises(GplanError, match=r"gplan-jax\[baselines\]"):
        ALL_FLOORS[name](ROWS, LIBRARY, InputMode.FULL)
