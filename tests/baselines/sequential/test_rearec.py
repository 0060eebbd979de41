"""Reasoning steps against the encoder, and ReaRec's terms against plain sums."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gplan_jax.baselines.sequential.encoder import Encoder, EncoderSettings, see_earlier
from gplan_jax.baselines.sequential.losses import softmax_loss
from gplan_jax.baselines.sequential.rearec import (
    MOST_NATS,
    Reasoner,
    progressive_loss,
    steps_apart,
    views_apart,
)

SETTINGS = EncoderSettings(hidden=8, layers=2, heads=2, inner=12, dropout=0.5)
X = jax.random.normal(jax.random.key(1), (2, 4, 8))
MASK = see_earlier(jnp.array([[1, 1, 1, 1], [0, 1, 1, 1]]))
EXTREME = jnp.array([[[1e6, -1e6, 0.0], [-1e6, 1e6, 0.0], [0.0, 0.0, 1e30]]])


def test_without_steps_it_is_the_encoder_bit_for_bit() -> None:
    encoder = Encoder(SETTINGS, nnx.Rngs(3))
    reasoner = Reasoner(SETTINGS, 0, nnx.Rngs(3))
    expected, _ = encoder.encode(X, MASK)
    chain, noisy = reasoner(X, MASK)
    assert chain.shape == (2, 4, 1, 8) and noisy is None
    np.testing.assert_array_equal(chain[:, :, 0], expected)
    key = jax.random.key(5)
    dropped, _ = encoder.encode(X, MASK, jax.random.split(key, 3)[0])
    np.testing.assert_array_equal(reasoner(X, MASK, key)[0][:, :, 0], dropped)
    with_steps, _ = Reasoner(SETTINGS, 2, nnx.Rngs(3))(X, MASK)
    np.testing.assert_array_equal(with_steps[:, :, 0], expected)


def test_every_position_reasons_as_if_the_sequence_ended_there() -> None:
    reasoner = Reasoner(SETTINGS, 2, nnx.Rngs(3))
    chain, _ = reasoner(X, MASK, first=1)
    assert chain.shape == (2, 3, 3, 8)
    for q in range(1, 4):
        sequence = X[1:, 1 : q + 1]
        for step in range(3):
            read, _ = reasoner.encoder.encode(
                sequence, see_earlier(jnp.ones(sequence.shape[:2], int))
            )
            np.testing.assert_allclose(chain[1, q - 1, step], read[0, -1], atol=1e-5)
            if step < 2:
                thought = read[:, -1:] + reasoner.step_positions[step]
                sequence = jnp.concatenate([sequence, thought], axis=1)


def test_noise_gives_a_second_view_while_training_only() -> None:
    reasoner = Reasoner(SETTINGS.model_copy(update={"dropout": 0.0}), 2, nnx.Rngs(3))
    chain, noisy = reasoner(X, MASK, jax.random.key(0), noise=0.1)
    assert noisy is not None
    np.testing.assert_array_equal(chain[:, :, 0], noisy[:, :, 0])
    assert not np.allclose(chain[:, :, 1:], noisy[:, :, 1:])
    assert reasoner(X, MASK, None, noise=0.1)[1] is None


def test_steps_apart_is_the_mean_divergence_of_all_ordered_pairs() -> None:
    logits = jax.random.normal(jax.random.key(2), (2, 3, 4))
    p = np.asarray(jax.nn.softmax(logits, -1), np.float64)
    expected = [
        np.mean([(p[n, i] * np.log(p[n, i] / p[n, j])).sum() for i in range(3) for j in range(3)
                 if i != j])
        for n in range(2)
    ]  # fmt: skip
    np.testing.assert_allclose(steps_apart(logits), expected, rtol=1e-5)
    np.testing.assert_allclose(steps_apart(jnp.repeat(logits[:, :1], 3, axis=1)), 0, atol=1e-6)
    np.testing.assert_array_equal(steps_apart(logits[:, :1]), 0)


def test_extreme_logits_give_finite_terms_and_gradients() -> None:
    targets = jnp.array([1])
    for term in (steps_apart, lambda x: progressive_loss(x, targets, scale=5.0)):
        value, gradient = jax.value_and_grad(lambda x: term(x).sum())(EXTREME)  # noqa: B023
        assert np.isfinite(value) and np.isfinite(gradient).all()
    assert float(steps_apart(EXTREME)[0]) <= MOST_NATS
    views = EXTREME / 1e12
    grown = jax.value_and_grad(lambda x: views_apart(x, x, jnp.ones(1), temperature=0.07).sum())
    for x in (views, jnp.zeros_like(views), views * 1e12):
        value, gradient = grown(x)
        assert np.isfinite(value) and np.isfinite(gradient).all()


def test_temperatures_fall_step_by_step_and_are_bounded() -> None:
    logits = jax.random.normal(jax.random.key(3), (2, 3, 5))
    targets = jnp.array([4, 0])
    warm, hot = (softmax_loss(logits[:, 0] / t, targets) for t in (5, 9))
    last = softmax_loss(logits[:, 1] / 3, targets)
    found = progressive_loss(logits, targets, scale=3.0)
    np.testing.assert_allclose(found, (hot + last) / 2, rtol=1e-5)
    found = progressive_loss(logits, targets, scale=3.0, hottest=5.0)
    np.testing.assert_allclose(found, (warm + last) / 2, rtol=1e-5)
    np.testing.assert_array_equal(progressive_loss(logits[:, :1], targets, scale=3.0), 0)


def test_contrast_by_hand_and_without_weightless_rows() -> None:
    view = jnp.array([[[9.0, 9.0], [2.0, 0.0]], [[9.0, 9.0], [0.0, 3.0]], [[9.0, 9.0], [1.0, 0.0]]])
    found = views_apart(view, view, jnp.array([1.0, 1.0, 0.0]), temperature=0.5)
    expected = -np.log(np.exp(2.0) / (np.exp(2.0) + 1))
    np.testing.assert_allclose(found[:2], expected, rtol=1e-4)
    assert float(found[0]) == pytest.approx(expected, rel=1e-4)
