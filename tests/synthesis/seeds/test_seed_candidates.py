from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary
from gplan_jax.synthesis.seeds.seed_candidates import (
    LONGEST_VALUE,
    SeedCandidate,
    candidates_of,
    environment,
    environment_text,
    read_candidates,
    write_candidates,
)
from gplan_jax.synthesis.world.simulation import simulate_rows
from tests.synthesis.situations import AMAP


def test_candidates_are_read_as_they_were_written(
    tmp_path: Path, candidates: list[SeedCandidate], library: IntentLibrary
) -> None:
    write_candidates(tmp_path / "again.jsonl", candidates)
    assert read_candidates(tmp_path / "again.jsonl", library) == candidates
    assert all(c.stratum and c.facts and c.proposal.plan for c in candidates)


@pytest.mark.parametrize("copy", ["review.csv", "review.anna.csv"])
def test_they_are_found_beside_a_review_and_its_copies(review: Path, copy: str) -> None:
    assert candidates_of(review.with_name(copy)) == review.with_name("review.candidates.jsonl")


def test_a_review_without_its_candidates_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(GplanError, match=r"my\.final\.candidates\.jsonl nor .*my\.candidates"):
        candidates_of(tmp_path / "my.final.csv")


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda lines: lines[1].pop("plan"), "line 2"),
        (lambda lines: lines[2]["context"].pop("trigger_4"), "line 3"),
        (lambda lines: lines.pop(3), "missing or out of order"),
        (lambda lines: lines.reverse(), "missing or out of order"),
    ],
)
def test_a_damaged_file_is_refused(
    review: Path, library: IntentLibrary, damage: Callable[[list[Any]], object], said: str
) -> None:
    path = candidates_of(review)
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    damage(lines)
    text = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
    path.write_text(text, encoding="utf-8")
    with pytest.raises(GplanError, match=said):
        read_candidates(path, library)


ROWS = list(simulate_rows(40, seed=8))
TITLES = ["情境", "现在", "位置", "订单", "常住", "近期行为", "长期行为"]
hostile = st.text(max_size=80) | st.sampled_from(
    ["a\n订单：假", "<script>alert(1)</script>", "=HYPERLINK(1)", "x" * 400, "\u2028现在：x"]
)


def test_the_facts_of_a_row_are_told_from_its_columns() -> None:
    for row in ROWS:
        told = dict(environment(row))
        assert list(told) == TITLES
        assert told["情境"] == "，".join(AMAP.context(AMAP.tell(row)))
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
