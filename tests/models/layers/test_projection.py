"""Weights rounded to 8 bits: how far from the stored ones, and the model that they make."""

from __future__ import annotations

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gplan_jax.foundation import GplanError
from gplan_jax.models import Qwen3, Qwen3Config
from gplan_jax.models.layers.projection import PROJECTIONS, SmallDtype, round_layers

qwix = pytest.importorskip("qwix")
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
IDS = jnp.asarray(np.random.default_rng(1).integers(0, 64, (2, 9)))
# What each may be wrong by: half a step of its output's scale, or a sixteenth of itself (and half
# of the least step there is, where it is small).
STEPS = {"int8": 127.5, "fp8": 448.0}


def new_model() -> Qwen3:
    return Qwen3(CONFIG, rngs=nnx.Rngs(jax.random.key(0, impl="rbg")))


def matrices(model: Qwen3) -> dict[str, nnx.Param]:
    return {
        name: getattr(getattr(model.layers, module), name)
        for name, (module, _, _) in PROJECTIONS.items()
    }


@pytest.mark.parametrize("dtype", ["int8", "fp8"])
def test_every_weight_is_as_near_as_its_8_bits_allow(dtype: SmallDtype) -> None:
    model = new_model()
    for parameter in matrices(model).values():  # of very different sizes, an output of zeros
        sizes = 10.0 ** jnp.arange(-3, parameter.shape[-1] - 3).clip(max=3)
        parameter.set_value((parameter.get_value() * sizes).at[..., 0].set(0))
    stored = {name: np.asarray(p.get_value()) for name, p in matrices(model).items()}
    round_layers(model, dtype)
    for name, parameter in matrices(model).items():
        rounded, exact = parameter.get_value(), stored[name]
        assert rounded.qvalue.nbytes * 4 == exact.nbytes
        inputs = tuple(range(1, 1 + len(PROJECTIONS[name][1])))
        scale = np.abs(exact).max(axis=inputs, keepdims=True) / STEPS[dtype]
        np.testing.assert_allclose(rounded.scale, np.where(scale > 0, scale, 1), rtol=1e-6)
        error = np.abs(np.asarray(qwix.dequantize(rounded)) - exact)
        bound = scale * 0.5 if dtype == "int8" else np.abs(exact) / 16 + scale * 2.0**-10
        assert (error <= bound * (1 + 1e-3)).all(), name


@pytest.mark.parametrize("dtype", ["int8", "fp8"])
def test_a_model_of_rounded_weights_is_the_model_with_those_weights(dtype: SmallDtype) -> None:
    model, plain = new_model(), new_model()
    run = jax.jit(lambda model: model(IDS))
    stored = np.asarray(run(plain))
    round_layers(model, dtype)
    for rounded, dense in zip(matrices(model).values(), matrices(plain).values(), strict=True):
        dense.set_value(qwix.dequantize(rounded.get_value()))
    np.testing.assert_allclose(run(model), run(plain), atol=1e-6)
    difference = np.abs(np.asarray(run(plain)) - stored).max()
    assert 0 < difference < 0.2 * np.abs(stored).max()


def test_the_embedding_and_the_norms_stay() -> None:
    model = new_model()
    before = model.embedding[...]
    round_layers(model, "int8")
    assert model.embedding[...] is before
    assert model.layers.attention_norm[...].dtype == jnp.float32


def test_without_qwix_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "qwix", None)
    with pytest.raises(GplanError, match=r"8 bits install qwix: pip install .*\[small\]"):
        round_layers(new_model(), "fp8")
