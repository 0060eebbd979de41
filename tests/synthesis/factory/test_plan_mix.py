from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from gplan_jax.gsisr import IntentLibrary, Plan, Sample, parse_plan, write_samples
from gplan_jax.synthesis.factory.factory_report import PlanMix, distance, shares

LIBRARY = IntentLibrary.load()
FOOD = {"工具名称": "tool_7", "tag": "美食"}
SIGHTS = {"工具名称": "tool_5", "起始位置": "当前位置", "空间范围": "附近", "tag": "景点"}
WEATHER = {"工具名称": "tool_9"}
PLANS: list[Plan] = [[FOOD, WEATHER, SIGHTS], [FOOD, SIGHTS, WEATHER, {"工具名称": "tool_8"}]]


def test_lengths_tools_and_tags_are_counted_over_all_intents() -> None:
    values = PlanMix.of_plans(PLANS, LIBRARY).to_dict(LIBRARY)
    assert values["rows"] == 2 and values["plan_lengths"] == {"3": 1, "4": 1}
    assert values["tools"] == {
        "tool_5": 0.2857, "tool_7": 0.2857, "tool_8": 0.1429, "tool_9": 0.2857,
    }  # fmt: skip
    assert values["tags"] == {"美食": 0.5, "景点": 0.5}


@pytest.mark.parametrize(
    ("mine", "others", "expected"),
    [
        ({"a": 1}, {"a": 5}, 0.0),
        ({"a": 3}, {"b": 1}, 1.0),
        ({"a": 1, "b": 1}, {"a": 3, "b": 1}, 0.25),
        ({"a": 1, "b": 1}, {"a": 1, "c": 1}, 0.5),
        ({}, {"a": 1}, None),
    ],
)
def test_the_distance_of_two_mixes(
    mine: dict[str, int], others: dict[str, int], expected: float | None
) -> None:
    assert distance(mine, others) == distance(others, mine) == expected


@pytest.mark.parametrize(
    ("lengths", "expected"),
    [
        ({4: 9, 6: 1}, 6),
        ({4: 8, 5: 1, 6: 1}, 7),
        ({4: 89, 5: 11}, 7),
        ({9: 1}, 11),
        ({}, None),
    ],
)
def test_b_star_covers_nine_rows_of_ten(lengths: dict[int, int], expected: int | None) -> None:
    assert PlanMix(Counter(lengths)).suggested_target_blocks() == expected


def test_the_mix_of_a_file_leaves_out_rows_without_a_plan(
    tmp_path: Path, world_rows: list[Sample]
) -> None:
    rows = world_rows[:6]
    write_samples(tmp_path / "rows.csv", [*rows, rows[0].with_label(""), rows[1].with_label("x")])
    plans = [parse_plan(row.raw_labels, LIBRARY) for row in rows]
    found = PlanMix.of_file(tmp_path / "rows.csv", LIBRARY)
    assert found == PlanMix.of_plans(plans, LIBRARY)


def test_shares_keep_the_order_asked_for() -> None:
    assert list(shares({"b": 1, "c": 2, "a": 1}, ("c", "x", "b")).items()) == [
        ("c", 0.5), ("b", 0.25), ("a", 0.25),
    ]  # fmt: skip
