"""The arms of the reasoning tasks: what is declared fits the rows; whole cells, tiny."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from gplan_jax.evaluation.reproduce import task_arms
from gplan_jax.evaluation.reproduce.latent_study import study_task
from gplan_jax.evaluation.reproduce.tables import judge_claims
from gplan_jax.evaluation.reproduce.task_arms import (
    ARMS,
    CLAIMS,
    STUDIES,
    TaskStudy,
    arms_of,
    cell_of,
    reproduce_task,
)
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import read_json, read_jsonl
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.objectives.curriculum import BlockOrder
from gplan_jax.training.resume.preemption import StopSignals

CHANGES = {
    "rows": 64, "epochs_per_stage": 1, "epochs_after": 1, "layers": 1, "hidden_size": 32,
    "heads": 2, "head_dim": 16,
}  # fmt: skip
TINY = STUDIES["multiplication-2"].model_copy(update=CHANGES)


@pytest.mark.parametrize("name", ["parity", "multiplication-2", "multiplication-3"])
def test_a_study_knows_its_longest_reasoning(name: str, tmp_path: Path) -> None:
    study = STUDIES[name].model_copy(update={"rows": 20})
    task_arms._open(tmp_path, study)
    rows = list(read_jsonl(tmp_path / "rows" / "train.jsonl"))
    assert max(len(row["blocks"]) for row in rows) == study.blocks
    prompts = {row["prompt"] for row in rows}
    tests = list(read_jsonl(tmp_path / "rows" / "test.jsonl"))
    assert len(tests) == task_arms.TEST_ROWS and not prompts & {row["prompt"] for row in tests}


@pytest.mark.parametrize("name", STUDIES)
def test_no_two_arms_are_trained_alike(name: str) -> None:
    study = STUDIES[name]
    ways = set()
    for arm in map(ARMS.__getitem__, arms_of(study)):
        order = BlockOrder.model_validate(arm.curriculum)
        stages = [order.hidden_blocks(stage, study.blocks) for stage in range(study.blocks + 1)]
        ways.add((arm.mode, arm.width, tuple(stages)))
    assert len(ways) == len(arms_of(study))
    assert ("picd_log" in arms_of(study)) == (study.blocks > 2)


def test_a_directory_of_other_settings_is_refused_with_the_difference(tmp_path: Path) -> None:
    task_arms._open(tmp_path, TINY)
    with pytest.raises(GplanError, match=r"epochs_after 1 \(now 3\); name a new --out"):
        task_arms._open(tmp_path, TINY.model_copy(update={"epochs_after": 3}))


def test_claims_are_about_arms(tmp_path: Path) -> None:
    titles = {name: arm.title for name, arm in ARMS.items()}
    rng = np.random.default_rng(0)
    scores = {arm: {"exact": rng.integers(0, 2, (2, 30)).astype(float)} for arm in ARMS}
    verdicts = judge_claims(CLAIMS, scores, [str(row) for row in range(30)], titles)
    assert verdicts[0].claim == "PICD, K = 3 above No reasoning, exact answers"
    with pytest.raises(GplanError, match="no arm cott; there are none, cot"):
        reproduce_task("parity", tmp_path, arms=["cott"], seeds=1)
    with pytest.raises(GplanError, match="--set is not a valid config:\n  epochs_per_stag"):
        reproduce_task("parity", tmp_path, seeds=1, changes={"epochs_per_stag": 2})


def quick_cell(study: TaskStudy, folder: Path, arm: str, seed: int) -> float:
    (cell_of(folder, arm, seed) / "answers").mkdir(parents=True)
    time.sleep(0.0 if arm == "none" else 5.0)
    return 1.0


def test_an_interrupt_ends_what_runs_and_begins_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupted(bar: ProgressBar, said: str) -> None:
        assert said == "none, seed 0: exact 100.0"
        raise KeyboardInterrupt

    monkeypatch.setattr(task_arms, "train_cell", quick_cell)
    monkeypatch.setattr(ProgressBar, "advance", interrupted)
    with pytest.raises(KeyboardInterrupt):
        reproduce_task(
            "parity", tmp_path, arms=["none", "cot", "icot"], seeds=1, workers=1, changes=CHANGES
        )
    assert not cell_of(tmp_path / "parity", "icot", 0).exists()
    assert not multiprocessing.active_children()


def stopped_cell(study: TaskStudy, folder: Path, arm: str, seed: int) -> float:
    with StopSignals() as stop:
        (folder / f"{arm}.began").touch()
        while not stop.received:
            time.sleep(0.01)
        if arm == "cot":  # Its checkpoint takes longer, and a second SIGTERM comes meanwhile.
            time.sleep(2.0)
        raise stop.stopped(1, 2)


def test_a_stop_waits_for_checkpoints_and_then_ends(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop() -> None:
        while len(list(tmp_path.rglob("*.began"))) < 2:
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGINT)

    def give_up() -> None:
        for worker in multiprocessing.active_children():
            worker.kill()

    monkeypatch.setattr(task_arms, "train_cell", stopped_cell)
    threading.Thread(target=stop, daemon=True).start()
    patience = threading.Timer(30, give_up)
    patience.start()
    with pytest.raises(KeyboardInterrupt):
        reproduce_task("parity", tmp_path, arms=["none", "cot"], seeds=1, changes=CHANGES)
    assert patience.is_alive(), "the stop ended only when the workers were killed"
    patience.cancel()
    log = (tmp_path / "parity" / "workers.log").read_text()
    assert log.count("the checkpoint of step 1 is written") == 2


@pytest.mark.slow
def test_arms_are_trained_once_compared_and_looked_into(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(task_arms, "TEST_ROWS", 40)
    tables = reproduce_task(
        "multiplication-2", tmp_path, arms=["icot", "picd"], seeds=1, workers=1, changes=CHANGES
    )
    assert [row[0] for row in tables[0].rows if row] == ["ICoT, blocks removed", "PICD, K = 3"]
    log = tmp_path / "multiplication-2" / "picd" / "seed_0" / "run" / "log.jsonl"
    before = log.read_bytes()
    again = reproduce_task(
        "multiplication-2", tmp_path, arms=["icot", "picd"], seeds=1, changes=CHANGES
    )
    assert again == tables and log.read_bytes() == before
    found = read_json(tmp_path / "multiplication-2.json")
    assert [v["outcome"] for v in found["verdicts"]] == ["not told apart"]  # one seed
    answers, layers = study_task(tmp_path / "multiplication-2", seeds=1)
    assert next(row[0] for row in answers.rows if row) == "as trained" and layers.rows
    assert (tmp_path / "multiplication-2" / "picd" / "seed_0" / "latents.png").is_file()
    alone = reproduce_task("multiplication-2", tmp_path, arms=["picd"], seeds=1, changes=CHANGES)
    assert len(alone) == 1  # there is no claim about one arm
