from __future__ import annotations

import functools
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.data import Batch, SampleRows
from gplan_jax.data.batches import PairRows, PairTree
from gplan_jax.models import Qwen3, Qwen3Config
from gplan_jax.objectives import section_normalized_loss
from gplan_jax.training.steps.objectives import SectionObjective
from gplan_jax.training.steps.step import TrainState, make_train_step, micro_batches
from gplan_jax.training.steps.train_config import LossConfig

CONFIG = Qwen3Config(
    vocab_size=96,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=2,
    num_key_value_heads=1,
    head_dim=8,
    tie_word_embeddings=True,
)
ROWS, LENGTH, RESPONSE = 4, 24, 8


def make_batch(seed: int) -> Batch:
    """Rows of random lengths; the last is empty, as at the end of an epoch."""
    rng = np.random.default_rng(seed)
    rows = SampleRows(
        tokens_BxS=rng.integers(0, CONFIG.vocab_size, (ROWS, LENGTH)).astype(np.int32),
        lengths_B=np.zeros(ROWS, np.int32),
        targets_BxR=np.zeros((ROWS, RESPONSE), np.int32),
        target_positions_BxR=np.zeros((ROWS, RESPONSE), np.int32),
        sections_BxR=np.zeros((ROWS, RESPONSE), np.int8),
    )
    for row in range(ROWS - 1):
        prompt = int(rng.integers(3, LENGTH - RESPONSE))
        reasoning, plan = int(rng.integers(0, 4)), int(rng.integers(1, 5))
        response = reasoning + plan
        rows.lengths_B[row] = prompt + response
        rows.targets_BxR[row, :response] = rows.tokens_BxS[row, prompt : prompt + response]
        rows.target_positions_BxR[row, :response] = prompt - 1 + np.arange(response)
        rows.sections_BxR[row, :response] = [1] * reasoning + [2] * plan
    return Batch(jax.tree.map(jnp.asarray, rows))


@functools.cache
def loss_of_full_logits(loss: tuple[float, float]) -> Any:
    """The same loss through full logits and unshifted labels: the parity function's way."""

    def plain_loss(params: Any, graphdef: Any, rows: SampleRows) -> jax.Array:
        row = jnp.arange(ROWS)[:, None]
        supervised = rows.sections_BxR > 0
        # What is not supervised is written beyond the end, which drops it.
        places = jnp.where(supervised, rows.target_positions_BxR + 1, LENGTH)
        empty = jnp.zeros((ROWS, LENGTH), jnp.int32)
        labels = (empty - 100).at[row, places].set(rows.targets_BxR, mode="drop")
        sections = empty.at[row, places].set(rows.sections_BxR.astype(jnp.int32), mode="drop")
        mask = jnp.arange(LENGTH) < rows.lengths_B[:, None]
        logits = nnx.merge(graphdef, params)(rows.tokens_BxS, mask)
        weights = {"reasoning_weight": loss[0], "plan_weight": loss[1]}
        return section_normalized_loss(logits, labels, sections, **weights)[0]

    return jax.jit(jax.value_and_grad(plain_loss), static_argnums=1)


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(CONFIG, rngs=nnx.Rngs(0))


@pytest.mark.parametrize(
    ("accumulation", "most_tokens"), [(1, None), (2, None), (4, None), (1, 2 * LENGTH), (2, 1)]
)
def test_loss_and_update_equal_full_logits(
    model: Qwen3, accumulation: int, most_tokens: int | None
) -> None:
    loss = LossConfig(reasoning_weight=0.5, plan_weight=1.5, vocab_chunk=40)
    graphdef, params = nnx.split(model, nnx.Param)
    # With plain gradient descent at rate 1 the update is the gradient itself.
    optimizer = optax.sgd(1.0)
    step = make_train_step(
        graphdef,
        optimizer,
        SectionObjective(loss, "sections"),
        accumulation_steps=accumulation,
        most_tokens=most_tokens,
    )
    for seed in (0, 1):
        batch = make_batch(seed)
        expected, gradients = loss_of_full_logits((0.5, 1.5))(params, graphdef, batch.rows)
        before = jax.tree.map(np.asarray, params)
        state = TrainState.create(jax.tree.map(jnp.copy, params), optimizer)
        state, metrics = step(state, batch)

        np.testing.assert_allclose(metrics["loss"], expected, rtol=1e-5)
        np.testing.assert_allclose(metrics["grad_norm"], optax.global_norm(gradients), rtol=1e-4)
        for old, new, gradient in zip(
            *map(jax.tree.leaves, (before, state.params, gradients)), strict=True
        ):
            np.testing.assert_allclose(old - np.asarray(new), gradient, rtol=1e-3, atol=1e-5)
        assert int(state.step) == 1


@given(
    size=st.integers(1, 12),
    at_least=st.integers(1, 5),
    width=st.integers(1, 40),
    most_tokens=st.integers(1, 300),
)
def test_micro_batches_are_the_fewest_that_hold_no_more_tokens(
    size: int, at_least: int, width: int, most_tokens: int
) -> None:
    rows = SampleRows(np.zeros((size * at_least, width)), *(np.zeros(size * at_least),) * 4)
    assert micro_batches(rows, at_least, None) == at_least
    found = micro_batches(rows, at_least, most_tokens)

    def allowed(parts: int) -> bool:
        each, rest = divmod(size * at_least, parts)
        return rest == 0 and parts % at_least == 0 and (each == 1 or each * width <= most_tokens)

    assert found == next(parts for parts in range(1, size * at_least + 1) if allowed(parts))


def test_a_pair_has_the_tokens_of_all_its_segments() -> None:
    n, whole = 3, np.zeros((3, 2, 2, 24))
    tree = PairTree(np.zeros((n, 7)), np.zeros(n), np.zeros((n, 2, 5)), np.zeros((n, 2)))
    pairs = PairRows(whole, *(np.zeros((n, 2, 2)),) * 5)
    assert pairs.tokens_a_row == 4 * 24
    assert pairs.replace(tree=tree).tokens_a_row == 7 + 2 * 5 + 4 * 24


def test_token_average_is_the_mean_over_responses(model: Qwen3) -> None:
    batch = make_batch(5)
    graphdef, params = nnx.split(model, nnx.Param)
    optimizer = optax.sgd(0.0)
    step = make_train_step(graphdef, optimizer, SectionObjective(LossConfig(), "tokens"))
    _, metrics = step(TrainState.create(jax.tree.map(jnp.copy, params), optimizer), batch)
    tokens = {s: float(metrics[f"tokens_{s}"]) for s in ("reasoning", "plan")}
    total = sum(tokens[s] * float(metrics[f"loss_{s}"]) for s in tokens)
    np.testing.assert_allclose(metrics["loss"], total / sum(tokens.values()), rtol=1e-5)


def test_a_few_steps_learn_one_batch(model: Qwen3) -> None:
    batch = make_batch(2)
    graphdef, params = nnx.split(model, nnx.Param)
    optimizer = optax.adam(1e-2)
    compiled = make_train_step(graphdef, optimizer, SectionObjective(LossConfig(), "sections"))

    @jax.jit
    @chex.assert_max_traces(n=1)  # the state that comes out is what goes in
    def step(state: TrainState, batch: Batch) -> tuple[TrainState, Any]:
        return compiled(state, batch)

    state = TrainState.create(jax.tree.map(jnp.copy, params), optimizer)
    losses = []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.2 * losses[0]


def test_a_batch_whose_arrays_do_not_fit_is_refused(model: Qwen3) -> None:
    batch = make_batch(0)
    graphdef, params = nnx.split(model, nnx.Param)
    optimizer = optax.sgd(1.0)
    step = make_train_step(graphdef, optimizer, SectionObjective(LossConfig(), "sections"))
    torn = Batch(batch.rows.replace(lengths_B=batch.rows.lengths_B[:2]))
    with pytest.raises(ValueError, match=r"lengths_B has shape \(2,\)"):
        step(TrainState.create(params, optimizer), torn)


def test_full_logits_are_never_held(model: Qwen3) -> None:
    wide = Qwen3Config(**{**vars(CONFIG), "vocab_size": 32768})
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Qwen3(wide, rngs=nnx.Rngs(0))), nnx.Param)
    optimizer = optax.sgd(1.0)
    state = jax.eval_shape(lambda p: TrainState.create(p, optimizer), params)
    step = make_train_step(
        graphdef, optimizer, SectionObjective(LossConfig(vocab_chunk=2048), "tokens")
    )
    rows, length, response = 8, 256, 16
    batch = Batch(
        SampleRows(
            tokens_BxS=jax.ShapeDtypeStruct((rows, length), jnp.int32),
            lengths_B=jax.ShapeDtypeStruct((rows,), jnp.int32),
            targets_BxR=jax.ShapeDtypeStruct((rows, response), jnp.int32),
            target_positions_BxR=jax.ShapeDtypeStruct((rows, response), jnp.int32),
            sections_BxR=jax.ShapeDtypeStruct((rows, response), jnp.int8),
        )
    )
    memory = step.lower(state, batch).compile().memory_analysis()  # type: ignore[attr-defined]
    assert memory.temp_size_in_bytes < rows * length * wide.vocab_size * 4 / 4
