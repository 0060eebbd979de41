"""Two processes that find their newest checkpoint torn, if only one of them, fall back together."""

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

import numpy as np
import pytest

from gplan_jax.foundation.files import read_json, write_json
from gplan_jax.training.loop.metrics_log import read_log

STEPS = 15  # 20 rows in batches of 4, 3 epochs


def config_file(path: Path, run: Path, data: dict[str, Any], model: Path, **changes: Any) -> Path:
    values: dict[str, Any] = {
        "mode": "picd",
        "model": str(model),
        "output": str(run),
        "epochs": 3,
        "batch_size": 4,
        "data": data,
        "optimizer": {"learning_rate": 1e-3, "polish_lr": 1e-4, "target_blocks": 1},
        "precision": {"compute": "float32", "remat": "none"},
    }
    write_json(path, values | changes)  # JSON is YAML.
    return path


def start(arguments: list[str], cache: Path, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "gplan_jax.cli.main", *arguments],
        env=os.environ
        | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(cache)}
        | environment,
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )


def finish(process: subprocess.Popen[str]) -> tuple[int, str]:
    error = process.communicate(timeout=240)[1]
    return process.returncode, error


def start_two(config: Path, cache: Path, *arguments: str) -> list[subprocess.Popen[str]]:
    """Two processes with a device each, as one run."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    return [
        start(
            ["train", str(config), "mesh.fsdp=2", *arguments],
            cache,
            # Two programs at once can block each other in gloo, which the CPU's collectives use.
            JAX_CPU_ENABLE_ASYNC_DISPATCH="false",
            JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(number),
        )
        for number in range(2)
    ]


def losses(run: Path) -> list[float]:
    return [r["loss"] for r in read_log(run / "log.jsonl") if r["kind"] == "step"]


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("compiled")


@pytest.fixture(scope="module")
def alone(
    tmp_path_factory: pytest.TempPathFactory,
    training_data: dict[str, Any],
    tiny_model_dir: Path,
    cache: Path,
) -> Path:
    """A finished run of one process with one device."""
    folder = tmp_path_factory.mktemp("alone")
    config = config_file(folder / "a.yaml", folder / "run", training_data, tiny_model_dir)
    assert finish(start(["train", str(config)], cache))[0] == 0
    return folder / "run"


@pytest.fixture(scope="module")
def stopped(
    tmp_path_factory: pytest.TempPathFactory,
    training_data: dict[str, Any],
    tiny_model_dir: Path,
    cache: Path,
) -> tuple[Path, int]:
    """A run of two processes that a scheduler stopped, and the step where."""
    folder = tmp_path_factory.mktemp("stopped")
    run, log = folder / "run", folder / "run" / "log.jsonl"
    config = config_file(folder / "b.yaml", run, training_data, tiny_model_dir)
    processes = start_two(config, cache, "checkpoint.every_steps=1")
    deadline = time.monotonic() + 300
    while not (log.is_file() and log.read_text().count("\n") >= 3):
        assert all(process.poll() is None for process in processes), [
            process.communicate() for process in processes
        ]
        assert time.monotonic() < deadline
        time.sleep(0.005)
    # The scheduler tells one host; the other learns of it and stops at the same step.
    processes[1].send_signal(signal.SIGTERM)
    (code, said), (other, _) = (finish(process) for process in processes)
    assert (code, other) == (143, 143), said
    step = max(int(p.name) for p in (run / "checkpoints").iterdir())
    assert f"after step {step} of {STEPS}" in said and "--resume" in said
    assert read_log(log)[-1]["step"] == step < STEPS
    record = read_json(run / "checkpoints" / str(step) / "run" / "data.json")
    assert record["data"] == {"next_step": step}
    return run, step


@pytest.mark.slow
@pytest.mark.parametrize("damage", ["flipped", "truncated"])
def test_two_processes_fall_back_together(
    damage: str,
    stopped: tuple[Path, int],
    alone: Path,
    training_data: dict[str, Any],
    tiny_model_dir: Path,
    cache: Path,
    tmp_path: Path,
) -> None:
    run, step = Path(shutil.copytree(stopped[0], tmp_path / "run")), stopped[1]
    # The numbers that one of the processes wrote; the other's are whole.
    files = (run / "checkpoints" / str(step) / "state").glob("ocdbt.process_1/d/*")
    data = max(files, key=lambda path: path.stat().st_size)
    content = bytearray(data.read_bytes())
    content[len(content) // 2] ^= 1
    data.write_bytes(content if damage == "flipped" else content[: len(content) // 2])
    config = config_file(tmp_path / "d.yaml", run, training_data, tiny_model_dir)
    ended = [finish(p) for p in start_two(config, cache, "--resume")]
    said = " ".join(ended[0][1].split())
    assert [code for code, _ in ended] == [0, 0], ended
    assert f"checkpoints/{step} is torn" in said and f"checkpoints/{step - 1}." in said
    assert "torn" not in ended[1][1]  # The first process speaks for both.
    assert len(losses(run)) == STEPS
    np.testing.assert_allclose(losses(run), losses(alone), rtol=1e-4)
    assert (run / "model" / "tokenizer.json").is_file()
