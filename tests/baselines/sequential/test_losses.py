"""Losses against figures computed by hand, ReaRec's terms against plain sums."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplan_jax.baselines.sequential.encoder import (
    MOST_NATS,
    UNSEEN,
    bce_loss,
    progressive_loss,
    softmax_loss,
    steps_apart,
    views_apart,
)

EXTREME = jnp.array([[[1e6, -1e6, 0.0], [-1e6, 1e6, 0.0], [0.0, 0.0, 1e30]]])


def test_softmax_loss_by_hand() -> None:
    scores = jnp.array([[math.log(1.0), math.log(2.0), math.log(5.0)]])
    assert float(softmax_loss(scores, jnp.array([2]))[0]) == pytest.approx(-math.log(5 / 8))
    logs = [math.log(p) for p in (1 / 8, 2 / 8, 5 / 8)]
    expected = -(0.7 * logs[2] + 0.3 * sum(logs) / 3)
    assert float(softmax_loss(scores, jnp.array([2]), 0.3)[0]) == pytest.approx(expected)


def test_bce_by_hand() -> None:
    def sigmoid(x: float) -> float:
        return 1 / (1 + math.exp(-x))

    expected = (
        -math.log(sigmoid(1.5)) - (math.log(1 - sigmoid(-0.5)) + math.log(1 - sigmoid(2.0))) / 2
    )
    found = bce_loss(jnp.array([[1.5, -0.5, 2.0]]))
    assert float(found[0]) == pytest.approx(expected, rel=1e-6)


def test_extreme_scores_give_finite_losses() -> None:
    scores = jnp.array([[1e9, -1e9, 0.0], [-1e9, 1e9, UNSEEN]])
    assert np.isfinite(softmax_loss(scores, jnp.array([1, 0]))).all()
    assert np.isfinite(bce_loss(scores)).all()


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
