"""`gplan judge`: what it writes, says and refuses."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gplan_jax.baselines.fitting.arms import FLOORS
from gplan_jax.cli.judge import judge
from gplan_jax.cli.main import app
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import read_json, read_jsonl, write_jsonl
from gplan_jax.gsisr import Sample, write_samples
from gplan_jax.synthesis.world.simulation import FIRST_ID, simulate_rows
from tests.chat.servers import scripted


@pytest.fixture
def case(tmp_path: Path, world_rows: list[Sample]) -> dict[str, Any]:
    """A data file, predictions of two models in the folders that evaluate would make, training
    rows of other users."""
    write_samples(tmp_path / "test.csv", world_rows)
    write_samples(tmp_path / "train.csv", simulate_rows(60, 7, first_id=FIRST_ID + 9_000))
    for name, shift in (("right", 0), ("wrong", 1)):
        shifted = [*world_rows[shift:], *world_rows[:shift]]
        lines = zip(world_rows, shifted, strict=True)
        folder = tmp_path / name
        folder.mkdir()
        records = [{"id": row.id, "text": other.raw_labels} for row, other in lines]
        write_jsonl(folder / "predictions.jsonl", records)
    return {"data": tmp_path / "test.csv", "out": tmp_path / "out"}


def test_models_labels_and_floors_stand_in_one_table(
    tmp_path: Path, case: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    files = [str(tmp_path / name / "predictions.jsonl") for name in ("right", "wrong")]
    judge(**case, predictions=files, labels=True, train_data=tmp_path / "train.csv")
    result = read_json(tmp_path / "out" / "judge.json")
    assert list(result["sources"]) == ["right", "wrong", "labels", *FLOORS]
    means = {name: s["judges"]["rules"]["means"]["overall"] for name, s in
             result["sources"].items()}  # fmt: skip
    assert means["right"] == means["labels"] > means["wrong"]
    assert sum(1 for _ in read_jsonl(tmp_path / "out" / "judgements.jsonl")) == 6 * 40
    said = capsys.readouterr().out
    assert "rules is no language model" in " ".join(said.split())
    assert str(tmp_path / "out" / "judgements.jsonl") in said
    assert "cache" not in said and not (tmp_path / "out.cache.sqlite").exists()


def test_two_files_are_compared(tmp_path: Path, case: dict[str, Any]) -> None:
    right, wrong = (str(tmp_path / name / "predictions.jsonl") for name in ("right", "wrong"))
    judge(**case, predictions=[right], against=wrong)
    result = read_json(tmp_path / "out" / "judge.json")
    assert (result["first"], result["second"]) == ("right", "wrong")
    assert result["judges"]["rules"]["win_rate"] > 0.5
    judge(**{**case, "out": tmp_path / "same"}, predictions=[right], against=right)
    line = read_json(tmp_path / "same" / "judge.json")["judges"]["rules"]
    assert line["identical"] == 40 and line["win_rate"] is None


@pytest.mark.parametrize("against", [False, True])
def test_a_chat_judge_says_what_it_cost_and_exits_with_3_where_it_scored_nothing(
    tmp_path: Path, case: dict[str, Any], against: bool
) -> None:
    right, wrong = (str(tmp_path / name / "predictions.jsonl") for name in ("right", "wrong"))
    options = ["judge", "--predictions", right, *(["--against", wrong] if against else [])]
    options += ["--data", str(case["data"]), "--out", str(tmp_path / "out"), "--limit", "3"]
    with scripted(tmp_path, faults=[{"kind": "short"}]) as server:
        file = tmp_path / "judge.yaml"
        values = server.config(prompt_price=1.0, completion_price=2.0)
        file.write_text(json.dumps({"server": values.model_dump(exclude_defaults=True)}))
        command = [sys.executable, "-m", "gplan_jax.cli.main", *options, "--judge", str(file)]
        run = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        tokens = server.log()["tokens"]
    assert run.returncode == 3, run.stderr
    assert "No plan was scored by scripted" in run.stderr and "Traceback" not in run.stderr
    assert "raise max_tokens or turn thinking off" in run.stdout
    result = read_json(tmp_path / "out" / "judge.json")
    spent = result["judged_by" if against else "judges"]["scripted"]["spent"]
    asked = 6 if against else 3
    assert spent["requests"] == asked and sum(spent["tokens"].values()) == tokens
    assert 0 < spent["cost"] < 1
    assert f"scripted, in all  {asked} requests, " in run.stdout
    assert f"scripted, this run  {asked} asked, " in run.stdout


def test_the_same_run_writes_the_same_bytes(tmp_path: Path, case: dict[str, Any]) -> None:
    for name in ("one", "two"):
        judge(**{**case, "out": tmp_path / name}, labels=True, limit=20, seed=3)
    for file in ("judgements.jsonl", "judge.json"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()
    assert read_json(tmp_path / "one" / "judge.json")["rows"] == 20


def test_what_it_refuses(tmp_path: Path, case: dict[str, Any]) -> None:
    right = str(tmp_path / "right" / "predictions.jsonl")
    with pytest.raises(GplanError, match="Nothing to judge"):
        judge(**case)
    with pytest.raises(GplanError, match="--against compares two files"):
        judge(**case, predictions=[right], against=right, labels=True)
    with pytest.raises(GplanError, match="two are called 'right'"):
        judge(**case, predictions=[right, right])
    with pytest.raises(GplanError, match=r"more predictions for 5 rows|--limit"):
        write_samples(tmp_path / "few.csv", list(simulate_rows(5, 1)))
        judge(data=tmp_path / "few.csv", out=tmp_path / "out", predictions=[right])
    (tmp_path / "j.yaml").write_text("server: {base_url: 'http://127.0.0.1:9/v1', modle: m}")
    with pytest.raises(GplanError, match="did you mean model"):
        judge(**case, labels=True, judge=[str(tmp_path / "j.yaml")])
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    with pytest.raises(GplanError, match="not empty"):
        judge(**case, labels=True)


def test_its_help_shows_examples() -> None:
    shown = CliRunner().invoke(app, ["judge", "--help"]).output
    assert "Example: gplan judge --predictions" in shown and "no language model" in shown
