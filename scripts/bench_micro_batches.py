"""A training step over a whole batch, and over micro-batches that stay in a core's cache.

    python scripts/bench_micro_batches.py world_small model=runs/start data.train=rows.csv
    python scripts/bench_micro_batches.py world_small model=... data.train=... --tokens 256,1024

Takes the run of any `gplan train` config and prints one JSON line: the median seconds of a step,
of wall and of processor time, and the medians of the rounds' ratios to the step that takes the
whole batch at once, its layers in a loop (`whole, looped`). The ways take turns at the same batch,
the first of the run and one from its middle; losses are told, so that they can be compared.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import jax
from flax import nnx

from gplan_jax.foundation.config import load_config
from gplan_jax.foundation.streams import cores
from gplan_jax.models.qwen3 import model as qwen3
from gplan_jax.training.hosts.mesh import put_batch
from gplan_jax.training.loop.reference import with_reference
from gplan_jax.training.steps.objectives import make_objective
from gplan_jax.training.steps.setup import Run, prepare, trained_filters
from gplan_jax.training.steps.step import CACHED_TOKENS, make_train_step
from gplan_jax.training.steps.train_config import TrainConfig

CONFIGS = Path(__file__).resolve().parents[1] / "configs"
STEPS = 3  # between two readings of the clock


def main() -> None:
    """Measures all ways in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", help="a name in configs/")
    parser.add_argument("overrides", nargs="*", metavar="KEY=VALUE")
    parser.add_argument("--tokens", default=str(CACHED_TOKENS * cores()), help="of a micro-batch")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        config = load_config(
            TrainConfig,
            CONFIGS / f"{options.config}.yaml",
            [*options.overrides, f"output={folder}"],
        )
        found = measure(prepare(config, Path(folder)), options.tokens, options.rounds)
    ran_on = f"{cores()} CPU cores, Python {platform.python_version()}"
    print(json.dumps({"benchmark": "micro_batches", "batches": found, "ran_on": ran_on}))


def measure(run: Run, tokens: str, rounds: int) -> list[dict[str, Any]]:
    """The figures of each batch."""
    most = qwen3._UNROLLED_LAYERS
    ways: dict[str, tuple[int, int | None]] = {"whole, looped": (0, None), "whole": (most, None)}
    ways |= {f"{count} tokens": (most, int(count)) for count in tokens.split(",")}
    found = []
    with jax.set_mesh(run.mesh):
        run = with_reference(run)
        for number in (0, run.plan.total_steps // 2):
            loaded = next(iter(run.batches(number)))
            batch, rows = put_batch(loaded.batch, run.mesh), loaded.batch.rows
            steps: dict[str, list[Any]] = {}
            losses: dict[str, float] = {}
            for name, (unrolled, most_tokens) in ways.items():
                qwen3._UNROLLED_LAYERS = unrolled
                graphdef, *_ = nnx.split(run.model, *trained_filters(run.config))
                step = make_train_step(
                    graphdef,
                    run.optimizer,
                    make_objective(run.config),
                    accumulation_steps=run.config.accumulation_steps,
                    most_tokens=most_tokens,
                )
                state, metrics = step(run.initial_state(), batch)
                steps[name], losses[name] = [step, state], float(metrics["loss"])
            clocks: dict[str, list[tuple[float, float]]] = {name: [] for name in ways}
            for _ in range(rounds):
                for name, held in steps.items():
                    start = time.perf_counter(), time.process_time()
                    for _ in range(STEPS):
                        held[1], _ = held[0](held[1], batch)
                    jax.block_until_ready(held[1])
                    ends = time.perf_counter(), time.process_time()
                    clocks[name].append(
                        ((ends[0] - start[0]) / STEPS, (ends[1] - start[1]) / STEPS)
                    )
            shape = f"{len(jax.tree.leaves(rows)[0])} x {rows.tokens_a_row} tokens"
            found.append({"step": number, "batch": shape} | table(clocks, losses))
    return found


def table(clocks: dict[str, list[tuple[float, float]]], losses: dict[str, float]) -> dict[str, Any]:
    """The medians of each way."""
    base, found = clocks["whole, looped"], {}
    for name, own in clocks.items():
        pairs = list(zip(base, own, strict=True))
        found[name] = {
            "seconds": round(statistics.median(wall for wall, _ in own), 3),
            "processor_seconds": round(statistics.median(cpu for _, cpu in own), 3),
            "ratio": round(statistics.median(b[0] / o[0] for b, o in pairs), 2),
            "processor_ratio": round(statistics.median(b[1] / o[1] for b, o in pairs), 2),
            "loss": round(losses[name], 5),
        }
    return found


if __name__ == "__main__":
    main()
