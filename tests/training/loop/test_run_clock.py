"""Goodput by a clock that the test moves, and MFU against operations counted by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx

from gplan_jax.data.batches import SampleRows
from gplan_jax.models import load_qwen3
from gplan_jax.training.loop.metrics_log import (
    MetricsLog,
    read_log,
    seconds_before,
    speed_and_time,
)
from gplan_jax.training.loop.run_clock import PHASES, WallTime, measured_peak
from gplan_jax.training.steps.setup import prepare
from gplan_jax.training.steps.train_config import TrainConfig


class FakeTime:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def test_a_run_by_hand() -> None:
    time = FakeTime()
    clock = WallTime(time)

    def spend(phase: str, seconds: float) -> None:
        with clock.spending(phase):
            time.now += seconds

    time.now = 10.0  # reads rows and weights
    clock.first_step({"step": 100.0, "lost": 7.0})
    spend("data", 2.0)  # 10 to 12
    spend("compile", 5.0)  # 12 to 17, where the first step begins; it ends at 20
    spend("data", 1.0)  # 17 to 18: the first step hides it
    assert clock.step(17.0, 20.0) == pytest.approx(2 + 3)  # Steps pay for the batch they wait for.
    # The second was dispatched at 18 and waits for the first; it ends at 24. A slow batch comes at
    # 27, three seconds too late.
    time.now = 20.0
    spend("data", 7.0)
    assert clock.step(18.0, 24.0) == pytest.approx(4)
    assert clock.step(27.0, 30.0) == pytest.approx(3 + 3)
    time.now = 30.0
    spend("checkpoint", 4.0)
    spend("evaluation", 6.0)
    time.now = 41.0  # a second of nothing in particular
    clock.idle(time.now)
    expected = {
        "step": 100 + 3 + 4 + 3,
        "compile": 5,
        "data": 2 + 3,
        "checkpoint": 4,
        "evaluation": 6,
        "restart": 10,
        "lost": 7,
        "other": 1,
    }
    assert clock.seconds == pytest.approx(expected)
    assert sum(clock.seconds.values()) == pytest.approx(107 + time.now)


def test_every_second_is_counted_once() -> None:
    rng, time = np.random.default_rng(0), FakeTime()
    clock, end = WallTime(time), 0.0
    clock.first_step({})
    for _ in range(200):
        with clock.spending(str(rng.choice(PHASES))):
            time.now += rng.exponential()
        begin = time.now
        time.now += rng.exponential()
        end = max(begin, end) + rng.exponential()
        clock.step(begin, end)
    clock.idle(time.now + 100.0)
    assert sum(clock.seconds.values()) == pytest.approx(max(time.now + 100.0, end))


def test_a_resumed_run_counts_the_steps_that_it_lost(tmp_path: Path) -> None:
    def record(number: int, **seconds: float) -> dict[str, Any]:
        spent = dict.fromkeys(PHASES, 0.0) | seconds
        figures = {"tokens_per_second": 10.0 * number, "mfu": 0.1 * number, "step_seconds": 2}
        return {"kind": "step", "step": number, **figures, "seconds": spent}

    assert seconds_before(tmp_path, 3) == {} and speed_and_time(tmp_path) == {}
    with MetricsLog(tmp_path) as log:
        log.write(record(1, step=2.0, restart=9.0))
        log.write(record(2, step=4.0, restart=9.0, checkpoint=1.0))
        log.write(record(3, step=6.0, restart=9.0, checkpoint=1.0, lost=5.0))
    found = seconds_before(tmp_path, 1)  # The checkpoint of step 1: steps 2 and 3 are lost.
    expected = {"step": 2.0, "restart": 9.0, "checkpoint": 1.0, "lost": 5.0 + 4.0}
    assert found == pytest.approx(dict.fromkeys(PHASES, 0.0) | expected)
    assert seconds_before(tmp_path, 0)["lost"] == 5.0 + 6.0
    said = speed_and_time(tmp_path)
    assert said["speed"] == "20 tokens/s, MFU 20.0% of the measured peak"
    assert said["wall time"] == "steps 29% (goodput), restart 43%, lost 24%, checkpoint 5%"


def test_mfu_is_counted_by_hand(unbroken: TrainConfig, tmp_path: Path) -> None:
    """Every product from the model's own matrices, every visible pair of tokens from masks."""
    run = prepare(unbroken.model_copy(update={"output": str(tmp_path)}), tmp_path)
    layers = nnx.state(load_qwen3(unbroken.model).layers, nnx.Param)
    matrices = [leaf for leaf in jax.tree.leaves(layers) if leaf.ndim > 2]
    numbers = sum(leaf.size for leaf in matrices)  # of all layers
    shape = run.model.config
    heads = shape.num_attention_heads * shape.head_dim * shape.num_hidden_layers
    steps = [r for r in read_log(Path(unbroken.output) / "log.jsonl") if r["kind"] == "step"]
    for record in steps:
        batch = run.loader(record["step"] - 1).batch
        assert isinstance(batch.rows, SampleRows) and batch.prefix is not None
        prefix = int(batch.prefix.length)
        tokens = prefix + int(batch.rows.lengths_B.sum())
        pairs = np.tril(np.ones((prefix, prefix))).sum()
        for length in batch.rows.lengths_B:
            whole = prefix + length
            pairs += np.tril(np.ones((whole, whole)))[prefix:].sum()
        targets = int((batch.rows.sections_BxR > 0).sum())
        forward = 2 * numbers * tokens + 2 * 2 * heads * pairs
        forward += 2 * shape.vocab_size * shape.hidden_size * targets
        expected = 3 * forward / record["step_seconds"] / measured_peak("float32")
        assert record["mfu"] == pytest.approx(expected, rel=0.03)
        all_tokens = tokens + (len(batch.rows.lengths_B) - 1) * prefix
        expected = all_tokens / record["step_seconds"]
        assert record["tokens_per_second"] == pytest.approx(expected, rel=0.03)
    spent = steps[-1]["seconds"]
    assert spent["step"] > 0 and spent["compile"] > 0 and spent["restart"] > 0
    assert spent["evaluation"] == spent["lost"] == 0
    assert steps[-1]["goodput"] == pytest.approx(spent["step"] / sum(spent.values()), rel=0.03)
