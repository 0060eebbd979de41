"""A process that hangs ends with its stacks and its own code; ``hosts`` tests two of them."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from gplan_jax.training.loop.loop import train
from gplan_jax.training.loop.metrics_log import read_log
from gplan_jax.training.steps.train_config import TrainConfig

HANGS = """
import sys, time
from pathlib import Path
from gplan_jax.training.loop import watchdog
from gplan_jax.training.loop.run_clock import RunClock
from gplan_jax.training.steps.train_config import WatchdogConfig
phase, folder = sys.argv[1], Path(sys.argv[2])
watchdog.TICK_SECONDS = 0.05
clock = RunClock()
def waits_for_a_disk():
    time.sleep(4)
save = lambda: (folder / "saved").touch()
with watchdog.Watchdog(WatchdogConfig(minutes=1 / 60), clock, folder, save), clock.spending(phase):
    waits_for_a_disk()
print("went on")
"""

HANGING_RUN = """
import sys, time
from pathlib import Path
from gplan_jax.training.loop.loop import train
from gplan_jax.training.steps.setup import Run
from gplan_jax.training.steps.train_config import TrainConfig
whole = Run.batches
def batches(run, start):
    batches = whole(run, start)
    for number in range(3):
        yield next(batches)
    time.sleep(3600)
Run.batches = batches
train(TrainConfig.model_validate_json(Path(sys.argv[1]).read_text()))
"""


def run(program: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-c", program, *arguments]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | {"JAX_PLATFORMS": "cpu"}
    )


def test_a_silent_process_saves_what_it_can_and_says_where_it_stands(tmp_path: Path) -> None:
    done = run(HANGS, "data", str(tmp_path))
    assert done.returncode == 75 and "went on" not in done.stdout
    assert "error: no step for 1 s (at most 1, see watchdog in the config)" in done.stderr
    assert "the host is at: data" in done.stderr and "in waits_for_a_disk" in done.stderr
    assert "in waits_for_a_disk" in (tmp_path / "stalled-0.txt").read_text()
    assert (tmp_path / "saved").exists()


def test_an_evaluation_is_no_silence(tmp_path: Path) -> None:
    done = run(HANGS, "evaluation", str(tmp_path))
    assert (done.returncode, done.stdout) == (0, "went on\n")
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_run_that_waits_for_rows_is_saved_and_goes_on(
    unbroken: TrainConfig, make_config: Callable[..., TrainConfig], tmp_path: Path
) -> None:
    # Step 3 is in no checkpoint of the run's own: one is written every 2 steps.
    config = make_config(tmp_path / "run", watchdog={"minutes": 0.75, "medians": 1.5})
    (tmp_path / "config.json").write_text(config.model_dump_json())
    done = run(HANGING_RUN, str(tmp_path / "config.json"))
    assert done.returncode == 75, done.stderr
    assert (tmp_path / "run" / "checkpoints" / "3").is_dir()
    train(config, resume=True)
    logs = [read_log(Path(c.output) / "log.jsonl") for c in (config, unbroken)]
    one, other = ([(r["step"], r["loss"]) for r in log] for log in logs)
    assert one == other
    assert logs[0][-1]["seconds"]["lost"] == 0
