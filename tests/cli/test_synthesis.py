from __future__ import annotations

import csv
from pathlib import Path

import pytest

from gplan_jax.cli.synthesis import explain, synthesize
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import read_samples


def test_synthesize_writes_rows_and_rows_of_other_users(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthesize(rows=30, out=tmp_path / "world.jsonl", seed=2, test_rows=10)
    rows = list(read_samples(tmp_path / "world.jsonl"))
    others = list(read_samples(tmp_path / "world_test.jsonl"))
    assert (len(rows), len(others)) == (30, 10)
    assert not {row.id for row in rows} & {row.id for row in others}
    said = capsys.readouterr().out
    assert str(tmp_path / "world.jsonl") in said and str(tmp_path / "world_test.jsonl") in said


def test_explain_says_where_the_rows_are_and_which_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthesize(rows=3, out=tmp_path / "in.csv")
    with (tmp_path / "in.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    rows[2][-1] = ""
    with (tmp_path / "in.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    capsys.readouterr()
    explain(data=tmp_path / "in.csv", out=tmp_path / "out.csv", on_error="skip")
    printed = capsys.readouterr()
    assert f"2 rows with reasoning are in {tmp_path / 'out.csv'}" in printed.out
    assert "1 skipped" in printed.out and "row 2, column raw_labels" in printed.err


def test_explain_stops_at_a_faulty_row_unless_told_to_skip(tmp_path: Path) -> None:
    synthesize(rows=2, out=tmp_path / "in.csv")
    text = (tmp_path / "in.csv").read_text(encoding="utf-8").replace("tool_", "tool_9", 1)
    (tmp_path / "in.csv").write_text(text, encoding="utf-8")
    with pytest.raises(GplanError, match="row 1, column raw_labels"):
        explain(data=tmp_path / "in.csv", out=tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()
