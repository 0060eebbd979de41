"""A real plan for a TPU slice, on a machine that has none: needs libtpu (extra ``tpu``)."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
from typing import Any

import pytest

pytest.importorskip("libtpu")

PROGRAM = """
import json
import sys
from gplan_jax.foundation.config import parse_config
from gplan_jax.models.qwen3.config import Qwen3Config
from gplan_jax.training.memory.batch_shape import RowLengths
from gplan_jax.training.steps.train_config import TrainConfig
from gplan_jax.training.memory.planning import plan_memory
from gplan_jax.training.memory.topologies import parse_topology

mode, slices = sys.argv[1], int(sys.argv[2])
config = parse_config(
    TrainConfig,
    {"mode": mode, "model": "m", "output": "o", "batch_size": 8 * slices,
     "accumulation_steps": 2 // slices, "mesh": {"slices": slices, "data": slices},
     "data": {"train": "t"}, "optimizer": {"schedule": "calr" if mode == "picd" else "constant"}},
    source="test",
)
shape = Qwen3Config(1024, 256, 512, 4, 2, 1, head_dim=128, tie_word_embeddings=True)
context = 65 if mode == "scdpo" else 0
lengths = RowLengths(sequence=640 + context, prefix=256, response=64, context=context)
plan = plan_memory(config, shape, parse_topology(f"{slices}xv5e:2x2"), lengths)
print(json.dumps({
    "fits": plan.fits, "kernel": plan.kernel, "weights": plan.memory.weights,
    "needed": plan.needed, "matmul": plan.costs.matmul_flops, "kernels": plan.costs.kernel_flops,
    "silent": plan.costs.silent_kernels, "unknown": plan.costs.unknown_loops,
    "kinds": [c.kind for c in plan.costs.collectives], "limit": plan.roofline.limit,
    "crossing": {c.kind: c.bytes_sent for c in plan.costs.collectives if c.between_slices},
}))
"""
LAYER = 256 * 128 * 6 + 3 * 256 * 512
PARAMETERS = 1024 * 256 + 256 + 4 * (LAYER + 2 * 256 + 2 * 128)


def plan_of(mode: str, slices: int = 1) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PROGRAM), mode, str(slices)],
        env={**os.environ, "TPU_SKIP_MDS_QUERY": "1", "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        check=True,
    )
    plan: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    # Norms of a head's size stay whole on every chip.
    assert PARAMETERS <= plan["weights"] <= PARAMETERS + 4 * 4 * 2 * 128
    assert plan["kernel"] == "splash"
    assert plan["fits"] and plan["weights"] < plan["needed"] < 2**30
    assert plan["unknown"] == [] and plan["silent"] == 0 and plan["kernels"] > 0
    assert "all-gather" in plan["kinds"]
    return plan


@pytest.mark.slow
def test_the_step_of_a_small_model_on_four_chips() -> None:
    # Forwards, once more for remat, twice backwards; less what remat leaves out.
    rows, own, prefix = 8 / 4, 384, 256 / 4
    linear = 4 * 2 * LAYER * (rows * own + prefix) + 2 * 1024 * 256 * rows * 64
    assert 3 * linear < plan_of("picd")["matmul"] < 4.05 * linear


@pytest.mark.slow
def test_the_step_on_pairs_on_four_chips() -> None:
    pairs, prefix = 8 / 4, 256 / 4
    tokens = pairs * (384 + 2 * 64 + 4 * 64) + prefix
    linear = 4 * 2 * LAYER * tokens + 2 * 1024 * 256 * pairs * 4 * 64
    assert 3 * linear < plan_of("scdpo")["matmul"] < 4.05 * linear


@pytest.mark.slow
def test_between_two_slices_only_gradients_cross() -> None:
    plan = plan_of("picd", slices=2)
    # No weights, no activations: each chip exchanges its part of the gradients with its counterpart
    # in the other slice, in products' bfloat16 or added up in float32, and of the prefix's keys and
    # values their cotangents.
    assert plan["crossing"].keys() == {"all-reduce"}
    prefix = 4 * 2 * 256 * 128 / 4
    sent, own = plan["crossing"]["all-reduce"], PARAMETERS / 4
    assert 2 * own < sent < 4 * (own + prefix) * 1.1
    assert plan_of("picd")["crossing"] == {}
