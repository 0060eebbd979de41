from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from gplan_jax.models import Qwen3, Qwen3Config
from gplan_jax.objectives import section_normalized_loss
from gplan_jax.training.steps.section_objective import SectionObjective
from gplan_jax.training.steps.state import TrainState
from gplan_jax.training.steps.step import make_train_step
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


def make_batch(seed: int) -> dict[str, jax.Array]:
    """Rows of random lengths; the last is empty, as at the end of an epoch."""
    rng = np.random.default_rng(seed)
    batch = {
        "tokens": rng.integers(0, CONFIG.vocab_size, (ROWS, LENGTH)).astype(np.int32),
        "lengths": np.zeros(ROWS, np.int32),
        "targets": np.zeros((ROWS, RESPONSE), np.int32),
        "target_positions": np.zeros((ROWS, RESPONSE), np.int32),
        "sections": np.zeros((ROWS, RESPONSE), np.int8),
    }
    for row in range(ROWS - 1):
        prompt = int(rng.integers(3, LENGTH - RESPONSE))
        reasoning, plan = int(rng.integers(0, 4)), int(rng.integers(1, 5))
        response = reasoning + plan
        batch["lengths"][row] = prompt + response
        batch["targets"][row, :response] = batch["tokens"][row, prompt : prompt + response]
        batch["target_positions"][row, :response] = prompt - 1 + np.arange(response)
        batch["sections"][row, :response] = [1] * reasoning + [2] * plan
    return {name: jnp.asarray(value) for name, value in batch.items()}


def plain_loss(model: Qwen3, batch: dict[str, jax.Array], loss: LossConfig) -> jax.Array:
    """The same loss through full logits and unshifted labels: the parity function's way."""
    labels = np.full((ROWS, LENGTH), -100)
    sections = np.zeros((ROWS, LENGTH), int)
    for row in range(ROWS):
        kept = np.asarray(batch["sections"][row]) > 0
        places = np.asarray(batch["target_positions"][row])[kept] + 1
        labels[row, places] = np.asarray(batch["targets"][row])[kept]
        sections[row, places] = np.asarray(batch["sections"][row])[kept]
    mask = jnp.arange(LENGTH) < batch["lengths"][:, None]
    logits = model(batch["tokens"], mask)
    return section_normalized_loss(
        logits,
        jnp.asarray(labels),
        jnp.asarray(sections),
        reasoning_weight=loss.reasoning_weight,
        plan_weight=loss.plan_weight,
    )[0]


@pytest.fixture(scope="module")
def model() -> Qwen3:
    return Qwen3(CONFIG, rngs=nnx.Rngs(0))


@pytest.mark.parametrize("accumulation", [1, 2, 4])
@pytest.mark.parametrize("seed", [0, 1])
def test_loss_and_update_equal_full_logits(model: Qwen3, seed: int, accumulation: int) -> None:
    loss = LossConfig(reasoning_weight=0.5, plan_weight=1.5, vocab_chunk=40)
    batch = make_batch(seed)
    graphdef, params = nnx.split(model, nnx.Param)
    expected, gradients = jax.value_and_grad(
        lambda p: plain_loss(nnx.merge(graphdef, p), batch, loss)
    )(params)

    # With plain gradient descent at rate 1 the update is the gradient itself.
    optimizer = optax.sgd(1.0)
    step = make_train_step(
        graphdef,
        optimizer,
        SectionObjective(loss, "sections"),
        accumulation_steps=accumulation,
    )
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
    step = make_train_step(graphdef, optimizer, SectionObjective(LossConfig(), "sections"))
    state = TrainState.create(jax.tree.map(jnp.copy, params), optimizer)
    losses = []
    for _ in range(30):
        state, metrics = step(state, batch)
        losses.append(float(metrics["loss"]))
    assert losses[-1] < 0.2 * losses[0]


def test_full_logits_are_never_held(model: Qwen3) -> None:
    wide = Qwen3Config(**{**vars(CONFIG), "vocab_size": 32768})
    graphdef, params = nnx.split(nnx.eval_shape(lambda: Qwen3(wide, rngs=nnx.Rngs(0))), nnx.Param)
    optimizer = optax.sgd(1.0)
    state = jax.eval_shape(lambda p: TrainState.create(p, optimizer), params)
    step = make_train_step(
        graphdef, optimizer, SectionObjective(LossConfig(vocab_chunk=2048), "tokens")
    )
    rows, length, response = 8, 256, 16
    batch = {
        "tokens": jax.ShapeDtypeStruct((rows, length), jnp.int32),
        "lengths": jax.ShapeDtypeStruct((rows,), jnp.int32),
        "targets": jax.ShapeDtypeStruct((rows, response), jnp.int32),
        "target_positions": jax.ShapeDtypeStruct((rows, response), jnp.int32),
        "sections": jax.ShapeDtypeStruct((rows, response), jnp.int8),
    }
    memory = step.lower(state, batch).compile().memory_analysis()  # type: ignore[attr-defined]
    assert memory.temp_size_in_bytes < rows * length * wide.vocab_size * 4 / 4
