"""Losses against figures computed by hand."""

from __future__ import annotations

import math

import jax.numpy as jnp
import numpy as np
import pytest

from gplan_jax.baselines.sequential.encoder import UNSEEN
from gplan_jax.baselines.sequential.losses import bce_loss, candidate_scores, softmax_loss


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


def test_candidates_are_the_target_and_the_shared_negatives_but_itself() -> None:
    table = jnp.arange(10.0).reshape(5, 2)
    x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    found = np.asarray(candidate_scores(x, table, jnp.array([1, 3]), jnp.array([3, 4])))
    np.testing.assert_array_equal(found[0], [2.0, 6.0, 8.0])
    np.testing.assert_array_equal(found[1], np.array([7.0, UNSEEN, 9.0], np.float32))
