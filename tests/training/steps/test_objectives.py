"""The preference step: the tree against whole sequences, log-probabilities against full logits."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from gplan_jax.data.batch_plan import BatchPlan
from gplan_jax.data.batches import Batch
from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.loaders import PreferenceLoader
from gplan_jax.data.preference_set import PreferenceSet
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.gsisr import IntentLibrary, PromptTemplate
from gplan_jax.models import Qwen3, Qwen3Config
from gplan_jax.objectives import scdpo_loss
from gplan_jax.objectives.curriculum import CompressionCurriculum
from gplan_jax.training.steps.objectives import PreferenceObjective, pair_log_probs
from gplan_jax.training.steps.step import TrainState, make_train_step, prefix_contexts
from gplan_jax.training.steps.train_config import PreferenceConfig

VOCAB_CHUNK = 100
MakeBatch = Callable[..., Batch]


@pytest.fixture(scope="module")
def model(tiny_model_dir: Path) -> Qwen3:
    size = ChatEncoder.load(tiny_model_dir).vocabulary_size
    config = Qwen3Config(-(-size // 128) * 128, 16, 24, 2, 2, 1, head_dim=8)
    # Weights that are large enough to make plans differ clearly in probability.
    model = Qwen3(config, rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))
    model.embedding[...] = 8 * model.embedding[...]
    return model


@pytest.fixture(scope="module")
def make_batch(pairs_file: Path, tiny_model_dir: Path) -> MakeBatch:
    pairs, levels = PreferenceSet.read(
        pairs_file,
        encoder=ChatEncoder.load(tiny_model_dir),
        task=GsisrTask(PromptTemplate.load("compact_zh"), IntentLibrary.load(), prompt_length=1300),
    ).fitting()
    reference = np.random.default_rng(0).uniform(-5, 5, (len(pairs), 2, 2)) - 300

    def make(*, tree: bool, rows: tuple[int, ...] = (0, 1, 2, -1)) -> Batch:
        plan = BatchPlan(
            np.zeros((len(pairs), 1, 2), np.int32),
            CompressionCurriculum(len(pairs), epochs_per_stage=None),
            batch_size=len(rows),
            epochs=1,
            seed=0,
            length_multiple=32,
            response_multiple=32,
            prefix_length=len(pairs.prefix_ids) if tree else 0,
        )
        loader = PreferenceLoader(pairs, plan, levels, reference.astype(np.float32))
        return loader.collate(np.asarray(rows)).batch

    return make


@nnx.jit
def log_probs(model: Qwen3, batch: Batch) -> jax.Array:
    contexts = prefix_contexts(model, batch.prefix)
    return pair_log_probs(model, batch.rows, contexts, vocab_chunk=VOCAB_CHUNK)


@nnx.jit
def full_logits(model: Qwen3, tokens: jax.Array, mask: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(model(tokens, mask).astype(jnp.float32))


def test_log_probabilities_are_those_of_full_logits(model: Qwen3, make_batch: MakeBatch) -> None:
    batch = make_batch(tree=False)
    rows, found = batch.rows, log_probs(model, batch)
    width = rows.tokens_Nx2x2xS.shape[-1]
    mask = np.arange(width) < rows.lengths_Nx2x2.reshape(-1, 1)
    log_p = np.asarray(full_logits(model, rows.tokens_Nx2x2xS.reshape(-1, width), mask), np.float64)
    expected = np.zeros(rows.lengths_Nx2x2.shape)
    for line, at in enumerate(np.ndindex(expected.shape)):
        count = int(rows.supervised_Nx2x2xR[at].sum())
        places = rows.target_positions_Nx2x2xR[at][:count]
        expected[at] = log_p[line, places, rows.targets_Nx2x2xR[at][:count]].sum()
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-4)
    assert not expected[-1].any() and (expected[:-1] < -10).all()


def run_step(model: Qwen3, batch: Batch, parts: int = 1, **loss: Any) -> tuple[Any, Any]:
    """Metrics and gradient of one step."""
    graphdef, params = nnx.split(model, nnx.Param)
    optimizer = optax.trace(decay=0.0)  # keeps the gradient
    step = make_train_step(
        graphdef,
        optimizer,
        PreferenceObjective(PreferenceConfig(**loss), vocab_chunk=VOCAB_CHUNK),
        accumulation_steps=parts,
    )
    state = TrainState.create(jax.tree.map(jnp.copy, params), optimizer)
    state, metrics = step(state, batch)
    return metrics, nnx.to_pure_dict(state.optimizer.trace)


def assert_same_gradients(found: Mapping[str, Any], expected: Mapping[str, Any]) -> None:
    """Within 1e-5 of the greatest entry of each parameter's gradient."""
    for one, other in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(one, other, rtol=0, atol=1e-5 * float(jnp.abs(other).max()))


def test_the_tree_in_parts_gives_loss_and_gradients_of_whole_sequences(
    model: Qwen3, make_batch: MakeBatch
) -> None:
    found, gradient = run_step(model, make_batch(tree=True), parts=2)
    expected, expected_gradient = run_step(model, make_batch(tree=False))
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-5, atol=1e-5, err_msg=name)
    assert_same_gradients(gradient, expected_gradient)


def test_the_loss_is_that_of_the_public_function(model: Qwen3, make_batch: MakeBatch) -> None:
    batch = make_batch(tree=True)
    policy, reference = np.asarray(log_probs(model, batch))[:3], batch.rows.reference_Nx2x2[:3]
    loss, metrics = scdpo_loss(
        *(values[..., choice].ravel() for values in (policy, reference) for choice in (0, 1))
    )
    found, _ = run_step(model, batch, parts=2)
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-5)
    for name, value in metrics.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.slow
def test_extra_weights_of_zero_are_plain_dpo_bit_for_bit(
    model: Qwen3, make_batch: MakeBatch
) -> None:
    """The loss functions' own tests show it in CI; this is the whole step."""
    batch = make_batch(tree=True)
    nothing = dict.fromkeys(
        ("anchor_weight", "gap_low_weight", "gap_high_weight", "center_weight"), 0.0
    )
    found, gradient = run_step(model, batch, loss="scdpo", **nothing)
    expected, expected_gradient = run_step(model, batch, loss="dpo")
    assert float(found["loss"]) == float(expected["loss"])
    for one, other in zip(
        jax.tree.leaves(gradient), jax.tree.leaves(expected_gradient), strict=True
    ):
        np.testing.assert_array_equal(one, other)
