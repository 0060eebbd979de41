"""`gplan abtest` as a user meets it."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gplan_jax.abtest import estimates
from gplan_jax.cli.main import app
from gplan_jax.foundation import GplanError, RowError
from gplan_jax.foundation.buckets import Experiment

CONFIG = """name: homepage
arms: {control: 0.4, gplan: 0.4}
control: control
start: 2026-11-02
planned_days: 5
"""


def abtest(*arguments: object) -> str:
    """Runs the command; GplanError is what main would print."""
    result = CliRunner().invoke(
        app, ["abtest", *map(str, arguments)], catch_exceptions=False, env={"COLUMNS": "160"}
    )
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("command", ["analyse", "power", "simulate", "assign"])
def test_help_has_an_example(command: str) -> None:
    assert "Example: gplan abtest" in abtest(command, "--help")


def test_from_a_simulated_log_to_a_summary(tmp_path: Path) -> None:
    log, out, config = tmp_path / "log.csv", tmp_path / "out", tmp_path / "experiment.yaml"
    config.write_text(CONFIG, encoding="utf-8")
    options = ("--users", 1500, "--days", 5, "--before", 3, "--lift", 0.5, "--log-out", log)
    assert f"gplan abtest analyse --log {log} --start 2026-11-02" in abtest("simulate", *options)
    shown = abtest("analyse", "--log", log, "--config", config, "--sequential", "--out", out)
    assert "gplan: better (the bound was crossed on" in shown
    assert f"The analysis is in {out}: summary.json, summary.md." in shown
    summary = json.loads((out / "summary.json").read_text(encoding="utf-8"))
    assert summary["experiment"]["name"] == "homepage"
    assert len(summary["sequential"]["gplan"]["looks"]) == 5
    with pytest.raises(GplanError, match="never overwritten"):
        abtest("analyse", "--log", log, "--config", config, "--out", out)
    with pytest.raises(GplanError, match="never overwritten"):
        abtest("simulate", *options)
    with pytest.raises(GplanError, match="the config names its control"):
        other = tmp_path / "other"
        abtest("analyse", "--log", log, "--config", config, "--control", "x", "--out", other)
    with pytest.raises(GplanError, match="start: Input should be a valid date"):
        abtest("analyse", "--log", log, "--start", "monday", "--out", tmp_path / "other")
    with pytest.raises(GplanError, match="planed_days: unknown key; did you mean planned_days"):
        options = ("--set", "planed_days=3", "--out", tmp_path / "other")
        abtest("analyse", "--log", log, "--config", config, *options)


def test_power_says_users_and_days() -> None:
    shown = abtest("power", "--baseline", 0.3, "--users-per-day", 100000)
    assert "lift of +0.87% on 30.00% (+0.261 points)" in shown
    assert "967,84" in shown and "days   10, at 100,000 new users a day" in shown
    assert "with 14 daily looks" in abtest("power", "--baseline", 0.3, "--looks", 14)


def test_simulations_write_their_figures(tmp_path: Path) -> None:
    options = ("--experiments", 5, "--users", 200, "--days", 3, "--sequential")
    shown = abtest("simulate", *options, "--out", tmp_path / "aa.json")
    assert "False positives of 5 A/A tests, 200 users, 3 days" in shown and "peeking" in shown
    found = json.loads((tmp_path / "aa.json").read_text(encoding="utf-8"))
    assert found["false_positives"]["uv_ctr"]["of"] == 5 and found["options"]["days"] == 3
    abtest("simulate", "--experiments", 5, "--lift", 0.1, "--out", tmp_path / "lift.json")
    found = json.loads((tmp_path / "lift.json").read_text(encoding="utf-8"))
    assert set(found) == {"options", "need", "found"}
    with pytest.raises(GplanError, match=r"written as \.csv"):
        abtest("simulate", "--log-out", tmp_path / "log.parquet")


def test_assign_gives_the_servers_arms(tmp_path: Path) -> None:
    config, users, out = (tmp_path / name for name in ("e.yaml", "ids.txt", "arms.csv"))
    config.write_text(CONFIG, encoding="utf-8")
    ids = [*map(str, range(50)), "用户"]
    users.write_text("\n".join(ids) + "\n", encoding="utf-8")
    shown = abtest("assign", "--config", config, "--users", users, "--out", out)
    assert "The arms of 51 users" in shown and "(none)" in shown
    experiment = Experiment(name="homepage", arms={"control": 0.4, "gplan": 0.4}, control="control")
    with out.open(encoding="utf-8") as lines:
        assert list(csv.DictReader(lines)) == [
            {"user": u, "arm": experiment.assign(u) or "", "user_hash": experiment.pseudonym(u)}
            for u in ids
        ]
    with pytest.raises(GplanError, match="never overwritten"):
        abtest("assign", "--config", config, "--users", users, "--out", out)
    users.write_text("1\n\n2\n", encoding="utf-8")
    with pytest.raises(RowError, match=r"ids.txt, row 2: the line is empty"):
        abtest("assign", "--config", config, "--users", users, "--out", tmp_path / "more.csv")
    assert not (tmp_path / "more.csv").exists()


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "tea_tasting", None)
    with pytest.raises(GplanError, match=r"pip install 'gplan-jax\[abtest\]'"):
        estimates.import_tea_tasting()
    with pytest.raises(GplanError, match=r"pip install 'gplan-jax\[abtest\]'"):
        abtest("power", "--baseline", 0.3)
