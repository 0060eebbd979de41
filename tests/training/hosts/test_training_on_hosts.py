"""`gplan train` in two processes of four simulated devices each, over loopback, against one device.

The gradient of the first step is read from its checkpoint: Adam's first moment is then
(1 - b1) times the gradient, and the clipping is switched off.
"""

from __future__ import annotations

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from gplan_jax.gsisr import IntentLibrary, PromptTemplate, Sample, training_texts
from gplan_jax.models import convert_checkpoint, load_qwen3
from gplan_jax.models.checkpoints.tiny import write_tiny_checkpoint
from gplan_jax.reasoning import GSISR_LATENTS
from gplan_jax.training.loop.loop import train
from gplan_jax.training.loop.metrics_log import read_log
from gplan_jax.training.loop.reference import read_table
from gplan_jax.training.resume.checkpoints import RunCheckpoints, abstract
from gplan_jax.training.resume.run_directory import fingerprint_inputs
from gplan_jax.training.steps.setup import prepare
from gplan_jax.training.steps.step import TrainState
from gplan_jax.training.steps.train_config import TrainConfig

DEVICES, STEPS, SIGTERM_EXIT, STALLED_EXIT = 4, 6, 143, 75  # 20 rows in batches of 8, 2 epochs
TOLERANCE = 1e-5
"""Relative, of loss, gradients and weights: the same float32 sums in another order."""

MESHES = {
    "fsdp=8": {"fsdp": 8},
    "data=2 x fsdp=2 x tensor=2": {"data": 2, "fsdp": 2, "tensor": 2},
    "tensor=8, across the processes": {"fsdp": 1, "tensor": 8},
}


@pytest.fixture(scope="module")
def model_dir(tmp_path_factory: pytest.TempPathFactory, world_rows: list[Sample]) -> Path:
    """A tiny model whose heads and widths divide by 8."""
    folder = tmp_path_factory.mktemp("divisible")
    template, library = PromptTemplate.load("compact_zh"), IntentLibrary.load()
    write_tiny_checkpoint(
        folder / "hf",
        list(training_texts(world_rows, template, library)),
        vocab_size=512,
        hidden_size=32,
        layers=2,
        heads=8,
        kv_heads=8,
        head_dim=8,
        intermediate_size=48,
    )
    convert_checkpoint(
        folder / "hf",
        folder / "model",
        new_tokens=GSISR_LATENTS.tokens,
        metadata={"latents": GSISR_LATENTS.to_dict()},
    )
    return folder / "model"


def make_config(data: Path, model: Path, output: Path, mesh: dict[str, int]) -> TrainConfig:
    pairs = data.suffix == ".jsonl"
    return TrainConfig.model_validate(
        {
            "mode": "scdpo" if pairs else "picd",
            "model": str(model),
            "output": str(output),
            "epochs": 2,
            "batch_size": 8,
            "data": {
                "train": str(data),
                "template": "compact_zh",
                "max_length": 512,
                "length_multiple": 128 if pairs else 416,
                "response_multiple": 64 if pairs else 304,
            },
            "mesh": mesh,
            "optimizer": {
                "schedule": "constant" if pairs else "calr",
                "learning_rate": 1e-5 if pairs else 1e-3,
                "polish_lr": 1e-4,
                "target_blocks": 0,
                "clip_norm": 1e9,
            },
            "precision": {"compute": "float32", "remat": "none"},
            "checkpoint": {"every_steps": 1, "keep": STEPS},
        }
    )


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory, training_rows: Path, model_dir: Path
) -> TrainConfig:
    """A finished run on one device."""
    output = tmp_path_factory.mktemp("runs") / "alone"
    config = make_config(training_rows, model_dir, output, {})
    train(config)
    return config


def start_two(config: TrainConfig, folder: Path) -> list[subprocess.Popen[str]]:
    """Both processes of a run, on this machine."""
    (folder / "config.yaml").write_text(config.model_dump_json())  # JSON is YAML.
    with socket.create_server(("localhost", 0)) as free:
        port = free.getsockname()[1]
    environment = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PLATFORMS": "cpu",
        # Quick to compile matters here, not quick to run.
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={DEVICES} "
        "--xla_backend_optimization_level=0",
    }
    return [
        subprocess.Popen(
            [sys.executable, "-m", "gplan_jax.cli.main", "train", str(folder / "config.yaml")],
            env=os.environ | environment | {"JAX_PROCESS_ID": str(process)},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for process in range(2)
    ]


def finish(processes: list[subprocess.Popen[str]], seconds: int = 300) -> list[tuple[int, str]]:
    """Exit code and output of each; none is left behind."""
    try:
        outputs = [process.communicate(timeout=seconds)[0] for process in processes]
    finally:
        for process in processes:
            process.kill()
    return [(process.returncode, text) for process, text in zip(processes, outputs, strict=True)]


def wait_for_steps(log: Path, steps: int, processes: list[subprocess.Popen[str]]) -> None:
    deadline = time.monotonic() + 300
    while not (log.is_file() and log.read_text().count("\n") >= steps):
        if time.monotonic() > deadline or any(process.poll() is not None for process in processes):
            pytest.fail(f"the run did not come to step {steps}: {finish(processes, seconds=1)}")
        time.sleep(0.05)


def state_at(config: TrainConfig, step: int, folder: Path) -> TrainState:
    """The state that a run saved after ``step``, read onto this process's device."""
    shutil.copytree(Path(config.output) / "checkpoints" / str(step), folder / str(step))
    run = prepare(config.model_copy(update={"mesh": type(config.mesh)()}), folder)
    with RunCheckpoints(folder, keep=1, keep_best=0, scores={}) as checkpoints:
        found = checkpoints.restore(
            abstract(run.initial_state()),
            inputs=fingerprint_inputs(run),
            steps_per_epoch=run.plan.steps_per_epoch,
        )
    assert found is not None
    return found[0]


def distances(found: Any, expected: Any) -> list[float]:
    """|a - b| / |b| of every array."""
    return [
        float(np.linalg.norm(np.asarray(a) - np.asarray(b)) / (np.linalg.norm(b) or 1.0))
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True)
    ]


def losses(config: TrainConfig) -> list[float]:
    return [r["loss"] for r in read_log(Path(config.output) / "log.jsonl") if r["kind"] == "step"]


@pytest.mark.parametrize(
    "mesh",
    [name if name == "fsdp=8" else pytest.param(name, marks=pytest.mark.slow) for name in MESHES],
)
def test_two_processes_train_like_one_device_and_hand_their_checkpoint_to_it(
    mesh: str, alone: TrainConfig, training_rows: Path, model_dir: Path, tmp_path: Path
) -> None:
    config = make_config(training_rows, model_dir, tmp_path / "together", MESHES[mesh])
    processes = start_two(config, tmp_path)
    wait_for_steps(Path(config.output) / "log.jsonl", 2, processes)
    processes[1].send_signal(signal.SIGTERM)  # Pre-empted: both save the same step and end.
    for code, text in finish(processes):
        assert code == SIGTERM_EXIT, text
    taken = len(losses(config))
    saved = {int(entry.name) for entry in (Path(config.output) / "checkpoints").iterdir()}
    assert taken < STEPS and saved == set(range(1, taken + 1))

    moments = state_at(config, 1, tmp_path / "first").optimizer
    expected = state_at(alone, 1, tmp_path / "first-alone").optimizer
    assert max(distances(moments, expected)) < TOLERANCE
    assert losses(config) == pytest.approx(losses(alone)[:taken], rel=TOLERANCE)

    going_on = make_config(training_rows, model_dir, tmp_path / "together", {})
    train(going_on, resume=True)  # One process of one device.
    assert losses(config) == pytest.approx(losses(alone), rel=TOLERANCE)
    weights = state_at(config, STEPS, tmp_path / "last").params
    expected = state_at(alone, STEPS, tmp_path / "last-alone").params
    assert max(distances(weights, expected)) < TOLERANCE


@pytest.mark.slow
def test_a_run_of_two_processes_ends_with_the_model_of_one_device(
    alone: TrainConfig, training_rows: Path, model_dir: Path, tmp_path: Path
) -> None:
    config = make_config(training_rows, model_dir, tmp_path / "together", MESHES["fsdp=8"])
    for code, text in finish(start_two(config, tmp_path)):
        assert code == 0, text
    assert losses(config) == pytest.approx(losses(alone), rel=TOLERANCE)
    found, expected = (
        nnx.state(load_qwen3(Path(c.output) / "model"), nnx.Param) for c in (config, alone)
    )
    assert max(distances(found, expected)) < TOLERANCE
    names = [sorted(p.name for p in (Path(c.output) / "model").iterdir()) for c in (config, alone)]
    assert names[0] == names[1]


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_two_processes_share_a_reference_and_prefer_like_one_device(
    mesh: str, pairs_file: Path, model_dir: Path, tmp_path: Path
) -> None:
    one = make_config(pairs_file, model_dir, tmp_path / "one", {})
    train(one)
    two = make_config(pairs_file, model_dir, tmp_path / "two", MESHES[mesh])
    for code, text in finish(start_two(two, tmp_path)):
        assert code == 0, text
    # A log-probability of -500 is good to 1e-4 in float32, and the loss falls by 2.5 beta of it.
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    tables = [
        read_table(path)
        for config in (one, two)
        for path in (Path(config.output) / "cache").glob("reference-*.npz")
    ]
    assert tables[0].keys() == tables[1].keys()
    for digest, values in tables[0].items():
        np.testing.assert_allclose(tables[1][digest], values, rtol=TOLERANCE, atol=1e-4)
    found, expected = (
        nnx.state(load_qwen3(Path(c.output) / "model"), nnx.Param) for c in (two, one)
    )
    assert max(distances(found, expected)) < 1e-4


@pytest.mark.slow
@pytest.mark.parametrize("stopped", [0, 1])
def test_where_one_process_is_stopped_both_end_and_say_where_they_stand(
    stopped: int, alone: TrainConfig, training_rows: Path, model_dir: Path, tmp_path: Path
) -> None:
    config = make_config(training_rows, model_dir, tmp_path / "together", MESHES["fsdp=8"])
    bound = 45.0  # Compiling the first step must fit in.
    watchdog = {"minutes": bound / 60, "medians": 1.5}
    config = config.model_validate(config.model_dump() | {"watchdog": watchdog})
    processes = start_two(config, tmp_path)
    wait_for_steps(Path(config.output) / "log.jsonl", 2, processes)
    begin = time.monotonic()
    processes[stopped].send_signal(signal.SIGSTOP)  # Nobody lets it go on but its own guard.
    found = finish(processes)
    assert time.monotonic() - begin < bound + 45
    for number, (code, text) in enumerate(found):
        assert code == STALLED_EXIT, text
        assert "error: no step for" in text or f"so process {number} stops as well: no step" in text
        assert "Current thread" in text and "gplan_jax/training/loop/loop.py" in text
    stacks = list(Path(config.output).glob("stalled-*.txt"))
    assert stacks and all("last barrier" in path.read_text() for path in stacks)
    assert len(losses(config)) < STEPS

    going_on = make_config(training_rows, model_dir, tmp_path / "together", {})
    train(going_on, resume=True)
    assert losses(config) == pytest.approx(losses(alone), rel=TOLERANCE)
