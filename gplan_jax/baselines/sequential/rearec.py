"""ReaRec: reason in latent steps before recommending (Tang et al. 2025, arXiv:2503.22675).

After the last position the model appends K latent ones. Step k reads the representation that step
k - 1 gave, plus the embedding of reasoning position k, and sees the sequence and all earlier steps.
ERL takes the mean of the K + 1 representations and pushes their predictions apart; PRL takes the
last one and sharpens the predictions from step to step.

Letters: B sequences, L positions, Q of them asked for, T = K + 1 representations, N predictions,
C classes, D width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from gplan_jax.baselines.sequential.encoder import Encoder, EncoderSettings, KeysValues
from gplan_jax.baselines.sequential.losses import softmax_loss

# A KL term that is maximised has no upper bound of its own; beyond this it is not pushed further.
MOST_NATS = 10.0


class Reasoner(nnx.Module):
    """An encoder and K reasoning positions; with K = 0 it is the encoder (SASRec's)."""

    def __init__(self, settings: EncoderSettings, steps: int, rngs: nnx.Rngs) -> None:
        self.encoder = Encoder(settings, rngs)
        # Made after the encoder, whose weights are so the same for every K.
        start = nnx.initializers.normal(0.02)
        self.step_positions = nnx.Param(start(rngs.params(), (steps, settings.hidden)))

    def __call__(
        self,
        x_BxLxD: Array,
        mask_BxLxL: Array,
        key: Array | None = None,
        *,
        first: int = 0,
        noise: float = 0.0,
    ) -> tuple[Array, Array | None]:
        """Representations (B, Q, T, D) of the positions from ``first`` on, Q = L - first.

        Every position reasons as if the sequence ended with it.

        Args:
            key: randomness of dropout and noise; None for prediction.
            noise: standard deviation of Gaussian noise on the steps' inputs; where it is above 0
                and there is a key, the same positions' noisy second view is returned too.
        """
        parts: list[Array | None] = [None] * 3
        if key is not None:
            parts = list(jax.random.split(key, 3))
        encoded, memory = self.encoder.encode(x_BxLxD, mask_BxLxL, parts[0])
        encoded, mask = encoded[:, first:], mask_BxLxL[:, first:]
        chain = self._reason(encoded, memory, mask, parts[1], 0.0)
        if not noise or key is None:
            return chain, None
        return chain, self._reason(encoded, memory, mask, parts[2], noise)

    def _reason(
        self,
        x: Array,
        memory: list[KeysValues],
        mask: Array,
        key: Array | None,
        noise: float,
    ) -> Array:
        found = [x]
        appended: list[list[KeysValues]] = []
        for number in range(self.step_positions.shape[0]):
            x = x + self.step_positions[number]
            step_key = None
            if key is not None:
                step_key, noise_key = jax.random.split(jax.random.fold_in(key, number))
                x = x + noise * jax.random.normal(noise_key, x.shape) if noise else x
            x, new = self.encoder.extend(x, memory, mask, appended, step_key)
            found.append(x)
            appended.append(new)
        return jnp.stack(found, axis=2)


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
