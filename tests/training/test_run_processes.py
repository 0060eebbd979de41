"""A run of two processes that is pre-empted goes on in one process with one device."""

from __future__ import annotations

import os
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
from gplan_jax.training.metrics_log import read_log

STEPS = 15  # 40 rows in batches of 8, 3 epochs


def config_file(path: Path, run: Path, data: Path, model: Path, **changes: Any) -> Path:
    values: dict[str, Any] = {
        "mode": "picd",
        "model": str(model),
        "output": str(run),
        "epochs": 3,
        "batch_size": 8,
        "data": {
            "train": str(data),
            "template": "compact_zh",
            "max_length": 512,
            "length_multiple": 512,
            "response_multiple": 384,
        },
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
    error = process.communicate(timeout=600)[1]
    return process.returncode, error


@pytest.mark.slow
def test_two_processes_stop_together_and_one_goes_on(
    world_file: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    cache = tmp_path / "compiled"
    alone = config_file(tmp_path / "a.yaml", tmp_path / "alone", world_file, tiny_model_dir)
    assert finish(start(["train", str(alone)], cache))[0] == 0

    run = tmp_path / "run"
    both = config_file(tmp_path / "b.yaml", run, world_file, tiny_model_dir)
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    processes = [
        start(
            ["train", str(both), "mesh.data=2", "mesh.fsdp=2"],
            cache,
            XLA_FLAGS="--xla_force_host_platform_device_count=2",
            JAX_COORDINATOR_ADDRESS=f"localhost:{port}",
            JAX_NUM_PROCESSES="2",
            JAX_PROCESS_ID=str(number),
        )
        for number in range(2)
    ]
    deadline = time.monotonic() + 300
    log = run / "log.jsonl"
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
    steps = sorted(int(p.name) for p in (run / "checkpoints").iterdir())
    stopped = steps[-1]
    assert f"after step {stopped} of {STEPS}" in said and "--resume" in said
    assert read_log(log)[-1]["step"] == stopped < STEPS
    record = read_json(run / "checkpoints" / str(stopped) / "run" / "data.json")
    assert record["data"] == {"next_step": stopped}

    code, said = finish(start(["train", str(both), "--resume"], cache))
    assert code == 0, said
    assert "mesh.data: was 2, now 1" in said and "not bit for bit" in said
    losses = [
        [r["loss"] for r in read_log(tmp_path / name / "log.jsonl") if r["kind"] == "step"]
        for name in ("alone", "run")
    ]
    assert len(losses[1]) == STEPS
    np.testing.assert_allclose(losses[1], losses[0], rtol=1e-4)
