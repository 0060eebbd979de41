from __future__ import annotations

import random
from collections import Counter
from pathlib import Path

from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.foundation.files import read_jsonl
from gplan_jax.gsisr import IntentLibrary, Label, Sample, Violation, canonical_plan, parse_plan
from gplan_jax.synthesis.factory.synthesize import Order, synthesize
from gplan_jax.synthesis.factory.verdicts import TIERS, broken_rules, verdict
from gplan_jax.synthesis.world.faults import BROKEN_REASONING, CODES, plant_fault
from gplan_jax.synthesis.world.simulation import simulate_rows

LIBRARY = IntentLibrary.load()
ROWS = list(simulate_rows(60, seed=7))
ALL_CODES = [*CODES, BROKEN_REASONING]


@given(st.sampled_from(ROWS), st.sampled_from(ALL_CODES), st.integers(0, 10_000))
def test_every_planted_fault_is_found_and_named(good: Sample, code: str, seed: int) -> None:
    raw = plant_fault(good.raw_labels, code, LIBRARY, random.Random(seed))
    faults = verdict(good.with_label(raw), LIBRARY)
    assert not isinstance(faults, Label) and code in {fault.code for fault in faults}
    removal = broken_rules(raw, faults)
    first = min(TIERS.index(fault.tier) for fault in faults)
    assert removal.tier == TIERS[first] and removal.raw == raw
    assert len(removal.messages) == len(faults)


@given(st.sampled_from(ROWS), st.booleans())
def test_no_valid_plan_is_removed(good: Sample, bare: bool) -> None:
    plan = parse_plan(good.raw_labels, LIBRARY)
    label = canonical_plan(plan, LIBRARY) if bare else good.raw_labels
    found = verdict(good.with_label(label), LIBRARY)
    assert isinstance(found, Label) and (found.plan, found.text) == (plan, label)


def test_the_first_tier_that_fails_names_the_removal() -> None:
    faults = [
        Violation("schema", "unknown_tool", "b"),
        Violation("format", "too_short", "a"),
        Violation("logic", "repeated_intent", "c"),
    ]
    removal = broken_rules("raw", faults)
    assert (removal.tier, removal.code, removal.messages) == (
        "format",
        "too_short",
        ("b", "a", "c"),
    )


def test_the_filter_removes_what_the_worlds_teacher_gets_wrong_and_nothing_else(
    tmp_path: Path,
) -> None:
    report = synthesize(Order(tmp_path / "rows.csv", rows=1500, seed=2), LIBRARY).report
    # 28.9% of about 2,100 answers, within four standard deviations.
    assert 0.245 < report.filtered < 0.333
    assert report.tier("duplicate") == report.tier("answer") == 0
    codes = Counter(line["code"] for line in read_jsonl(tmp_path / "rows.removed.jsonl"))
    assert set(codes) == set(ALL_CODES)
    assert not any("planted" in o for o in read_jsonl(tmp_path / "rows.origin.jsonl"))
