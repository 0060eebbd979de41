"""What is minimised: cross-entropy over all classes or a sample of them, and BCE with negatives.

Letters: N predictions, C classes, S sampled negatives, D width. Every loss is one number a
prediction, (N,); the caller weighs and sums them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

from gplan_jax.baselines.sequential.encoder import UNSEEN


def softmax_loss(scores_NxC: Array, targets_N: Array, smoothing: float = 0.0) -> Array:
    """Cross-entropy ``-Σ_c q_c log softmax(scores)_c`` with q = (1 - s) at the target + s / C.

    Scores of ``UNSEEN`` take part in nothing but the normalisation, where they weigh 0; smoothing
    spreads over all C classes and is meant for scores that are all open.
    """
    logs = jax.nn.log_softmax(scores_NxC, axis=-1)
    picked = jnp.take_along_axis(logs, targets_N[:, None], axis=-1)[:, 0]
    return -(1 - smoothing) * picked - (smoothing * logs.mean(-1) if smoothing else 0.0)


def candidate_scores(x_NxD: Array, table_CxD: Array, targets_N: Array, negatives_S: Array) -> Array:
    """Scores (N, 1 + S) of each target, first, and of the negatives that all N share.

    A negative that happens to be a prediction's own target is closed for it (``UNSEEN``).
    """
    positive = jnp.einsum("nd,nd->n", x_NxD, table_CxD[targets_N])
    negative = x_NxD @ table_CxD[negatives_S].T
    negative = jnp.where(negatives_S[None] == targets_N[:, None], UNSEEN, negative)
    return jnp.concatenate([positive[:, None], negative], axis=-1)


def bce_loss(scores_NxC: Array) -> Array:
    """``-log σ(s_0) - mean_{j>0} log σ(-s_j)``: the target's score stands first, negatives follow.

    With one negative this is SASRec's loss (Kang and McAuley 2018, equation 7). A closed negative
    (``UNSEEN``) adds 0 and counts in the mean.
    """
    negative = jax.nn.log_sigmoid(-scores_NxC[:, 1:])
    return -jax.nn.log_sigmoid(scores_NxC[:, 0]) - negative.mean(-1)
