from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gplan_jax.cli.main import app
from gplan_jax.cli.synthesis import counterfactuals, explain, synthesize
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, read_context_pairs, read_samples


def test_synthesize_writes_rows_and_rows_of_other_users(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthesize(rows=40, out=tmp_path / "world.jsonl", seed=2, test_fraction=0.25)
    rows = list(read_samples(tmp_path / "world.jsonl"))
    others = list(read_samples(tmp_path / "world_test.jsonl"))
    assert len(rows) + len(others) == 40 and 1 < len(others) < 20
    assert not {row.id for row in rows} & {row.id for row in others}
    said = capsys.readouterr().out
    for name in ("world.jsonl", "world_test.jsonl", "world.removed.jsonl", "world.report.json"):
        assert str(tmp_path / name) in said and (tmp_path / name).is_file()


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


def test_counterfactuals_writes_pairs_and_says_what_became_of_the_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthesize(rows=30, out=tmp_path / "world.csv")
    capsys.readouterr()
    out, same = tmp_path / "pairs.jsonl", tmp_path / "same.jsonl"
    counterfactuals(data=tmp_path / "world.csv", out=out, unchanged=same, per_anchor=3, limit=20)
    said = capsys.readouterr().out
    library = IntentLibrary.load()
    pairs = list(read_context_pairs(out, library))
    equal = list(read_context_pairs(same, library, plans="equal"))
    assert f"{len(pairs)} pairs of 20 rows are in {out}" in said
    assert f"pairs with equal plans  {len(equal)}, in {same}" in said
    assert "other_city" in said and str(tmp_path / "pairs.report.json") in said
    report = json.loads((tmp_path / "pairs.report.json").read_text(encoding="utf-8"))
    assert report["candidates"]["pair"] == len(pairs) > 20
    assert report["candidates"]["equal"] == len(equal)


def test_counterfactuals_takes_a_spec_and_lists_what_it_skips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthesize(rows=5, out=tmp_path / "world.jsonl")
    rows = (tmp_path / "world.jsonl").read_text(encoding="utf-8").splitlines()
    broken = {**json.loads(rows[1]), "currenttime": "noon"}
    rows[1] = json.dumps(broken)
    (tmp_path / "world.jsonl").write_text("\n".join(rows), encoding="utf-8")
    spec = tmp_path / "spec.yaml"
    spec.write_text("other_city: {}\n", encoding="utf-8")
    capsys.readouterr()
    counterfactuals(
        data=tmp_path / "world.jsonl", out=tmp_path / "out.jsonl", spec=spec, on_error="skip"
    )
    printed = capsys.readouterr()
    assert "faults skipped          1 (1 rows with an unreadable time" in printed.out
    assert "other_district" not in printed.out
    assert "row 2" in printed.err and "'noon'" in printed.err
    spec.write_text("other_citi: {}\n", encoding="utf-8")
    with pytest.raises(GplanError, match="did you mean other_city"):
        counterfactuals(data=tmp_path / "world.jsonl", out=tmp_path / "out.jsonl", spec=spec)


def test_the_help_of_counterfactuals_shows_an_example() -> None:
    result = CliRunner().invoke(app, ["counterfactuals", "--help"])
    assert result.exit_code == 0
    assert "Example: gplan counterfactuals --data world.csv --out pairs.jsonl" in result.output
