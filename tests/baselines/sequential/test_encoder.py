"""Who sees whom, that a reading can be gone on with, and that reasoning steps do so."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gplan_jax.baselines.sequential.encoder import (
    Encoder,
    EncoderSettings,
    Reasoner,
    dropout,
    see_all,
    see_earlier,
)
from gplan_jax.foundation import GplanError

SETTINGS = EncoderSettings(hidden=8, layers=2, heads=2, inner=12, dropout=0.5)
ENCODER = Encoder(SETTINGS, nnx.Rngs(0))
POST_NORM = Encoder(SETTINGS.model_copy(update={"pre_norm": False, "gelu": True}), nnx.Rngs(0))
SEGMENTS = jnp.array([[1, 1, 1, 2, 2, 0], [1, 1, 1, 1, 1, 1]])
X = jax.random.normal(jax.random.key(1), (2, 6, 8))
SHORT = jax.random.normal(jax.random.key(1), (2, 4, 8))
MASK = see_earlier(jnp.array([[1, 1, 1, 1], [0, 1, 1, 1]]))
# Compiled as a whole they are ready sooner than operation by operation.
encode, extend = nnx.jit(Encoder.encode), nnx.jit(Encoder.extend)
reason = nnx.jit(Reasoner.__call__, static_argnames=("first", "noise"))


@pytest.mark.parametrize("encoder", [ENCODER, POST_NORM])
def test_a_later_position_changes_nothing_before_it(encoder: Encoder) -> None:
    mask = see_earlier(SEGMENTS)
    before, _ = encode(encoder, X, mask)
    after, _ = encode(encoder, X.at[:, 4, 0].add(3.0), mask)
    np.testing.assert_array_equal(before[:, :4], after[:, :4])
    assert not np.allclose(before[:, 4:], after[:, 4:])


@pytest.mark.parametrize("see", [see_all, see_earlier])
def test_a_segment_is_read_as_if_it_were_alone(see) -> None:  # type: ignore[no-untyped-def]
    together, _ = encode(ENCODER, X, see(SEGMENTS))
    for part in (slice(0, 3), slice(3, 5)):
        alone, _ = encode(ENCODER, X[:1, part], see(jnp.ones((1, part.stop - part.start), int)))
        np.testing.assert_allclose(together[:1, part], alone, atol=1e-6)
    padding_differs, _ = encode(ENCODER, X.at[0, 5, 0].set(9.0), see(SEGMENTS))
    np.testing.assert_array_equal(together[:, :5], padding_differs[:, :5])


def test_both_ways_every_position_of_a_segment_counts() -> None:
    before, _ = encode(ENCODER, X, see_all(SEGMENTS))
    after, _ = encode(ENCODER, X.at[0, 2, 0].add(3.0), see_all(SEGMENTS))
    assert not np.allclose(before[0, 0], after[0, 0])
    np.testing.assert_array_equal(before[0, 3:5], after[0, 3:5])


@pytest.mark.parametrize("encoder", [ENCODER, POST_NORM])
def test_an_extended_reading_equals_reading_the_longer_sequence(encoder: Encoder) -> None:
    x, new = X[:, :4], jax.random.normal(jax.random.key(2), (2, 2, 4, 8))
    mask = see_earlier(jnp.ones((2, 4), int))
    _, memory = encode(encoder, x, mask)
    first, keys_values = extend(encoder, new[0], memory, mask, [])
    second, _ = extend(encoder, new[1], memory, mask, [keys_values])
    for q in range(4):
        longer = jnp.concatenate([x[:, : q + 1], new[0][:, q : q + 1], new[1][:, q : q + 1]], 1)
        whole, _ = encode(encoder, longer, see_earlier(jnp.ones(longer.shape[:2], int)))
        np.testing.assert_allclose(whole[:, -2], first[:, q], atol=1e-5)
        np.testing.assert_allclose(whole[:, -1], second[:, q], atol=1e-5)


def test_dropout_keeps_the_mean_and_needs_a_key() -> None:
    ones = jnp.ones((400, 400))
    dropped = dropout(ones, 0.3, jax.random.key(0))
    assert float(dropped.mean()) == pytest.approx(1, abs=0.01)
    assert float((dropped == 0).mean()) == pytest.approx(0.3, abs=0.01)
    assert dropout(ones, 0.3, None) is ones and dropout(ones, 0.0, jax.random.key(0)) is ones


def test_heads_must_divide_the_width() -> None:
    with pytest.raises(GplanError, match="hidden is 8, which 3 heads"):
        Encoder(SETTINGS.model_copy(update={"heads": 3}), nnx.Rngs(0))


def test_without_steps_it_is_the_encoder_bit_for_bit() -> None:
    encoder = Encoder(SETTINGS, nnx.Rngs(3))
    reasoner = Reasoner(SETTINGS, 0, nnx.Rngs(3))
    expected, _ = encode(encoder, SHORT, MASK)
    chain, noisy = reason(reasoner, SHORT, MASK)
    assert chain.shape == (2, 4, 1, 8) and noisy is None
    np.testing.assert_array_equal(chain[:, :, 0], expected)
    key = jax.random.key(5)
    dropped, _ = encode(encoder, SHORT, MASK, jax.random.split(key, 3)[0])
    np.testing.assert_array_equal(reason(reasoner, SHORT, MASK, key)[0][:, :, 0], dropped)
    with_steps, _ = reason(Reasoner(SETTINGS, 2, nnx.Rngs(3)), SHORT, MASK)
    np.testing.assert_array_equal(with_steps[:, :, 0], expected)


def test_every_position_reasons_as_if_the_sequence_ended_there() -> None:
    reasoner = Reasoner(SETTINGS, 2, nnx.Rngs(3))
    chain, _ = reason(reasoner, SHORT, MASK, first=1)
    assert chain.shape == (2, 3, 3, 8)
    for q in range(1, 4):
        sequence = SHORT[1:, 1 : q + 1]
        for step in range(3):
            read, _ = encode(
                reasoner.encoder, sequence, see_earlier(jnp.ones(sequence.shape[:2], int))
            )
            np.testing.assert_allclose(chain[1, q - 1, step], read[0, -1], atol=1e-5)
            if step < 2:
                thought = read[:, -1:] + reasoner.step_positions[step]
                sequence = jnp.concatenate([sequence, thought], axis=1)


def test_noise_gives_a_second_view_while_training_only() -> None:
    reasoner = Reasoner(SETTINGS.model_copy(update={"dropout": 0.0}), 2, nnx.Rngs(3))
    chain, noisy = reason(reasoner, SHORT, MASK, jax.random.key(0), noise=0.1)
    assert noisy is not None
    np.testing.assert_array_equal(chain[:, :, 0], noisy[:, :, 0])
    assert not np.allclose(chain[:, :, 1:], noisy[:, :, 1:])
    assert reason(reasoner, SHORT, MASK, None, noise=0.1)[1] is None
