from __future__ import annotations

import random
from collections import Counter
from typing import Any

import pytest

from gplan_jax.gsisr.facts import place_kind
from gplan_jax.synthesis.world.calibration import (
    Shares,
    draw,
    draw_quantile,
    has,
    quantile_at,
    shares,
    tables,
)
from tests.synthesis.situations import values


def test_shares_by_hand() -> None:
    found = Shares.of({"a": 1.0, "b": 3.0})
    assert [found.at(level) for level in (0.0, 0.2499, 0.25, 0.99)] == ["a", "a", "b", "b"]
    drawn = Counter(found.draw(random.Random(i)) for i in range(2000))
    assert drawn["b"] / 2000 == pytest.approx(0.75, abs=0.04)


def test_quantiles_lie_on_straight_lines() -> None:
    table = tables()["habit_counts"]["0"]
    assert quantile_at(0, "habit_counts", "0") == table[0]
    assert quantile_at(1, "habit_counts", "0") == table[-1]
    step = 1 / (len(table) - 1)
    assert quantile_at(step * 4.5, "habit_counts", "0") == pytest.approx((table[4] + table[5]) / 2)
    drawn = [draw_quantile(random.Random(i), "habit_counts", "0") for i in range(300)]
    assert table[0] <= min(drawn) and max(drawn) <= table[-1]


def test_tables_that_go_together_have_the_same_keys() -> None:
    orders = set(tables()["order_types"])
    for name in ("distances", "hours", "phases", "order_age", "order_categories", "styles"):
        assert set(tables()[name]) == orders, name
    phases = {phase for table in tables()["phases"].values() for phase in table}
    assert (
        phases <= {phase.upper() for phase in values("phase")}
        and set(tables()["order_known"]) == phases
    )
    styles = {style for table in tables()["styles"].values() for style in table}
    for style in styles:
        assert has("again", style) and has("next_gap", f"{style} start")
        assert has("localities", f"{style} other none")
    kinds = {kind for table in tables()["place_kinds"].values() for kind in table}
    assert kinds <= set(tables()["place_categories"]) and kinds <= set(tables()["place_kind_lift"])


def test_categories_are_filed_under_their_kind() -> None:
    for name in ("place_categories", "behavior_categories", "habit_categories"):
        for kind, words in tables()[name].items():
            assert all(place_kind(word) == kind for word in words)


def test_nothing_in_the_tables_names_a_place_a_user_or_a_date() -> None:
    def texts(value: Any) -> list[str]:
        if isinstance(value, dict):
            return [text for key, part in value.items() for text in (str(key), *texts(part))]
        if isinstance(value, list):
            return [text for part in value for text in texts(part)]
        return [value] if isinstance(value, str) else []

    for text in texts(tables()):
        assert not text.startswith("p_") and "202" not in text and len(text) <= 50
        assert not text.isdigit() or len(text) <= 4 or {*text} <= {"0", "1"}


def test_a_part_of_a_table_is_drawn_from() -> None:
    generator = random.Random(0)
    assert draw(generator, "distances", "酒店") in shares("distances", "酒店").values
    assert not has("distances", "打车")
