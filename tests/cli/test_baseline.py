"""`gplan baseline` from the command line."""

from __future__ import annotations

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from gplan_jax.cli.main import app
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import Sample, write_samples

TOYS = Path(__file__).parents[1] / "evaluation" / "comparison"
FLOOR = "majority_first_intent"
QUICK = ["--folds", "2", "--seeds", "2", "--trials", "2"]


@pytest.fixture(autouse=True)
def _toys_for_networks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(TOYS))
    import toy_arms

    from gplan_jax.evaluation.comparison import known_arms

    monkeypatch.setattr(known_arms, "NETWORKS", toy_arms.NETWORKS)


def call(*arguments: str) -> Result:
    result = CliRunner().invoke(app, ["baseline", *arguments], env={"COLUMNS": "130"})
    if isinstance(result.exception, GplanError):
        raise result.exception
    return result


def test_a_comparison_ends_with_a_table_and_its_files(world_file: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    options = ["--data", str(world_file), "--out", str(out), *QUICK]
    result = call(f"toy, {FLOOR}", *options)
    assert result.exit_code == 0, result.output
    assert "The toy" in result.output and "Majority first intent" in result.output
    for line in (line.split() for line in result.output.splitlines() if str(out) in line):
        path = Path(next(word for word in line if word.startswith(str(out))).rstrip(","))
        assert path.exists() or path.name == "report.html"
    again = call("toy", *options)
    assert again.exit_code == 0 and "Majority first intent" in again.output
    with pytest.raises(GplanError, match=r"made with --folds 2 \(now 3\)"):
        call("toy", "--data", str(world_file), "--out", str(out), "--folds", "3", *QUICK[2:])


def test_two_files(world_rows: list[Sample], tmp_path: Path) -> None:
    ids = sorted({row.id for row in world_rows})[:10]
    train, test = tmp_path / "train.csv", tmp_path / "test.csv"
    write_samples(train, [row for row in world_rows if row.id not in ids])
    rows = [row for row in world_rows if row.id in ids]
    write_samples(test, [rows[0].with_label(""), *rows[1:]])
    options = ["--data", str(train), "--test", str(test), "--out", str(tmp_path / "out")]
    result = call(FLOOR, *options)
    assert result.exit_code == 0, result.output
    assert "1 rows, the first: test.csv, row 1 (id" in result.output
    assert f"{len(rows) - 1} rows of" in result.output
    assert "1 row without a plan: left out." in " ".join(result.output.split())


def test_failures_are_told_and_the_exit_code_says_so(world_file: Path, tmp_path: Path) -> None:
    result = call("failing", "--data", str(world_file), "--out", str(tmp_path / "out"), *QUICK)
    assert result.exit_code == 1
    [told] = re.findall(r"Failed: failing, (.*): the toy broke; mend the toy", result.output)
    assert sorted(told.split("; ")) == ["fold 1, seed 0", "fold 2, seed 0"]
    assert "failing: not in the table" in result.output
    assert not (tmp_path / "out" / "table.txt").exists()


def test_a_killed_run_goes_on_and_ends_as_if_nothing_had_been(
    world_file: Path, tmp_path: Path
) -> None:
    def run(out: Path, *settings: str) -> int:
        names = f"killer,{FLOOR}"
        command = [sys.executable, str(TOYS / "toy_arms.py"), "baseline", names, *settings]
        options = ["--data", str(world_file), "--out", str(out), "--workers", "1", *QUICK]
        done = subprocess.run([*command, *options], capture_output=True, timeout=120, text=True)
        print(done.stdout, done.stderr)  # Shown where the test fails.
        return done.returncode

    log = tmp_path / "fits.txt"
    settings = ["--set", f"killer.log={log}"]
    assert run(tmp_path / "killed", *settings) == -signal.SIGKILL
    assert not (tmp_path / "killed" / "summary.json").exists()
    assert len(log.read_text().splitlines()) == 5
    half = tmp_path / "killed" / "arms" / "killer" / "fold_0" / ".seed_0.json.tmp-half.json"
    half.write_text("{")
    assert run(tmp_path / "killed", *settings) == 0
    assert not half.exists()
    # Two folds of two trials and two seeds are eight fits; one of them was cut short.
    assert len(log.read_text().splitlines()) == 9
    assert run(tmp_path / "whole") == 0
    for name in ("predictions.jsonl", "curves.json", "summary.json"):
        whole, killed = ((tmp_path / run / name).read_bytes() for run in ("whole", "killed"))
        assert whole == killed, name


def test_list_shows_every_arm_and_its_search_space() -> None:
    result = call("list")
    assert result.exit_code == 0
    assert "The toy" in result.output and "defaults; rank=1; rank=2; rank=3" in result.output
    assert "context_table" in result.output


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["toys"], "no arm 'toys'; did you mean toy"),
        (["toy", "--set", "toy=3"], "write arm.key=value"),
        (["toy", "--set", "tiy.rank=3"], "no arm 'tiy'"),
        (["toy"], "--data FILE --out DIR"),
        ([","], "--data FILE --out DIR"),
        ([",", "--data", "x.csv", "--out", "y"], "Name the arms"),
    ],
)
def test_what_is_not_understood_is_refused(arguments: list[str], message: str) -> None:
    if "--set" in arguments or arguments == ["toys"]:
        arguments += ["--data", "x.csv", "--out", "y"]
    with pytest.raises(GplanError, match=message):
        call(*arguments)


def test_all_is_everything_but_planners_and_what_the_mode_hides() -> None:
    from gplan_jax.baselines.rows.features import InputMode
    from gplan_jax.evaluation.comparison.known_arms import PLANNERS, chosen_arms, known_arms

    known = known_arms()
    full = chosen_arms(["all"], known, InputMode.FULL)
    history = chosen_arms(["all", "picd"], known, InputMode.HISTORY)
    assert set(known) - set(full) == set(PLANNERS)
    assert set(full) - set(history) == {"trigger_table", "context_table"}
    assert "picd" in history and list(known).index("picd") > list(known).index("toy")
