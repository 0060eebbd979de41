from __future__ import annotations

import dataclasses
import random
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation.files import read_jsonl
from gplan_jax.gsisr import IntentLibrary, Label, Sample, Violation, canonical_plan, parse_plan
from gplan_jax.synthesis.factory.output_files import TIERS, Duplicates, Removal, check_label
from gplan_jax.synthesis.factory.synthesize import SynthesisSettings, synthesize
from gplan_jax.synthesis.world.faults import BROKEN_REASONING, CODES, plant_fault
from gplan_jax.synthesis.world.simulation import simulate_rows

LIBRARY = IntentLibrary.load()
ROWS = list(simulate_rows(60, seed=7))
ALL_CODES = [*CODES, BROKEN_REASONING]


@given(st.sampled_from(ROWS), st.sampled_from(ALL_CODES), st.integers(0, 10_000))
def test_every_planted_fault_is_found_and_named(good: Sample, code: str, seed: int) -> None:
    raw = plant_fault(good.raw_labels, code, LIBRARY, random.Random(seed))
    faults = check_label(good.with_label(raw), LIBRARY)
    assert not isinstance(faults, Label) and code in {fault.code for fault in faults}
    removal = Removal.of_faults(raw, faults)
    first = min(TIERS.index(fault.tier) for fault in faults)
    assert removal.tier == TIERS[first] and removal.raw == raw
    assert len(removal.messages) == len(faults)


@given(st.sampled_from(ROWS), st.booleans())
def test_no_valid_plan_is_removed(good: Sample, bare: bool) -> None:
    plan = parse_plan(good.raw_labels, LIBRARY)
    label = canonical_plan(plan, LIBRARY) if bare else good.raw_labels
    found = check_label(good.with_label(label), LIBRARY)
    assert isinstance(found, Label) and (found.plan, found.text) == (plan, label)


def test_the_first_tier_that_fails_names_the_removal() -> None:
    faults = [
        Violation("schema", "unknown_tool", "b"),
        Violation("format", "too_short", "a"),
        Violation("logic", "repeated_intent", "c"),
    ]
    removal = Removal.of_faults("raw", faults)
    assert (removal.tier, removal.code, removal.messages) == (
        "format",
        "too_short",
        ("b", "a", "c"),
    )


def test_the_filter_removes_what_the_worlds_teacher_gets_wrong_and_nothing_else(
    tmp_path: Path,
) -> None:
    settings = SynthesisSettings(tmp_path / "rows.csv", rows=1500, seed=2)
    report = synthesize(settings, LIBRARY).report
    # 28.9% of about 2,100 answers, within four standard deviations.
    assert 0.245 < report.filtered < 0.333
    assert report.tier("duplicate") == report.tier("answer") == 0
    codes = Counter(line["code"] for line in read_jsonl(tmp_path / "rows.removed.jsonl"))
    assert set(codes) == set(ALL_CODES)
    assert not any("planted" in o for o in read_jsonl(tmp_path / "rows.origin.jsonl"))


@pytest.mark.parametrize(
    ("changes", "found"),
    [
        ({}, ("exact", 1)),
        ({"raw_labels": "other words for the same plan"}, ("exact", 1)),
        ({"id": "another"}, ("near", 1)),
        ({"currenttime": "2026-04-01 12:59:59"}, ("near", 1)),
        ({"trigger_5": "2026-03-30 08:00:01"}, ("near", 1)),
        ({"long_term_behavior": "  a  b c"}, ("near", 1)),
        ({"currenttime": "2026-04-01 13:00:00"}, None),
        ({"currenttime": "2026-04-02 12:00:00"}, None),
        ({"long_term_behavior": "a b d"}, None),
        ({"profile_feat_5": "重庆市"}, None),
        ({"current_poi_name": "p_1"}, None),
        ({"trigger_4": "p_2"}, None),
        ({"weekendflag": "1"}, None),
    ],
)
def test_which_changes_of_a_context_make_another_row(
    changes: dict[str, str], found: tuple[str, int] | None, world_rows: list[Sample]
) -> None:
    row = dataclasses.replace(
        world_rows[0],
        currenttime="2026-04-01 12:10:00",
        trigger_5="2026-03-30 08:30:00",
        long_term_behavior="a b c",
        weekendflag="0",
    )
    plan = parse_plan(row.raw_labels)
    duplicates = Duplicates()
    assert duplicates.find(1, row, plan) is None
    assert duplicates.find(2, dataclasses.replace(row, **changes), plan) == found


def test_another_plan_in_the_same_context_is_another_row(world_rows: list[Sample]) -> None:
    duplicates, plan = Duplicates(), parse_plan(world_rows[0].raw_labels)
    assert duplicates.find(1, world_rows[0], plan) is None
    assert duplicates.find(2, world_rows[0], plan[:-1]) is None
    assert duplicates.find(3, world_rows[0], plan[:-1]) == ("exact", 2)
    reordered = [dict(reversed(intent.items())) for intent in plan]
    assert duplicates.find(4, world_rows[0], reordered) == ("exact", 1)


def test_different_rows_are_told_apart(world_rows: list[Sample]) -> None:
    duplicates = Duplicates()
    found = [
        duplicates.find(number, row, parse_plan(row.raw_labels))
        for number, row in enumerate([*world_rows, *world_rows])
    ]
    half = len(world_rows)
    assert found[:half] == [None] * half and all(found[half:])
