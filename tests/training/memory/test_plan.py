"""Plans of small steps on this machine's device, and what can be said without any."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import parse_config
from gplan_jax.models.qwen3.config import Qwen3Config
from gplan_jax.models.qwen3.model import abstract_qwen3
from gplan_jax.training.memory.abstract_step import QWEN3_SHAPES, kept_activation_bytes, model_shape
from gplan_jax.training.memory.batch_shape import BatchShape, RowLengths, batch_shape
from gplan_jax.training.memory.hlo_costs import Collective, HloCosts
from gplan_jax.training.memory.planning import estimate, needed_bytes, plan_memory
from gplan_jax.training.memory.report import MemoryPlan, describe, roofline, useful_flops, verdict
from gplan_jax.training.memory.topologies import CHIPS, GIB, parse_topology
from gplan_jax.training.steps.train_config import TrainConfig

# More layers than are unrolled: of the last one nothing would be computed that nobody reads.
LAYERS = 5
TINY = Qwen3Config(512, 64, 192, LAYERS, 2, 1, head_dim=32, tie_word_embeddings=True)
LENGTHS = RowLengths(sequence=48, prefix=16, response=8)


def config(**values: Any) -> TrainConfig:
    base: dict[str, Any] = {
        "mode": "picd",
        "model": "models/Qwen3-1.7B",
        "output": "o",
        "batch_size": 4,
        "data": {"train": "t", "length_multiple": 16, "response_multiple": 8},
        "loss": {"vocab_chunk": 512},
        "precision": {"compute": "float32", "remat": "none"},
    }
    return parse_config(TrainConfig, {**base, **values}, source="test")


@pytest.fixture(scope="module")
def tiny_plan() -> MemoryPlan:
    return plan_memory(config(accumulation_steps=2), TINY, parse_topology("local"), LENGTHS)


def test_weights_and_optimizer_are_the_models_own(tiny_plan: MemoryPlan) -> None:
    memory = tiny_plan.memory
    assert memory is not None
    layer = 64 * 32 * (2 * 2 + 2 * 1) + 3 * 64 * 192 + 2 * 64 + 2 * 32
    parameters = 512 * 64 + 64 + LAYERS * layer
    assert memory.weights == 4 * parameters
    # Two moments and a few counters.
    assert 0 <= memory.optimizer - 8 * parameters < 64
    assert memory.gradients == 4 * parameters
    assert memory.activations > 0
    assert memory.peak == tiny_plan.needed > memory.weights + memory.optimizer


def test_executed_products_are_the_useful_ones_and_the_hidden_pairs(tiny_plan: MemoryPlan) -> None:
    """A step multiplies forwards once and backwards twice; masks hide, not save."""
    assert tiny_plan.costs is not None
    assert tiny_plan.costs.unknown_loops == ()
    rows, own, prefix = 4, 32, 16
    layer = 2 * (64 * 32 * 6 + 3 * 64 * 192)
    useful = tiny_plan.useful_flops
    linear = 3 * LAYERS * layer * (rows * own + prefix) + 3 * 2 * 512 * 64 * rows * 8
    pair = 3 * LAYERS * 4 * 2 * 32
    causal = rows * (own * (own + 1) / 2 + own * prefix) + prefix * (prefix + 1) / 2
    dense = rows * own * (own + prefix) + prefix**2
    assert useful == linear + pair * causal
    # Backwards, blocks of attention are computed again; the logits of a slice too, unless the
    # compiler sees that they are there.
    logits, executed = 2 * 512 * 64 * rows * 8, linear + pair * dense * 4 / 3
    assert tiny_plan.costs.flops in (executed, executed + logits)


def test_xla_counts_loop_bodies_once(tiny_plan: MemoryPlan) -> None:
    assert tiny_plan.xla_flops is not None and tiny_plan.costs is not None
    assert tiny_plan.xla_flops < 0.7 * tiny_plan.costs.flops


def test_a_local_plan_has_no_capacity_and_says_so(tiny_plan: MemoryPlan) -> None:
    text = describe(tiny_plan)
    assert "fits: unknown" in text
    assert "compiled ahead of time" in text
    assert max(map(len, text.splitlines())) <= 100


def test_remat_keeps_only_layer_inputs() -> None:
    # Not 32 tokens: the states of two rows would have the shape of the output matrices.
    batch = BatchShape(rows=4, tokens=40, responses=8, prefix=16)

    def kept(remat: Any) -> float:
        model = abstract_qwen3(TINY, jnp.float32, jnp.float32, remat)
        return kept_activation_bytes(model, config(), batch, row_parts=2)

    inputs = LAYERS * 2 * 40 * 64 * 4
    assert inputs <= kept("full") < 2 * inputs
    assert kept("full") < kept("dots") < kept("none")
    assert kept("offload") == 0


def test_activations_shrink_with_micro_batches() -> None:
    model = abstract_qwen3(TINY, jnp.float32, jnp.float32, "none")
    batch = BatchShape(rows=8, tokens=32, responses=8, prefix=0)
    whole, half = (
        kept_activation_bytes(model, config(accumulation_steps=parts), batch, row_parts=1)
        for parts in (1, 2)
    )
    assert half < 0.6 * whole


def test_useful_flops_of_the_layouts_differ_by_the_shared_prefix() -> None:
    shape = QWEN3_SHAPES["qwen3-1.7b"]
    lengths = RowLengths(2048, 761, 311)
    tree = useful_flops(shape, config(batch_size=64), lengths)
    plain = useful_flops(
        shape, config(batch_size=64, data={"train": "t", "layout": "plain"}), lengths
    )
    # 6 N D of the layers alone, for the tokens that the tree saves 63 times.
    layers = 28 * (2048 * 128 * 48 + 3 * 2048 * 6144)
    saved = 6 * layers * 63 * 761
    assert saved < plain - tree < 1.1 * saved


def test_batches_are_padded_as_the_loader_pads_them() -> None:
    lengths = RowLengths(2048, 761, 311)
    tree = batch_shape(config(data={"train": "t"}), lengths)
    assert tree == BatchShape(rows=4, tokens=1408, responses=320, prefix=768)
    plain = batch_shape(config(data={"train": "t", "layout": "plain"}), lengths)
    assert plain == BatchShape(rows=4, tokens=2048, responses=320, prefix=0)


def test_lengths_that_leave_no_prompt_are_refused() -> None:
    with pytest.raises(GplanError, match="--prefix-length"):
        RowLengths(sequence=1000, prefix=761, response=311)


def test_the_slowest_limit_bounds_the_step() -> None:
    chip = CHIPS["v5e"]
    costs = HloCosts(
        matmul_flops=197e12,
        kernel_flops=0.0,
        silent_kernels=0,
        hbm_bytes=2 * 819e9,
        collectives=(Collective("all-gather", 3, 0.5 * 200e9),),
        unknown_loops=(),
    )
    line = roofline(chip, costs, useful_flops=0.8 * 197e12)
    assert (line.compute, line.memory, line.network) == (1.0, 2.0, 0.5)
    assert (line.seconds, line.limit, line.utilisation) == (2.0, "main memory", 0.4)


@pytest.mark.parametrize(
    ("message", "needed"),
    [
        (
            "RESOURCE_EXHAUSTED: E1000: Ran out of memory on HBM, the total memory required for "
            "HLO temporaries (260.00G) exceeds available HBM (15.75G).",
            260 * 2**30,
        ),
        ("RESOURCE_EXHAUSTED: Used 18.50G of 15.75G hbm. Exceeded by 2.75G", 18.5 * 2**30),
        ("INTERNAL: something else", None),
    ],
)
def test_what_a_refused_step_needs_is_read_from_the_compilers_words(
    message: str, needed: float | None
) -> None:
    assert needed_bytes(message) == needed


def test_a_refused_step_does_not_fit(tiny_plan: MemoryPlan) -> None:
    refused = dataclasses.replace(
        tiny_plan,
        topology=parse_topology("v5e:1x1"),
        memory=None,
        costs=None,
        needed=20 * GIB,
        capacity=CHIPS["v5e"].memory,
    )
    assert not refused.fits
    assert (
        verdict(refused.needed, refused.capacity, estimated=False)
        == "fits: no, it needs 20.00 GiB, 4.25 GiB more than the 15.75 GiB there are"
    )
    assert "refused" in describe(refused)


def test_an_estimate_is_named_one_and_its_state_is_exact() -> None:
    shape = QWEN3_SHAPES["qwen3-1.7b"]
    settings = config(
        batch_size=64, precision={"compute": "bfloat16", "remat": "full"}, data={"train": "t"}
    )
    lengths = RowLengths(2048, 761, 311)
    one, eight = (
        estimate(settings, shape, parse_topology(name), lengths) for name in ("h100:1", "h100:8")
    )
    assert one.source == eight.source == "estimate"
    assert one.memory is not None and eight.memory is not None
    assert one.memory.weights == 4 * 1_720_574_976
    assert eight.memory.weights == pytest.approx(one.memory.weights / 8, rel=1e-3)
    assert eight.needed < one.needed / 4
    text = describe(eight)
    assert "ESTIMATE" in text and "(estimate)" in text and "roofline" not in text
    assert max(map(len, text.splitlines())) <= 100


def test_lora_holds_no_master_copy_and_no_moments_of_frozen_weights() -> None:
    shape = QWEN3_SHAPES["qwen3-1.7b"]
    settings = config(
        batch_size=64,
        precision={"compute": "bfloat16", "remat": "full"},
        data={"train": "t"},
        lora={"rank": 16},
    )
    plan = estimate(settings, shape, parse_topology("h100:1"), RowLengths(2048, 761, 311))
    assert plan.memory is not None
    adapters = 28 * 16 * (4 * 2048 + 2 * (2048 + 1024) + 3 * (2048 + 6144)) + 33 * 2048
    assert plan.memory.weights == 2 * 1_720_574_976 + 4 * adapters
    assert 0 <= plan.memory.optimizer - 8 * adapters < 64


def test_shapes_by_directory_name_option_and_file(tiny_model_dir: Any) -> None:
    assert model_shape(Path("models/Qwen3-4B")) == QWEN3_SHAPES["qwen3-4b"]
    assert model_shape(Path("x"), "qwen3-0.6b") == QWEN3_SHAPES["qwen3-0.6b"]
    assert model_shape(tiny_model_dir).hidden_size == 32
    with pytest.raises(GplanError, match="gplan convert"):
        model_shape(Path("models/nothing"))
    with pytest.raises(GplanError, match=r"qwen3-1\.7b"):
        model_shape(Path("x"), "llama")


def test_a_mesh_that_does_not_divide_is_refused_before_compiling() -> None:
    settings = config(accumulation_steps=4, precision={"remat": "full"})
    with pytest.raises(GplanError, match="do not divide"):
        estimate(settings, TINY, parse_topology("h100:8"), LENGTHS)


def test_the_compilation_cache_is_left_as_it_was(tiny_plan: MemoryPlan) -> None:
    options: Any = jax.config
    assert options.jax_enable_compilation_cache
