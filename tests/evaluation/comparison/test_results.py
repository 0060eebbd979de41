"""What is read of a results directory, and what is said of one that can't be used."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.evaluation.comparison.results import read_results
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import read_json, read_jsonl, write_json, write_jsonl
from gplan_jax.gsisr import Sample
from tests.evaluation.report.runs import ARMS, write_run


def test_a_directory_is_read_whole(kept_run: Path) -> None:
    results = read_results(kept_run, "full context")
    assert results.name == "full context" and results.arms == list(ARMS)
    assert len(results.rows) == 40
    assert {arm: len(results.fits[arm]) for arm in ARMS} == {
        "sasrec": 4, "tiger": 4, "majority_first_intent": 2, "trigger_table": 2,
    }  # fmt: skip
    assert [len(fold.trials) for fold in results.trials["sasrec"]] == [4, 4]
    assert results.curves["sasrec"] and not results.curves["trigger_table"]


def test_floors_trained_and_added_arms_are_told_apart(
    tmp_path: Path, world_rows: list[Sample]
) -> None:
    arms = {"tiger": (0.5, 1), "mine": (0.5, 1), "trigger_table": (0.1, 1)}
    results = read_results(write_run(tmp_path / "run", world_rows, arms, added=("mine",)))
    groups = {arm: results.group(arm) for arm in results.arms}
    assert groups == {"tiger": "trained", "mine": "added", "trigger_table": "floor"}
    assert not results.fits["mine"]


@pytest.mark.parametrize("name", ["comparison.json", "predictions.jsonl", "summary.json"])
def test_a_missing_file_is_named_with_the_mend(run_folder: Path, name: str) -> None:
    (run_folder / name).unlink()
    with pytest.raises(GplanError, match=f"{name} does not exist; .*gplan baseline"):
        read_results(run_folder)


def test_no_directory_is_said(tmp_path: Path) -> None:
    with pytest.raises(GplanError, match=r"is no directory; name the --out"):
        read_results(tmp_path / "nowhere")


def without_arm(rows: list[dict[str, Any]]) -> None:
    del rows[2]["arms"]["tiger"]


def other_seeds(rows: list[dict[str, Any]]) -> None:
    rows[2]["arms"]["tiger"]["constrained"].pop()


def cut(rows: list[dict[str, Any]]) -> None:
    rows.pop()


def no_facts(rows: list[dict[str, Any]]) -> None:
    del rows[2]["facts"]["hour"]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (without_arm, r"predictions.jsonl, line 3: no prediction of tiger; run the same"),
        (other_seeds, r"line 3: tiger has plans of 1 seeds.*first line of 2"),
        (cut, r"predictions.jsonl has 39 lines, but comparison.json counts 40 rows"),
        (no_facts, r"line 3 is not what this version writes: facts.hour: Field required"),
    ],
)
def test_half_finished_predictions_are_refused(
    run_folder: Path, change: Callable[[list[dict[str, Any]]], None], message: str
) -> None:
    path = run_folder / "predictions.jsonl"
    rows = list(read_jsonl(path))
    change(rows)
    write_jsonl(path, rows)
    with pytest.raises(GplanError, match=message):
        read_results(run_folder)


def test_a_summary_without_an_arm_is_refused(run_folder: Path) -> None:
    summary = read_json(run_folder / "summary.json")
    del summary["arms"]["tiger"]
    write_json(run_folder / "summary.json", summary)
    with pytest.raises(GplanError, match=r"summary.json lacks the arm tiger; run the same"):
        read_results(run_folder)


@pytest.mark.parametrize("name", ["comparison.json", "summary.json", "curves.json"])
def test_another_form_is_refused_by_file_and_key(run_folder: Path, name: str) -> None:
    value: Any = {"arms": 3} if name != "curves.json" else {"sasrec": [{"fold": 0}]}
    (run_folder / name).write_text(json.dumps(value), encoding="utf-8")
    with pytest.raises(GplanError, match=rf"{name} is not what this version writes: \w+"):
        read_results(run_folder)


def test_a_broken_file_is_refused(run_folder: Path) -> None:
    (run_folder / "summary.json").write_text('{"arms":', encoding="utf-8")
    with pytest.raises(GplanError, match=r"summary.json is not valid UTF-8 JSON"):
        read_results(run_folder)
