from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from gplan_jax.foundation import GplanError, RowError
from gplan_jax.gsisr import (
    IntentLibrary,
    Sample,
    canonical_plan,
    facts_of,
    parse_plan,
    write_samples,
)
from gplan_jax.reasoning import split_response, write_trace
from gplan_jax.synthesis.teachers.seed_selection import read_seeds
from gplan_jax.synthesis.world.simulation import simulate_rows

ROWS = list(simulate_rows(20, seed=9))


def written(tmp_path: Path, rows: list[Sample]) -> Path:
    write_samples(tmp_path / "seeds.csv", rows)
    return tmp_path / "seeds.csv"


def test_seeds_are_read_whole(tmp_path: Path, library: IntentLibrary) -> None:
    seeds = read_seeds(written(tmp_path, ROWS), library)
    assert [seed.sample for seed in seeds] == ROWS
    for seed in seeds:
        label = write_trace(seed.trace) + canonical_plan(seed.plan, library)
        assert label == seed.sample.raw_labels
        facts = facts_of(seed.sample)
        assert seed.stratum == (facts.order_type, facts.order_distance)


def test_labels_come_in_canonical_writing(tmp_path: Path, library: IntentLibrary) -> None:
    loose = ROWS[0].raw_labels.replace(",", ", ").replace("</CONTEXT>", "</CONTEXT>\n")
    seed = read_seeds(written(tmp_path, [ROWS[0].with_label(loose)]), library)[0]
    thought, plan = split_response(seed.sample.raw_labels)
    assert ", " not in plan and thought is not None and "\n" not in thought
    assert parse_plan(plan) == seed.plan


@pytest.mark.parametrize(
    ("change", "column", "problem"),
    [
        ({"currenttime": "2026/3/2 9:05"}, None, "currenttime"),
        ({"raw_labels": ""}, "raw_labels", "label is empty"),
        ({"raw_labels": split_response(ROWS[1].raw_labels)[1]}, "raw_labels", "needs its reason"),
        ({"raw_labels": ROWS[1].raw_labels.replace("<STEP_2>", "<STEP_3>")}, "raw_labels", "STEP"),
        ({"raw_labels": ROWS[1].raw_labels.replace("tool_", "tool_x", 1)}, "raw_labels", "tool_x"),
    ],
)
def test_a_faulty_seed_is_named_with_row_and_mend(
    tmp_path: Path,
    library: IntentLibrary,
    change: dict[str, str],
    column: str | None,
    problem: str,
) -> None:
    rows = [ROWS[0], dataclasses.replace(ROWS[1], **change)]
    with pytest.raises(RowError, match="gplan seeds import") as error:
        read_seeds(written(tmp_path, rows), library)
    assert (error.value.row, error.value.column) == (2, column)
    assert problem in error.value.problem


def test_a_plan_that_breaks_a_logic_rule_is_no_seed(tmp_path: Path, library: IntentLibrary) -> None:
    thought, plan = split_response(ROWS[0].raw_labels)
    intents = parse_plan(plan)
    twice = canonical_plan([*intents[:-1], intents[0]], library)
    with pytest.raises(RowError, match=f"Intent {len(intents)} repeats intent 1"):
        read_seeds(written(tmp_path, [ROWS[0].with_label(f"{thought}{twice}")]), library)


def test_an_empty_seed_file_is_refused(tmp_path: Path, library: IntentLibrary) -> None:
    with pytest.raises(GplanError, match="empty data set"):
        read_seeds(written(tmp_path, []), library)
