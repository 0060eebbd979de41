"""Whole runs on a tiny model: they end, resume bit for bit after a kill, and refuse what is bad."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from gplan_jax.data.tasks.gsisr_task import COUNTS_FILE, GsisrTask
from gplan_jax.data.tasks.task import Task
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import read_json
from gplan_jax.gsisr import read_samples
from gplan_jax.gsisr.intent_counts import IntentCounts
from gplan_jax.models import Qwen3, load_qwen3
from gplan_jax.training.loop.loop import train
from gplan_jax.training.loop.metrics_log import TIMINGS, read_log
from gplan_jax.training.steps.train_config import TrainConfig

MakeConfig = Callable[..., TrainConfig]


def steps_of(run: str | Path) -> list[dict[str, Any]]:
    records = read_log(Path(run) / "log.jsonl")
    return [{k: v for k, v in r.items() if k not in TIMINGS} for r in records]


def weights(model: Path) -> list[np.ndarray]:
    return [np.asarray(x) for x in jax.tree.leaves(nnx.state(load_qwen3(model), nnx.Param))]


def test_a_run_leaves_log_checkpoints_and_model(unbroken: TrainConfig) -> None:
    steps = steps_of(unbroken.output)
    assert [r["step"] for r in steps] == list(range(1, 16))  # 20 rows in batches of 4, 3 epochs
    assert [r["stage"] for r in steps] == [0] * 5 + [1] * 5 + [2] * 5
    assert [r["learning_rate"] for r in steps][9:11] == pytest.approx([1e-3, 1e-4])
    assert steps[-1]["loss"] < steps[0]["loss"]
    assert all({"loss_reasoning", "loss_plan", "grad_norm"} <= r.keys() for r in steps)
    run = Path(unbroken.output)
    assert len(list((run / "checkpoints").iterdir())) == 2
    assert list((run / "tensorboard").iterdir())
    assert (run / "model" / "tokenizer.json").is_file()
    assert GsisrTask.load(run / "model").response == "latent"
    assert len(IntentCounts.load(run / "model" / COUNTS_FILE)) == 20


KILLED_RUN = """
import sys
from pathlib import Path
from gplan_jax.training.steps.train_config import TrainConfig
from gplan_jax.training.loop.loop import train
train(TrainConfig.model_validate_json(Path(sys.argv[1]).read_text()))
"""


def test_a_killed_run_resumes_bit_for_bit(
    unbroken: TrainConfig, make_config: MakeConfig, tmp_path: Path
) -> None:
    output = tmp_path / "killed"
    config = make_config(output)
    (tmp_path / "config.json").write_text(config.model_dump_json())
    process = subprocess.Popen(
        [sys.executable, "-c", KILLED_RUN, str(tmp_path / "config.json")],
        env=os.environ | {"JAX_PLATFORMS": "cpu"},
        stderr=subprocess.DEVNULL,
    )
    log = output / "log.jsonl"
    deadline = time.monotonic() + 300
    # Step 8 lies in the middle of the second epoch, beyond the checkpoint of step 6.
    while not (log.is_file() and log.read_text().count("\n") >= 8):
        assert process.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (output / "model").exists()

    train(config, resume=True)
    assert steps_of(output) == steps_of(unbroken.output)
    for mine, theirs in zip(
        weights(output / "model"), weights(Path(unbroken.output) / "model"), strict=True
    ):
        np.testing.assert_array_equal(mine, theirs)


def test_a_finished_run_is_not_trained_again(unbroken: TrainConfig) -> None:
    before = (Path(unbroken.output) / "log.jsonl").read_bytes()
    assert train(unbroken, resume=True) == Path(unbroken.output) / "model"
    assert (Path(unbroken.output) / "log.jsonl").read_bytes() == before


def test_a_run_is_never_overwritten_or_mixed(unbroken: TrainConfig) -> None:
    before = (Path(unbroken.output) / "log.jsonl").read_bytes()
    with pytest.raises(GplanError, match=r"already holds a run.*--resume"):
        train(unbroken)
    changed = unbroken.model_copy(update={"seed": 1, "batch_size": 8})
    with pytest.raises(GplanError) as raised:
        train(changed, resume=True)
    assert "seed: was 0, now 1" in str(raised.value)
    assert "batch_size: was 4, now 8" in str(raised.value)
    assert (Path(unbroken.output) / "log.jsonl").read_bytes() == before


def test_nothing_to_resume_is_said(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(tmp_path / "none")
    with pytest.raises(GplanError, match="no run to resume"):
        train(config, resume=True)


def test_evaluation_is_called_and_logged(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        tmp_path / "run",
        epochs=3,
        mode="direct_sft",
        optimizer={"schedule": "constant", "learning_rate": 1e-3},
        evaluation={"every_epochs": 2},
    )
    seen, rooms = [], set()

    def evaluate(model: Qwen3, task: Task, folder: Path) -> dict[str, float]:
        assert np.isfinite(np.asarray(model.embedding[...])).all()
        folder.mkdir(parents=True)
        seen.append(folder.name)
        rooms.add(task.prompt_length)
        return {"acc1": 0.25}

    train(config, evaluate=evaluate)
    assert seen == ["epoch-002", "epoch-003"]
    assert rooms == {GsisrTask.load(tmp_path / "run" / "model").prompt_length}
    records = read_log(tmp_path / "run" / "log.jsonl")
    scores = [r for r in records if r["kind"] == "evaluation"]
    assert [(r["epoch"], r["acc1"]) for r in scores] == [(2, 0.25), (3, 0.25)]
    assert all("loss_reasoning" not in r for r in records)


def test_a_loss_that_is_not_finite_stops_the_run(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(
        tmp_path / "run",
        optimizer={"schedule": "constant", "learning_rate": 1e30, "clip_norm": 1e30},
    )
    run = tmp_path / "run"
    with pytest.raises(
        GplanError, match=r"of step \d+ is nan; .* rows with id \d+.*\.json"
    ) as raised:
        train(config)
    assert not (run / "model").exists()
    [path] = run.glob("bad-batch-*.json")
    assert str(path) in str(raised.value)
    bad = read_json(path)
    last = read_log(run / "log.jsonl")[-1]
    assert {k: bad[k] for k in ("step", "epoch", "stage")} == {
        k: last[k] for k in ("step", "epoch", "stage")
    }
    ids = [sample.id for sample in read_samples(config.data.train)]
    assert bad["ids"] == [ids[row] for row in bad["rows"]] and len(bad["ids"]) == 4
    assert all(int(saved.name) < bad["step"] for saved in (run / "checkpoints").iterdir())


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"accumulation_steps": 3}, "does not divide into accumulation_steps=3"),
        ({"mode": "cot_sft"}, "schedule=calr follows a moving curriculum"),
    ],
)
def test_settings_that_do_not_go_together(
    make_config: MakeConfig, tmp_path: Path, changes: dict[str, Any], expected: str
) -> None:
    with pytest.raises(GplanError, match=expected):
        train(make_config(tmp_path / "run", **changes))


def test_the_config_is_kept_as_resolved(unbroken: TrainConfig) -> None:
    import yaml

    stored = yaml.safe_load((Path(unbroken.output) / "config.yaml").read_text())
    assert json.dumps(stored) == json.dumps(unbroken.model_dump())
