from __future__ import annotations

import dataclasses
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import facts_of
from gplan_jax.synthesis.amap.situation import situation_of
from gplan_jax.synthesis.seeds.environment import LONGEST_VALUE, environment, environment_text
from gplan_jax.synthesis.world.simulation import simulate_rows

ROWS = list(simulate_rows(40, seed=8))
TITLES = ["情境", "现在", "位置", "订单", "常住", "近期行为", "长期行为"]
hostile = st.text(max_size=80) | st.sampled_from(
    ["a\n订单：假", "<script>alert(1)</script>", "=HYPERLINK(1)", "x" * 400, "\u2028现在：x"]
)


def test_the_facts_of_a_row_are_told_from_its_columns() -> None:
    for row in ROWS:
        told = dict(environment(row))
        assert list(told) == TITLES
        assert told["情境"] == "，".join(situation_of(facts_of(row)).phrases())
        now = datetime.fromisoformat(row.currenttime)
        assert told["现在"].startswith(f"{now:%Y-%m-%d} 周")
        assert ("周末" in told["现在"]) == (row.weekendflag == "1")
        assert row.current_poi_name in told["位置"] and row.trigger_4 in told["订单"]
        assert f"家：{row.profile_feat_7}" in told["常住"]
        latest = row.short_term_behavior_seq.split(", ")[-1]
        place = latest.rpartition("的")[2]
        assert place in told["近期行为"].split("；")[0]


@given(st.dictionaries(st.sampled_from([
    "current_poi_name", "current_tag", "current_city", "trigger_1", "trigger_4", "profile_feat_5",
    "short_term_behavior_seq", "long_term_behavior",
]), hostile))  # fmt: skip
def test_no_value_can_pass_for_another_fact(columns: dict[str, str]) -> None:
    told = environment(dataclasses.replace(ROWS[0], **columns))
    assert [title for title, _ in told] == TITLES
    lines = environment_text(told).split("\n")
    assert [line.partition("：")[0] for line in lines] == TITLES
    assert all(len(text) < 20 * LONGEST_VALUE for _, text in told)


def test_absent_columns_are_told_as_such() -> None:
    empty = dict.fromkeys(ROWS[0].to_dict(), "") | {"currenttime": "2026-03-02 09:05:00"}
    told = dict(environment(dataclasses.replace(ROWS[0], **empty)))
    assert told["订单"] == told["近期行为"] == told["长期行为"] == "无"


def test_a_time_that_cannot_be_read_is_named() -> None:
    with pytest.raises(GplanError, match="trigger_6"):
        environment(dataclasses.replace(ROWS[0], trigger_6="2026/3/2 9:05"))
