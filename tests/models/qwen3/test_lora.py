from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from gplan_jax.foundation import GplanError
from gplan_jax.models import Qwen3, Qwen3Config
from gplan_jax.models.checkpoints.model_directory import model_parameters
from gplan_jax.models.layers.projection import PROJECTIONS, LoraParam
from gplan_jax.models.qwen3.lora import add_lora, merged

TRAINED = (3, 90, 91)
IDS = (
    jnp.asarray(np.random.default_rng(0).integers(0, 96, (2, 9)).astype(np.int32)).at[0, 2].set(90)
)


def new_model(*, tied: bool = True) -> Qwen3:
    config = Qwen3Config(
        vocab_size=96,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=8,
        tie_word_embeddings=tied,
    )
    return Qwen3(config, rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))


def adapted_model(*, tied: bool = True, targets: tuple[str, ...] = tuple(PROJECTIONS)) -> Qwen3:
    model = new_model(tied=tied)
    add_lora(model, rank=3, alpha=6.0, targets=targets, trained_rows=TRAINED)
    return model


def disturb(model: Qwen3, seed: int) -> None:
    """Moves every adapter and trained row away from its start."""
    rng = np.random.default_rng(seed)
    trained = nnx.state(model, LoraParam)
    nnx.update(
        model,
        jax.tree.map(lambda x: x + 0.2 * rng.standard_normal(x.shape).astype(np.float32), trained),
    )


@pytest.mark.parametrize("tied", [True, False])
def test_training_starts_at_the_checkpoint(tied: bool) -> None:
    adapted, plain = jax.jit(adapted_model(tied=tied)), jax.jit(new_model(tied=tied))
    np.testing.assert_allclose(adapted(IDS), plain(IDS), atol=1e-6)


@pytest.mark.parametrize("tied", [True, False])
def test_merged_weights_compute_what_adapters_do(tied: bool) -> None:
    model = adapted_model(tied=tied)
    disturb(model, 1)
    plain = merged(model)
    assert not jax.tree.leaves(nnx.state(plain, LoraParam))
    found = jax.jit(plain)(IDS)
    np.testing.assert_allclose(found, jax.jit(model)(IDS), atol=2e-5)
    assert jnp.abs(found - jax.jit(new_model(tied=tied))(IDS)).max() > 0.1


@settings(max_examples=7, deadline=None)
@given(st.sampled_from(sorted(PROJECTIONS)))
def test_merging_touches_the_target_and_the_trained_rows_alone(target: str) -> None:
    model = adapted_model(targets=(target,))
    disturb(model, 2)
    before, after = model_parameters(new_model()), model_parameters(merged(model))
    for path, value in after.items():
        if path.endswith(f".{target}"):
            assert (value != before[path]).all()
        elif path == "embedding":
            rows = np.flatnonzero((value != before[path]).any(axis=1))
            assert tuple(rows) == TRAINED
        else:
            np.testing.assert_array_equal(value, before[path])


@pytest.mark.parametrize("tied", [True, False])
def test_gradients_are_those_through_the_merged_weights(tied: bool) -> None:
    model = adapted_model(tied=tied)
    disturb(model, 3)
    graphdef, trained, frozen = nnx.split(model, LoraParam, ...)

    def loss(logits: jax.Array) -> jax.Array:
        return jnp.sum(jax.nn.log_softmax(logits)[..., 5])

    def through_adapters(trained: nnx.State) -> jax.Array:
        return loss(nnx.merge(graphdef, trained, frozen)(IDS))

    def through_weights(trained: nnx.State) -> jax.Array:
        return loss(merged(nnx.merge(graphdef, trained, frozen))(IDS))

    ours, theirs = (
        jax.jit(jax.grad(through))(trained) for through in (through_adapters, through_weights)
    )
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert jnp.abs(b).max() > 0
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-4 * float(jnp.abs(b).max()))


def test_bad_settings_are_refused() -> None:
    with pytest.raises(GplanError, match=r"unknown keys; there are query, key"):
        add_lora(new_model(), rank=2, alpha=1.0, targets=["keys"])
    with pytest.raises(GplanError, match="rank 17 exceeds the model's width 16"):
        add_lora(new_model(), rank=17, alpha=1.0, targets=["key"])
