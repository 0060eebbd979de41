"""Plans of steps on context pairs (mode scdpo): the batch, its work, what it keeps."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.data.loaders import PreferenceLoader
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import parse_config
from gplan_jax.models.qwen3.config import Qwen3Config
from gplan_jax.models.qwen3.model import abstract_qwen3
from gplan_jax.training.hosts.mesh import put_batch
from gplan_jax.training.memory.abstract_step import QWEN3_SHAPES, kept_activation_bytes, model_shape
from gplan_jax.training.memory.batch_shape import (
    BatchShape,
    RowLengths,
    abstract_batch,
    batch_shape,
    segments,
)
from gplan_jax.training.memory.planning import estimate, plan_memory
from gplan_jax.training.memory.report import MemoryPlan, describe, useful_flops
from gplan_jax.training.memory.topologies import parse_topology
from gplan_jax.training.steps.setup import prepare
from gplan_jax.training.steps.train_config import TrainConfig

# More layers than are unrolled: of the last one nothing would be computed that nobody reads.
LAYERS = 5
TINY = Qwen3Config(512, 64, 192, LAYERS, 2, 1, head_dim=32, tie_word_embeddings=True)
# Of the sequence's 48 inputs 16 are of all rows, 16 of a pair, 8 of a context, 8 of a response.
LENGTHS = RowLengths(sequence=49, prefix=16, context=9, response=8)
PAIRS = 2


def config(layout: str = "prefix_tree", **values: Any) -> TrainConfig:
    data = {"train": "t", "length_multiple": 16, "response_multiple": 8, "layout": layout}
    base: dict[str, Any] = {
        "mode": "scdpo",
        "model": "runs/picd_qwen3_1_7b/model",
        "output": "o",
        "batch_size": PAIRS,
        "data": data,
        "loss": {"vocab_chunk": 512},
        "optimizer": {"schedule": "constant"},
        "precision": {"compute": "float32", "remat": "none"},
    }
    return parse_config(TrainConfig, {**base, **values}, source="test")


@pytest.mark.parametrize("layout", ["prefix_tree", "plain"])
def test_the_abstract_batch_is_what_a_run_puts_on_its_devices(
    layout: str, pairs_file: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    data = {
        "train": str(pairs_file),
        "template": "compact_zh",
        "max_length": 1024,
        "length_multiple": 16,
        "response_multiple": 8,
        "layout": layout,
    }
    settings = config(layout, model=str(tiny_model_dir), batch_size=8, data=data)
    run = prepare(settings, tmp_path)
    assert isinstance(run.loader, PreferenceLoader)
    levels = run.loader.levels_Nx3
    # A batch with the longest response, for which all are padded: its lengths fit together.
    batches = (run.loader(number) for number in range(len(levels)))
    loaded = next(found for found in batches if levels[:, 2].argmax() in found.indices_B)
    there = loaded.indices_B[loaded.indices_B >= 0]
    of_batch, of_all = levels[there].max(axis=0), levels.max(axis=0)
    shared, rest, response = (
        (of_batch[0], *of_all[1:]) if layout == "prefix_tree" else (*of_batch[:2], of_all[2])
    )
    prefix = len(run.training_set.prefix_ids)
    own = of_all[2] if layout == "prefix_tree" else of_batch[2]
    lengths = RowLengths(
        sequence=int(prefix + shared + rest + 1 + own),
        prefix=prefix,
        context=int(rest) + 1,
        response=int(response),
    )
    expected = abstract_batch(batch_shape(settings, lengths), run.mesh)
    found = put_batch(loaded.batch, run.mesh)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for array, shape in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert (array.shape, array.dtype) == (shape.shape, shape.dtype)
        assert array.sharding.is_equivalent_to(shape.sharding, array.ndim)


@pytest.fixture(scope="module")
def tiny_plan() -> MemoryPlan:
    return plan_memory(config(), TINY, parse_topology("local"), LENGTHS)


def test_executed_products_of_a_tree_are_those_of_its_segments(tiny_plan: MemoryPlan) -> None:
    """Every segment is multiplied once, forwards and twice backwards; masks hide, not save."""
    assert tiny_plan.costs is not None and tiny_plan.costs.unknown_loops == ()
    layer = 2 * (64 * 32 * 6 + 3 * 64 * 192)
    tokens = 16 + PAIRS * (16 + 2 * 8 + 4 * 8)
    logits = 2 * 512 * 64 * PAIRS * 4 * 8
    causal = 16 * 17 / 2 + PAIRS * (
        (16 * 17 / 2 + 16 * 16) + 2 * (8 * 9 / 2 + 8 * 32) + 4 * (8 * 9 / 2 + 8 * 40)
    )
    dense = 16 * 16 + PAIRS * (16 * 32 + 2 * 8 * 40 + 4 * 8 * 48)
    linear, pair = 3 * LAYERS * layer * tokens, 3 * LAYERS * 4 * 2 * 32
    assert tiny_plan.useful_flops == linear + 3 * logits + pair * causal
    # Backwards, attention is computed again; the logits too, unless the compiler has them still.
    executed = linear + 3 * logits + pair * dense * 4 / 3
    assert tiny_plan.costs.flops in (executed, executed + logits)


def test_state_and_text_of_a_plan(tiny_plan: MemoryPlan) -> None:
    memory = tiny_plan.memory
    assert memory is not None
    layer = 64 * 32 * 6 + 3 * 64 * 192 + 2 * 64 + 2 * 32
    parameters = 512 * 64 + 64 + LAYERS * layer
    assert memory.weights == 4 * parameters
    # Two moments and a few counters; the policy alone, no copy of the reference.
    assert 0 <= memory.optimizer - 8 * parameters < 64
    assert memory.peak == tiny_plan.needed > memory.weights + memory.optimizer
    text = describe(tiny_plan)
    assert "2 pairs in 1 part(s), 16 + 2 x 8 + 4 x 8 tokens each after a shared prefix" in text
    assert max(map(len, text.splitlines())) <= 100


def test_the_plain_layout_compiles_and_counts_whole_sequences() -> None:
    settings = config("plain", accumulation_steps=2)
    plan = plan_memory(settings, TINY, parse_topology("local"), LENGTHS)
    assert plan.costs is not None and plan.memory is not None
    layer = 2 * (64 * 32 * 6 + 3 * 64 * 192)
    linear, pair = 3 * LAYERS * layer * PAIRS * 4 * 48, 3 * LAYERS * 4 * 2 * 32
    logits = 2 * 512 * 64 * PAIRS * 4 * 8
    assert plan.useful_flops == linear + 3 * logits + pair * PAIRS * 4 * (48 * 49 / 2)
    executed = linear + 3 * logits + pair * PAIRS * 4 * 48 * 48 * 4 / 3
    assert plan.costs.flops in (executed, executed + logits)
    assert plan.memory.gradients == plan.memory.weights
    assert "2 pairs in 2 part(s), 4 sequences each of 48 tokens, 8 supervised" in describe(plan)


def test_remat_keeps_layer_inputs_and_what_segments_are_seen_by() -> None:
    batch = BatchShape(PAIRS, tokens=8, responses=8, prefix=16, sequences=4, shared=16, context=8)

    def kept(remat: Any, row_parts: int = 1) -> float:
        model = abstract_qwen3(TINY, jnp.float32, jnp.float32, remat)
        return kept_activation_bytes(model, config(), batch, row_parts)

    layers, own = TINY.num_hidden_layers, 16 + 2 * 8
    inputs = layers * PAIRS * (own + 4 * 8) * 64 * 4
    keys_and_values = layers * PAIRS * own * 2 * 32 * 4
    assert inputs + keys_and_values <= kept("full") < 1.5 * (inputs + keys_and_values)
    assert kept("full") < kept("dots") < kept("none")
    assert kept("offload") == 0
    assert kept("full", row_parts=2) < 0.6 * kept("full")


def test_a_batch_is_padded_as_the_loader_pads_it() -> None:
    lengths = RowLengths(2048, 761, context=165, response=142)
    data = {"train": "t"}
    assert batch_shape(config(data=data), lengths) == BatchShape(
        rows=2, tokens=192, responses=192, prefix=768, sequences=4, shared=1024, context=192
    )
    assert batch_shape(config(data={**data, "layout": "plain"}), lengths) == BatchShape(
        rows=2, tokens=2048, responses=192, prefix=0, sequences=4
    )


@given(
    prefix=st.integers(1, 30),
    shared=st.integers(1, 30),
    context=st.integers(1, 30),
    response=st.integers(1, 30),
    pairs=st.integers(1, 5),
)
def test_a_tree_sees_as_many_pairs_as_whole_sequences_less_what_is_repeated(
    prefix: int, shared: int, context: int, response: int, pairs: int
) -> None:
    """Adding up each sequence's own path through the tree gives the plain layout's work."""
    lengths = RowLengths(prefix + shared + context + response, prefix, response, context)
    tree = segments(config(batch_size=pairs), lengths)
    (plain,) = segments(config("plain", batch_size=pairs), lengths)
    assert [s.count for s in tree] == [1, pairs, 2 * pairs, 4 * pairs]
    assert sum(s.tokens for s in tree) == plain.tokens and plain.count == 4 * pairs
    seen = sum(s.tokens * (s.tokens + 1) // 2 + s.tokens * s.after for s in tree)
    assert seen == plain.tokens * (plain.tokens + 1) // 2


def test_a_tree_needs_a_quarter_of_the_products_at_the_shipped_lengths() -> None:
    shape = QWEN3_SHAPES["qwen3-1.7b"]
    settings = {layout: config(layout, batch_size=16) for layout in ("prefix_tree", "plain")}
    tree, plain = (
        useful_flops(shape, settings[layout], RowLengths.of(settings[layout]))
        for layout in ("prefix_tree", "plain")
    )
    # Tokens: 761 + 16 (980 + 2 x 164 + 4 x 142) against 64 x 2,047; the vocabulary is the same.
    assert np.isclose(tree / plain, 0.255, atol=0.005)


def test_lengths_that_are_not_given_depend_on_the_mode() -> None:
    assert RowLengths.of(config()) == RowLengths(2048, 761, response=142, context=165)
    words = config(mode="picd", model="m")
    assert RowLengths.of(words) == RowLengths(2048, 761, response=311)
    assert RowLengths.of(config(), sequence=900, prefix=10, context=5, response=6) == RowLengths(
        900, 10, response=6, context=5
    )


def test_bad_lengths_are_named() -> None:
    with pytest.raises(GplanError, match=r"context 165 leave nothing.*--context-length"):
        RowLengths.of(config(), sequence=1000)
    with pytest.raises(GplanError, match=r"--context-length is for pairs, and mode picd"):
        RowLengths.of(config(mode="picd"), context=165)
    with pytest.raises(GplanError, match=r"--context-length 0: two prompts"):
        RowLengths.of(config(), context=0)
    with pytest.raises(GplanError, match=r"response -3, .*no length is negative"):
        RowLengths.of(config(), response=-3)


def test_the_model_that_another_run_finishes_has_the_shape_that_the_run_is_named_by() -> None:
    assert model_shape(Path(config().model)) == QWEN3_SHAPES["qwen3-1.7b"]
    assert model_shape(Path("runs/mine/Qwen3-4B/model")) == QWEN3_SHAPES["qwen3-4b"]
    for nameless in ("runs/mine/model", "runs/qwen3_4b_mine/model", "runs/picd_qwen3_4b/best"):
        with pytest.raises(GplanError, match="--model"):
            model_shape(Path(nameless))


def test_an_estimate_on_pairs() -> None:
    shape = QWEN3_SHAPES["qwen3-1.7b"]
    settings = config(
        batch_size=16, precision={"compute": "bfloat16", "remat": "full"}, data={"train": "t"}
    )
    whole = settings.data.model_copy(update={"layout": "plain"})
    plain = settings.model_copy(update={"data": whole})
    plans = [
        estimate(each, shape, parse_topology("h100:8"), RowLengths.of(each))
        for each in (settings, plain)
    ]
    for plan in plans:
        assert plan.memory is not None and plan.fits
        assert plan.memory.weights == pytest.approx(4 * 1_720_574_976 / 8, rel=1e-3)
        assert max(map(len, describe(plan).splitlines())) <= 100
    tree, sequences = (plan.memory for plan in plans)
    assert tree is not None and sequences is not None
    # 2,176 positions of a pair against 8,192, less the keys and values that a tree keeps.
    assert tree.activations < 0.4 * sequences.activations
    # A gradient from each of four levels in place of one.
    apart = sequences.temporaries - (tree.temporaries - 3 * tree.weights)
    assert 0 < apart < sequences.temporaries


def test_rows_of_a_mesh_are_pairs() -> None:
    with pytest.raises(GplanError, match="do not divide"):
        estimate(config(batch_size=4), TINY, parse_topology("h100:8"), LENGTHS)
