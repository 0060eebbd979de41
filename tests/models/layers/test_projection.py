"""Weights rounded to 8 bits: how far from the stored ones, and the model that they make."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.models import Qwen3, Qwen3Config
from gplan_jax.models.layers.projection import Int8Matrix, round_layers_to_int8, to_int8

CONFIG = Qwen3Config(
    vocab_size=64,
    hidden_size=32,
    intermediate_size=48,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    tie_word_embeddings=True,
)


@given(st.integers(0, 2**32 - 1), st.sampled_from([(-2,), (-3,), (-3, -2)]))
def test_every_weight_is_within_half_a_step(seed: int, axes: tuple[int, ...]) -> None:
    rng = np.random.default_rng(seed)
    matrix = (rng.normal(size=(2, 5, 3, 4)) * 10.0 ** rng.integers(-6, 6)).astype(np.float32)
    matrix[:, :, 0] = 0
    rounded = to_int8(jnp.asarray(matrix), axes)
    assert rounded.values.dtype == jnp.int8
    scales = np.abs(matrix).max(axis=axes, keepdims=True) / 127
    np.testing.assert_allclose(rounded.scales, np.where(scales > 0, scales, 1), rtol=1e-6)
    error = np.abs(np.asarray(rounded.dense(jnp.float32)) - matrix)
    assert (error <= scales * (0.5 + 1e-4)).all()


def test_what_has_so_few_values_is_kept_exactly() -> None:
    integers = np.random.default_rng(0).integers(-127, 128, (3, 6, 5)).astype(np.float32)
    integers[:, 0] = 127
    scales = 2.0 ** np.arange(5)
    rounded = to_int8(jnp.asarray(integers * scales), (-2,))
    np.testing.assert_array_equal(rounded.dense(jnp.float32), integers * scales)


def test_a_model_of_rounded_weights_is_the_model_with_those_weights() -> None:
    model = Qwen3(CONFIG, rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))
    plain = Qwen3(CONFIG, rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))
    ids = jnp.asarray(np.random.default_rng(1).integers(0, 64, (2, 9)))
    run = jax.jit(lambda model: model(ids))
    stored = np.asarray(run(plain))
    round_layers_to_int8(model)
    for module in ("attention", "mlp"):
        for name in ("query", "key", "value", "output", "gate", "up", "down"):
            parameter = getattr(getattr(model.layers, module), name, None)
            if parameter is None:
                continue
            value = parameter.get_value()
            assert isinstance(value, Int8Matrix)
            dense = getattr(getattr(plain.layers, module), name)
            assert value.values.nbytes * 4 == dense.get_value().nbytes
            dense.set_value(value.dense(jnp.float32))
    np.testing.assert_allclose(run(model), run(plain), atol=1e-6)
    difference = np.abs(np.asarray(run(plain)) - stored).max()
    assert 0 < difference < 0.1 * np.abs(stored).max()


def test_the_embedding_and_the_norms_stay() -> None:
    model = Qwen3(CONFIG, rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))
    before = model.embedding[...]
    round_layers_to_int8(model)
    assert model.embedding[...] is before
    assert model.layers.attention_norm[...].dtype == jnp.float32
