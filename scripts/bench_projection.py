"""A model's gradient with its projections over one axis of tokens, and over rows and tokens.

    python scripts/bench_projection.py [--rounds 5]

Prints one JSON line: milliseconds of processor time a step, and the median of the rounds' ratios.
With two axes to sum over, XLA's CPU backend writes the gradient of a weight transposed, and so
transposes the gradient of the outputs, reading it column by column (``models.layers.projection``).
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gplan_jax.models.layers.projection import project
from gplan_jax.models.qwen3 import model as qwen3
from gplan_jax.models.qwen3.config import Qwen3Config

SHAPES = {
    "hidden 64, 4 layers, 32 x 96": (64, 4, 32, 96),
    "hidden 128, 2 layers, 16 x 320": (128, 2, 16, 320),
}
STEPS = 10


def main() -> None:
    """Measures both ways in turn."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=5)
    rounds = parser.parse_args().rounds
    found = {}
    for name, (hidden, layers, rows, length) in SHAPES.items():
        merged, apart = (
            gradient(hidden, layers, rows, length, way) for way in (project, over_two_axes)
        )
        pairs = [(milliseconds(merged), milliseconds(apart)) for _ in range(rounds)]
        found[name] = {
            "merged_ms": round(statistics.median(one for one, _ in pairs)),
            "over_two_axesms": round(statistics.median(two for _, two in pairs)),
            "ratio": round(statistics.median(two / one for one, two in pairs), 2),
        }
    device = jax.devices()[0].device_kind
    ran_on = f"{os.cpu_count()} CPU cores, {device}, Python {platform.python_version()}"
    print(json.dumps({"benchmark": "projection", "shapes": found, "ran_on": ran_on}))


def over_two_axes(equation: str, x: jax.Array, weight: nnx.Param, adapter: None) -> jax.Array:
    """`project` over all axes of x as they are."""
    return jnp.einsum(equation.replace("T", "BT"), x, weight[...])


def gradient(
    hidden: int, layers: int, rows: int, length: int, way: Callable[..., jax.Array]
) -> Callable[[], Any]:
    """The compiled gradient of the mean squared logits, whose projections are computed in a way."""
    config = Qwen3Config(
        vocab_size=384,
        hidden_size=hidden,
        intermediate_size=6 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=hidden // 32,
        num_key_value_heads=hidden // 32,
        head_dim=32,
    )
    graph, state = nnx.split(qwen3.Qwen3(config, rngs=nnx.Rngs(0)))
    ids = jnp.asarray(np.random.default_rng(0).integers(0, 384, (rows, length)), jnp.int32)
    qwen3.project = way

    def loss(state: Any) -> jax.Array:
        return jnp.mean(nnx.merge(graph, state)(ids) ** 2)

    compiled = jax.jit(jax.grad(loss)).lower(state).compile()
    qwen3.project = project
    return lambda: jax.block_until_ready(compiled(state))


def milliseconds(run: Callable[[], Any]) -> float:
    """Processor time of one run."""
    run()
    start = time.process_time()
    for _ in range(STEPS):
        run()
    return 1000 * (time.process_time() - start) / STEPS


if __name__ == "__main__":
    main()
