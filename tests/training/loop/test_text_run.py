"""A run on rows of text, as a user makes it: trained, stopped, resumed, evaluated."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner

from gplan_jax.cli.main import app
from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.evaluation.scores.model_evaluation import train_and_evaluate
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import read_json, read_jsonl
from gplan_jax.models.checkpoints.model_directory import ParameterStore, read_config
from gplan_jax.reasoning import write_response
from gplan_jax.training.loop.metrics_log import TIMINGS, read_log
from gplan_jax.training.resume.preemption import RunStopped, StopSignals
from gplan_jax.training.steps.train_config import TrainConfig


@pytest.fixture(scope="module")
def config(text_file: Path, text_model_dir: Path) -> dict[str, Any]:
    """12 rows in batches of 8: 4 epochs of 2 steps."""
    sizes = {"max_length": 64, "length_multiple": 64, "response_multiple": 64}
    return {
        "mode": "picd",
        "model": str(text_model_dir),
        "epochs": 4,
        "batch_size": 8,
        "curriculum": {"chunks": "log", "order": "reverse"},
        "data": {"task": "text", "train": str(text_file), "test": str(text_file), **sizes},
        "optimizer": {"learning_rate": 1e-3, "polish_lr": 1e-4, "target_blocks": 2},
        "precision": {"compute": "float32", "remat": "none"},
        "checkpoint": {"every_steps": 1},
        "evaluation": {"every_epochs": 4, "max_new_tokens": 60},
    }


@pytest.fixture(scope="module")
def run(config: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that SIGTERM stopped after step 5, and that then went on."""
    run = tmp_path_factory.mktemp("text") / "run"
    settings = TrainConfig.model_validate(config | {"output": str(run)})
    reached = StopSignals.reached

    def stop(self: StopSignals, taken: int) -> bool:
        if taken == 5:
            signal.raise_signal(signal.SIGTERM)
        return reached(self, taken)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StopSignals, "reached", stop)
        with pytest.raises(RunStopped):
            train_and_evaluate(settings)
    train_and_evaluate(settings, resume=True)
    return run


def parameters(model: Path) -> dict[str, np.ndarray]:
    store = ParameterStore(model / "params", read_config(model))
    return {path: store.read(path) for path in store.dtypes}


def test_a_resumed_run_ends_as_an_unbroken_one(
    config: dict[str, Any], run: Path, tmp_path: Path
) -> None:
    unbroken = tmp_path / "unbroken"
    path = tmp_path / "run.yaml"
    path.write_text(json.dumps(config | {"output": str(unbroken)}))
    said = CliRunner().invoke(app, ["train", str(path)], catch_exceptions=False)
    assert said.exit_code == 0, said.output
    one, other = parameters(run / "model"), parameters(unbroken / "model")
    for name, value in one.items():
        np.testing.assert_array_equal(value, other[name])
    logs = [
        [r for r in read_log(r / "log.jsonl") if r["kind"] != "resume"] for r in (run, unbroken)
    ]
    for mine, theirs in zip(*logs, strict=True):
        assert mine.keys() == theirs.keys()
        assert all(mine[key] == theirs[key] for key in mine.keys() - TIMINGS)
    assert [r["stage"] for r in logs[0] if r["kind"] == "step"] == [0, 0, 1, 1, 2, 2, 3, 3]
    # Log chunks: more than B* = 2 blocks are latent from stage 2 on, where CALR's rate drops.
    rates = [r["learning_rate"] for r in logs[0] if r["kind"] == "step"]
    assert rates[:5] == pytest.approx([1e-3] * 4 + [1e-4]) and rates[5] < 1e-4
    evaluated = logs[0][-1]
    assert evaluated["kind"] == "evaluation" and "exact" in evaluated and "acc1" not in evaluated


def test_the_model_is_evaluated_by_its_own_task(run: Path, text_file: Path, tmp_path: Path) -> None:
    # The longest response spells three blocks.
    encoder = ChatEncoder.load(run / "model")
    blocks = [(f"BIT_{number}", "0") for number in (1, 2, 3)]
    longest_response = len(encoder.response(write_response(blocks, "even", encoder.latents)).ids)
    assert read_json(run / "model" / "task.json") == {
        "task": "text",
        "prompt_length": 64 - longest_response,
        "response": "latent",
    }
    evaluate = ["evaluate", "--model", str(run / "model"), "--data", str(text_file)]
    short = ["--max-new-tokens", "60", "--limit", "5"]
    said = CliRunner().invoke(
        app, [*evaluate, *short, "--out", str(tmp_path / "out")], catch_exceptions=False
    )
    assert "Answer" in said.output and "NDCG" not in said.output and "5 rows" in said.output
    metrics = read_json(tmp_path / "out" / "metrics.json")
    assert set(metrics["model"]) == {"exact", "answer_tokens", "latent_valid"}
    assert metrics["run"]["task"] == "text" and metrics["rows"] == 5
    # No prompt is cut to make room for so long answers, here or in the run's own evaluation.
    texts, own = (
        [row["text"] for row in read_jsonl(folder / "predictions.jsonl")]
        for folder in (tmp_path / "out", run / "evaluation" / "epoch-004")
    )
    assert texts == own[:5]
    for option in (["--train-data", str(text_file)], ["--mode", "drafted"], ["--service", "x"]):
        with pytest.raises(GplanError, match=r"task text, which has no .*exact, answer_tokens"):
            CliRunner().invoke(
                app, [*evaluate, *option, "--out", str(tmp_path / "no")], catch_exceptions=False
            )
    (tmp_path / "context.json").write_text("{}")
    plan = ["plan", "--model", str(run / "model"), "--context", str(tmp_path / "context.json")]
    with pytest.raises(GplanError, match=r"task text, which has no plans.*exact, answer_tokens"):
        CliRunner().invoke(app, plan, catch_exceptions=False)


def test_a_prompt_is_refused_rather_than_cut(config: dict[str, Any], tmp_path: Path) -> None:
    shorter = {"data": config["data"] | {"max_length": 52}, "output": str(tmp_path / "run")}
    with pytest.raises(GplanError, match=r"prompt of the row with id r0 has .*text cuts none"):
        train_and_evaluate(TrainConfig.model_validate(config | shorter))


def test_a_foreign_metric_is_refused(config: dict[str, Any], tmp_path: Path) -> None:
    changes = {"output": str(tmp_path / "run"), "checkpoint": {"keep_best": 1}}
    with pytest.raises(GplanError, match=r"acc1 is no figure .*text; there are exact, answer_tok"):
        train_and_evaluate(TrainConfig.model_validate(config | changes))
