"""A training step on the CPU with and without huge pages; prints one JSON line of figures.

    python scripts/bench_huge_pages.py [--rounds 3]

XLA asks for the buffers of every step afresh. Without huge pages the kernel hands them out 4 KiB at
a time; GLIBC_TUNABLES=glibc.malloc.hugetlb=1 lets it take 2 MiB. Both run in turn, each in its own
process, so that a machine whose speed drifts treats them alike.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import time

TUNABLE = "glibc.malloc.hugetlb=1"
ROWS, LENGTH, RESPONSE, VOCABULARY = 16, 192, 64, 1088
STEPS = 20


def main() -> None:
    """Measures both ways in turn, or one of them in a child process."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.child:
        print(json.dumps(measure()))
        return
    plain, huge = [], []
    for _ in range(options.rounds):
        plain.append(run_child(""))
        huge.append(run_child(TUNABLE))
    ratios = [
        h["tokens_per_second"] / p["tokens_per_second"] for h, p in zip(huge, plain, strict=True)
    ]
    print(
        json.dumps(
            {
                "benchmark": "huge_pages_train_step",
                "tokens_per_second": median(huge, "tokens_per_second"),
                "tokens_per_second_plain": median(plain, "tokens_per_second"),
                "ratio": round(statistics.median(ratios), 2),
                "ratio_range": [round(min(ratios), 2), round(max(ratios), 2)],
                "page_faults_a_step": median(huge, "page_faults"),
                "page_faults_a_step_plain": median(plain, "page_faults"),
                "shape": f"hidden 128, 3 layers, batch {ROWS} x {LENGTH}, float32",
                "ran_on": f"{os.cpu_count()} CPU cores, Python {platform.python_version()}",
            }
        )
    )


def run_child(tunables: str) -> dict[str, float]:
    """One measurement in a process of its own."""
    environment = os.environ | {"GLIBC_TUNABLES": tunables, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, __file__, "--child"]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure() -> dict[str, float]:
    """Tokens a second and page faults a step of a tiny PICD step, after two warm-up steps."""
    import jax
    import numpy as np
    import optax
    from flax import nnx

    from gplan_jax.data import Batch, SampleRows
    from gplan_jax.models import Qwen3, Qwen3Config
    from gplan_jax.training.steps.objectives import SectionObjective
    from gplan_jax.training.steps.step import TrainState, make_train_step
    from gplan_jax.training.steps.train_config import LossConfig

    config = Qwen3Config(VOCABULARY, 128, 384, 3, 2, 1, head_dim=64, tie_word_embeddings=True)
    graphdef, params = nnx.split(Qwen3(config, rngs=nnx.Rngs(0)), nnx.Param)
    optimizer = optax.adamw(1e-3)
    state = TrainState.create(params, optimizer)
    step = make_train_step(graphdef, optimizer, SectionObjective(LossConfig(), "sections"))
    rng = np.random.default_rng(0)
    shape = (ROWS, RESPONSE)
    first = LENGTH - RESPONSE - 1
    batch = Batch(
        SampleRows(
            tokens_BxS=rng.integers(0, VOCABULARY, (ROWS, LENGTH)).astype(np.int32),
            lengths_B=np.full(ROWS, LENGTH, np.int32),
            targets_BxR=rng.integers(0, VOCABULARY, shape).astype(np.int32),
            target_positions_BxR=np.broadcast_to(
                first + np.arange(RESPONSE, dtype=np.int32), shape
            ),
            sections_BxR=rng.integers(1, 3, shape).astype(np.int8),
        )
    )
    for _ in range(2):
        state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    started = time.perf_counter()
    for _ in range(STEPS):
        state, metrics = step(state, batch)
    jax.block_until_ready(metrics)
    seconds = time.perf_counter() - started
    return {
        "tokens_per_second": ROWS * LENGTH * STEPS / seconds,
        "page_faults": (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults) / STEPS,
    }


def median(runs: list[dict[str, float]], key: str) -> float:
    """The middle value of a figure over all rounds."""
    return round(statistics.median(run[key] for run in runs), 1)


if __name__ == "__main__":
    main()
