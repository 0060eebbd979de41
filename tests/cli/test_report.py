"""`gplan report`: the file it writes, what it says and refuses."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from gplan_jax.cli.baseline import report
from gplan_jax.cli.main import app
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import Sample
from tests.evaluation.report.runs import write_run


def test_a_report_of_two_runs(
    tmp_path: Path, world_rows: list[Sample], capsys: pytest.CaptureFixture[str]
) -> None:
    arms = {"tiger": (0.9, 1), "trigger_table": (0.1, 1)}
    full = write_run(tmp_path / "full", world_rows, arms)
    history = write_run(tmp_path / "history", world_rows, arms, mode="history")
    out = tmp_path / "report.html"
    report(run=[str(full), f"old={history}"], out=out)
    said = capsys.readouterr().out
    assert f"The report is in {out}" in said and "beats the best floor" in said
    assert "Runs side by side" in out.read_text(encoding="utf-8")


def test_what_it_refuses(tmp_path: Path, world_rows: list[Sample]) -> None:
    run = write_run(tmp_path / "full", world_rows, {"trigger_table": (0.1, 1)})
    with pytest.raises(GplanError, match=r"two are called 'full'; name them apart, NAME=DIR"):
        report(run=[str(run), str(run)], out=tmp_path / "report.html")
    (run / "summary.json").unlink()
    with pytest.raises(GplanError, match=r"summary.json does not exist"):
        report(run=[str(run)], out=tmp_path / "report.html")
    assert not (tmp_path / "report.html").exists()
    (tmp_path / "mine.html").write_text("mine")
    with pytest.raises(GplanError, match=r"mine.html exists and is no report"):
        report(run=[str(run)], out=tmp_path / "mine.html")


def test_help_has_an_example() -> None:
    shown = CliRunner().invoke(app, ["report", "--help"]).output
    assert "gplan report --run run/baselines" in " ".join(shown.split())
