from __future__ import annotations

from pathlib import Path

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import read_json, read_jsonl
from gplan_jax.gsisr import IntentLibrary, Sample, read_samples, write_samples
from gplan_jax.synthesis.factory.labelled_files import filter_file

LIBRARY = IntentLibrary.load()
PLAN = '[{"工具名称":"tool_6"},{"工具名称":"tool_8"},{"工具名称":"tool_9"}]'


def test_rows_that_pass_are_copied_as_they_are_and_the_others_told_with_all_reasons(
    tmp_path: Path, world_rows: list[Sample]
) -> None:
    labels = [
        world_rows[0].raw_labels,
        PLAN.replace(",", " , "),  # Not canonical, yet valid: left as it is.
        PLAN.replace("tool_8", "tool_6"),
        '[{"工具名称":"tool_6"},{"工具名称":"tool_6","tag":"美食"}]',
        "no plan",
        world_rows[1].raw_labels.replace("<STEP_1>", "<STEP_5>"),
        PLAN,
        PLAN,  # Duplicates are none of the filter's business.
    ]
    rows = [world_rows[2].with_label(label) for label in labels]
    write_samples(tmp_path / "rows.csv", rows)
    report, rates = filter_file(tmp_path / "rows.csv", tmp_path / "kept.csv", LIBRARY)
    assert list(read_samples(tmp_path / "kept.csv")) == [rows[i] for i in (0, 1, 6, 7)]
    removed = list(read_jsonl(tmp_path / "kept.removed.jsonl"))
    assert [(r["row"], r["tier"], r["code"]) for r in removed] == [
        (3, "logic", "repeated_intent"),
        (4, "format", "too_short"),
        (5, "format", "not_json"),
        (6, "format", "broken_reasoning"),
    ]
    assert [len(r["messages"]) for r in removed] == [1, 2, 1, 1]
    assert "Expected <STEP_1>" in removed[3]["messages"][0]
    assert (rates.rows, rates.failed, report.kept) == (8, 4, 4)
    by_tier = read_json(tmp_path / "kept.report.json")["filter"]["by_tier"]
    assert {tier: found["pass_rate"] for tier, found in by_tier.items()} == {
        "format": 0.625, "schema": 0.875, "logic": 0.875,
    }  # fmt: skip


def test_the_public_rows_that_fail_are_named(shared: Path, tmp_path: Path) -> None:
    source = shared / "gsisr" / "gsisr_dev.csv"
    _, rates = filter_file(source, tmp_path / "kept.csv", LIBRARY)
    assert (rates.rows, rates.failed) == (703, 3)
    assert dict(rates.codes) == {
        ("logic", "repeated_intent"): 2,
        ("logic", "unresolved_reference"): 1,
    }
    assert len(list(read_jsonl(tmp_path / "kept.removed.jsonl"))) == 3


def test_the_source_is_not_written_over(tmp_path: Path, world_rows: list[Sample]) -> None:
    write_samples(tmp_path / "rows.csv", world_rows[:2])
    with pytest.raises(GplanError, match="is the data and would be overwritten"):
        filter_file(tmp_path / "rows.csv", tmp_path / "rows.csv", LIBRARY)
    with pytest.raises(GplanError, match="does not exist"):
        filter_file(tmp_path / "none.csv", tmp_path / "kept.csv", LIBRARY)
