"""T5 against logits of Hugging Face's T5, and its identities: caching, padding, causality."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gplan_jax.baselines.t5 import T5, T5Config, shift_right

SOURCE = np.array(
    [[(7 * i + 3) % 10 + 1 for i in range(20)], [(3 * i + 5) % 10 + 1 for i in range(14)] + [0] * 6]
)
TARGET = np.array([[0, 4, 9, 2, 2, 7, 1, 3, 10, 5], [0, 8, 8, 1, 6, 3, 2, 9, 4, 7]])
# Logits of transformers' T5ForConditionalGeneration under the same weights: rows 0 and 1, first
# and last position, first four tokens.
GOLDEN = {
    "relu, tied": [
        [[-1.97275, -1.74202, -0.72935, 0.6107], [-1.58546, -1.87763, -1.327, -0.18072]],
        [[-1.92451, -1.78754, -0.8482, 0.47187], [1.88079, 0.84258, -0.57383, -1.73267]],
    ],
    "gated, untied": [
        [[2.7819, 1.8344, 0.06349, -1.73591], [2.58192, 2.41332, 1.16146, -0.61174]],
        [[2.7594, 1.64875, -0.20198, -1.96204], [-2.02349, -0.17405, 1.75352, 2.89399]],
    ],
}


def _model(*, gated: bool = False) -> T5:
    """A T5 whose weights are a formula of their names: sin(0.7 i + letters of the name)."""
    config = T5Config(
        vocabulary_size=11, hidden_size=8, heads=2, head_dim=4, mlp_size=12, buckets=8,
        max_distance=16, gated=gated, tied=not gated,
    )  # fmt: skip
    model = T5(config, rngs=nnx.Rngs(0))
    for path, parameter in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        name = ".".join(map(str, path))
        wave = np.sin(0.7 * np.arange(parameter.size) + sum(map(ord, name)))
        if name.endswith("scale"):
            value = 1 + 0.1 * wave
        else:
            value = wave * (1 if name == "embedding" else 0.5)
        parameter[...] = jnp.asarray(value.reshape(parameter.shape), jnp.float32)
    return model


@pytest.fixture(scope="module")
def model() -> T5:
    return _model()


@pytest.mark.parametrize("variant", GOLDEN)
def test_logits_are_those_of_the_reference(variant: str) -> None:
    model = _model(gated=variant.startswith("gated"))

    @jax.jit  # Compiled as a whole it's ready sooner than operation by operation.
    def forward() -> jax.Array:
        return model.decode(TARGET, model.encode(SOURCE, SOURCE > 0), SOURCE > 0)

    np.testing.assert_allclose(forward()[:, [0, -1], :4], GOLDEN[variant], atol=5e-5)


def test_cached_steps_are_teacher_forcing(model: T5) -> None:
    encoded = model.encode(SOURCE, SOURCE > 0)
    whole = model.decode(TARGET, encoded, SOURCE > 0)
    # Two beams a row: the target itself, and a nonsense one whose cache row is thrown away.
    cache = model.start(encoded, SOURCE > 0, beams=2, steps=TARGET.shape[1])
    step = jax.jit(lambda cache, tokens: model.step(cache, tokens))
    for t in range(TARGET.shape[1]):
        cache, logits = step(cache, jnp.asarray(np.repeat(TARGET[:, t], 2)))
        np.testing.assert_allclose(logits[::2], whole[:, t], atol=1e-4)
        np.testing.assert_allclose(logits[1::2], whole[:, t], atol=1e-4)
        cache = cache.reorder(jnp.array([0, 0, 3, 2]))


def test_padding_changes_nothing_wherever_it_stands(model: T5) -> None:
    row = SOURCE[1:, :14]
    short = model.encode(row, row > 0)
    padded = model.encode(np.pad(row, ((0, 0), (0, 5))), np.arange(19)[None] < 14)
    np.testing.assert_allclose(padded[:, :14], short, atol=1e-5)
    # On the left, positions stay relative and so does everything else.
    left = np.pad(row, ((0, 0), (5, 0)))
    np.testing.assert_allclose(model.encode(left, left > 0)[:, 5:], short, atol=1e-5)
    logits = model.decode(TARGET[1:], short, row > 0)
    np.testing.assert_allclose(
        model.decode(TARGET[1:], model.encode(left, left > 0), left > 0), logits, atol=1e-5
    )


def test_the_decoder_does_not_look_ahead(model: T5) -> None:
    encoded = model.encode(SOURCE, SOURCE > 0)
    before = model.decode(TARGET, encoded, SOURCE > 0)
    later = model.decode(np.where(np.arange(10) < 6, TARGET, 3), encoded, SOURCE > 0)
    np.testing.assert_array_equal(before[:, :6], later[:, :6])
    assert np.abs(before[:, 6:] - later[:, 6:]).max() > 1e-3


def test_embeddings_stand_for_tokens(model: T5) -> None:
    from_tokens = model.encode(SOURCE, SOURCE > 0)
    np.testing.assert_array_equal(model.encode(model.embed(SOURCE), SOURCE > 0), from_tokens)


def test_a_key_drops_out_and_the_same_key_alike() -> None:
    config = T5Config(vocabulary_size=11, hidden_size=8, heads=2, head_dim=4, dropout=0.3)
    model = T5(config, rngs=nnx.Rngs(0))
    first, again = (model.encode(SOURCE, SOURCE > 0, jax.random.key(1)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - model.encode(SOURCE, SOURCE > 0)).max() > 0.1


def test_targets_are_shifted_behind_the_start() -> None:
    np.testing.assert_array_equal(shift_right(jnp.array([[5, 6, 7]]), 9), [[9, 5, 6]])
