"""What is minimised: cross-entropy, BCE with negatives, and the terms of ReaRec's two ways.

ReaRec (Tang et al. 2025, arXiv:2503.22675) reasons in K latent steps before it recommends. ERL
takes the mean of the K + 1 representations and pushes their predictions apart; PRL takes the last
one and sharpens the predictions from step to step.

Letters: N predictions, C classes, T = K + 1 representations, D width. Every loss is one number a
prediction, (N,); the caller weighs and sums them.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from jax import Array

# A KL term that is maximised has no upper bound of its own; beyond this it is not pushed further.
MOST_NATS = 10.0


def softmax_loss(scores_NxC: Array, targets_N: Array, smoothing: float = 0.0) -> Array:
    """Cross-entropy ``-Σ_c q_c log softmax(scores)_c`` with q = (1 - s) at the target + s / C.

    Scores of ``UNSEEN`` take part in nothing but the normalisation, where they weigh 0; smoothing
    spreads over all C classes and is meant for scores that are all open.
    """
    logs = jax.nn.log_softmax(scores_NxC, axis=-1)
    picked = jnp.take_along_axis(logs, targets_N[:, None], axis=-1)[:, 0]
    return -(1 - smoothing) * picked - (smoothing * logs.mean(-1) if smoothing else 0.0)


def bce_loss(scores_NxC: Array) -> Array:
    """``-log σ(s_0) - mean_{j>0} log σ(-s_j)``: the target's score stands first, negatives follow.

    With one negative this is SASRec's loss (Kang and McAuley 2018, equation 7). A closed negative
    (``UNSEEN``) adds 0 and counts in the mean.
    """
    negative = jax.nn.log_sigmoid(-scores_NxC[:, 1:])
    return -jax.nn.log_sigmoid(scores_NxC[:, 0]) - negative.mean(-1)


def steps_apart(logits_NxTxC: Array) -> Array:
    """Mean KL(p_i || p_j) over ordered pairs of different steps, (N,); 0 with one step.

    ``p_j`` is held fixed, as in the public code, so a step moves away from the others. All is
    computed from log-softmax: no probability's logarithm is taken, and a pair counts at most
    ``MOST_NATS``, since the term is maximised.
    """
    count = logits_NxTxC.shape[1]
    if count < 2:
        return jnp.zeros(logits_NxTxC.shape[0])
    logs = jax.nn.log_softmax(logits_NxTxC, axis=-1)
    shares = jnp.exp(logs)
    entropy = (shares * logs).sum(-1)
    cross = jnp.einsum("ntc,nsc->nts", shares, jax.lax.stop_gradient(logs))
    apart = jnp.minimum(entropy[:, :, None] - cross, MOST_NATS)
    return jnp.where(jnp.eye(count, dtype=bool), 0, apart).sum((1, 2)) / (count * (count - 1))


def progressive_loss(
    logits_NxTxC: Array, targets_N: Array, *, scale: float, hottest: float = 100.0
) -> Array:
    """Cross-entropy of every step but the last, at a temperature that falls with the steps, (N,).

    Step t of 0..K-1 is divided by ``min(scale^(K - t), hottest)`` (ReaRec, equation of progressive
    temperature annealing; the last step's temperature is 1), and the steps' losses are averaged.
    """
    steps = logits_NxTxC.shape[1] - 1
    if not steps:
        return jnp.zeros(logits_NxTxC.shape[0])
    temperatures = jnp.minimum(scale ** jnp.arange(steps, 0, -1.0), hottest)
    scaled = logits_NxTxC[:, :-1] / temperatures[:, None]
    losses = softmax_loss(scaled.reshape(-1, scaled.shape[-1]), jnp.repeat(targets_N, steps))
    return losses.reshape(-1, steps).mean(-1)


def views_apart(
    view_NxTxD: Array, noisy_NxTxD: Array, weights_N: Array, *, temperature: float
) -> Array:
    """Contrast of reasoning steps with their noisy view, (N,): which of the N is it a view of?

    InfoNCE on cosines, ``-log softmax_m(cos(noisy_n, view_m) / temperature)_n``, averaged over the
    reasoning steps. The public code takes plain dot products, which overflow the exponential's
    range as norms grow. Predictions of weight 0 are nobody's alternative.
    """
    steps = view_NxTxD.shape[1] - 1
    count = view_NxTxD.shape[0]
    if not steps:
        return jnp.zeros(count)
    view, noisy = _unit(view_NxTxD[:, 1:]), _unit(noisy_NxTxD[:, 1:])
    alike = jnp.einsum("ntd,mtd->tnm", noisy, view) / temperature
    own = jnp.eye(count, dtype=bool)
    alike = jnp.where((weights_N > 0)[None, None] | own, alike, -1e30)
    logs = jax.nn.log_softmax(alike, axis=-1)
    return -jnp.diagonal(logs, axis1=1, axis2=2).mean(0)


def _unit(x: Array) -> Array:
    return x * jax.lax.rsqrt((x * x).sum(-1, keepdims=True) + 1e-12)
