"""A small transformer over embedded positions, whose mask says who sees whom, and losses.

Letters: B sequences, L positions, Q of them asked for, S appended ones, D width, H heads, E width
of a head, F inner width. The same encoder is causal (SASRec, ReaRec) or bidirectional (BERT4Rec) by
its mask, and goes on from what it has read (``Encoder.extend``), which ReaRec's steps need.

Losses: cross-entropy, BCE with negatives, and the terms of ReaRec's two ways. ReaRec (Tang et al.
2025, arXiv:2503.22675) reasons in K latent steps before it recommends. ERL takes the mean of the
K + 1 representations and pushes their predictions apart; PRL takes the last one and sharpens the
predictions from step to step. Letters there: N predictions, C classes, T = K + 1 representations, D
width. Every loss is one number a prediction, (N,); the caller weighs and sums them.
"""

from __future__ import annotations

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from gplan_jax.foundation.config import Config
from gplan_jax.foundation.errors import GplanError

# Far below any score, yet finite: a position that sees nothing gives a mean, not NaN.
UNSEEN = -1e30
# Keys and values of one layer: (B, L, H, E) each.
KeysValues = tuple[Array, Array]
# A KL term that is maximised has no upper bound of its own; beyond this it is not pushed further.
MOST_NATS = 10.0


class EncoderSettings(Config):
    """Sizes of an encoder."""

    hidden: int = 64
    layers: int = 2
    heads: int = 2
    inner: int = 128  # width between the two feed-forward maps
    dropout: float = 0.2
    pre_norm: bool = True  # normalise what goes into a layer; otherwise the sum that comes out
    gelu: bool = False  # otherwise ReLU


def dropout(x: Array, rate: float, key: Array | None) -> Array:
    """Sets a share ``rate`` of ``x`` to zero, divides the rest by 1 - rate; with no ``key``, x."""
    if key is None or rate <= 0:
        return x
    # A value is kept where a hash of its number and the key is large enough (MurmurHash3's
    # finisher, the key's two words around it). JAX's generator takes as long on a CPU as the rest
    # of a small model's step; these few operations are fused with those around them.
    first, second = jax.random.bits(key, (2,), jnp.uint32)
    number = jnp.arange(x.size, dtype=jnp.uint32).reshape(x.shape)
    number = number * jnp.uint32(0x9E3779B1) + first
    number = (number ^ (number >> 16)) * jnp.uint32(0x85EBCA6B)
    number = (number ^ (number >> 13)) * jnp.uint32(0xC2B2AE35)
    number = (number ^ (number >> 16)) * (second | jnp.uint32(1))
    kept = (number ^ (number >> 15)) >= jnp.uint32(rate * 2**32)
    return jnp.where(kept, x / (1 - rate), 0)


def see_all(segments_BxL: Array) -> Array:
    """Mask (B, L, L) by which a position sees its own segment; segment 0 is padding."""
    same = segments_BxL[:, :, None] == segments_BxL[:, None, :]
    return same & (segments_BxL > 0)[:, None, :]


def see_earlier(segments_BxL: Array) -> Array:
    """Mask (B, L, L) by which a position sees itself and what precedes it in its segment."""
    length = segments_BxL.shape[1]
    return see_all(segments_BxL) & jnp.tril(jnp.ones((length, length), bool))


class Encoder(nnx.Module):
    """Blocks of attention and feed-forward maps, and a closing normalisation where pre-norm."""

    def __init__(self, settings: EncoderSettings, rngs: nnx.Rngs) -> None:
        if settings.hidden % settings.heads:
            raise GplanError(
                f"hidden is {settings.hidden}, which {settings.heads} heads do not divide evenly."
            )
        self.dropout = settings.dropout
        self.blocks = nnx.List([_Block(settings, rngs) for _ in range(settings.layers)])
        closing = settings.pre_norm
        self.norm = nnx.LayerNorm(settings.hidden, rngs=rngs) if closing else None

    def encode(
        self, x_BxLxD: Array, mask_BxLxL: Array, key: Array | None = None
    ) -> tuple[Array, list[KeysValues]]:
        """Representations (B, L, D), and each layer's keys and values for ``extend``."""
        x, memory = dropout(x_BxLxD, self.dropout, _part(key, len(self.blocks))), []
        for number, block in enumerate(self.blocks):
            keys_values = block.keys_values(x)
            x = block(x, keys_values, mask_BxLxL, (), _part(key, number))
            memory.append(keys_values)
        return self._closed(x), memory

    def extend(
        self,
        x_BxQxD: Array,
        memory: Sequence[KeysValues],
        mask_BxQxL: Array,
        appended: Sequence[Sequence[KeysValues]],
        key: Array | None = None,
    ) -> tuple[Array, list[KeysValues]]:
        """Appends one position to each of Q readings of the sequence, all at once.

        Reading q has seen what row q of the mask shows and its own appended positions, and none of
        the other readings' ones; so Q prefixes of a sequence are extended without reading it Q
        times. ``memory`` is what ``encode`` returned, ``appended`` what this function returned for
        each position before: the keys and values (B, Q, H, E) beside representations (B, Q, D).
        """
        x, new = dropout(x_BxQxD, self.dropout, _part(key, len(self.blocks))), []
        for number, block in enumerate(self.blocks):
            own = block.keys_values(x)
            earlier = [step[number] for step in appended]
            x = block(x, memory[number], mask_BxQxL, (*earlier, own), _part(key, number))
            new.append(own)
        return self._closed(x), new

    def _closed(self, x: Array) -> Array:
        return x if self.norm is None else self.norm(x)


class _Block(nnx.Module):
    def __init__(self, settings: EncoderSettings, rngs: nnx.Rngs) -> None:
        width = settings.hidden
        self.heads, self.dropout = settings.heads, settings.dropout
        self.pre_norm, self.gelu = settings.pre_norm, settings.gelu
        self.query, self.keys, self.values, self.out = (
            nnx.Linear(width, width, rngs=rngs) for _ in range(4)
        )
        self.inner = nnx.Linear(width, settings.inner, rngs=rngs)
        self.outer = nnx.Linear(settings.inner, width, rngs=rngs)
        self.norm_attention = nnx.LayerNorm(width, rngs=rngs)
        self.norm_inner = nnx.LayerNorm(width, rngs=rngs)

    def keys_values(self, x_BxLxD: Array) -> KeysValues:
        x_BxLxD = self.norm_attention(x_BxLxD) if self.pre_norm else x_BxLxD
        shape = (*x_BxLxD.shape[:2], self.heads, -1)
        return self.keys(x_BxLxD).reshape(shape), self.values(x_BxLxD).reshape(shape)

    def __call__(
        self,
        x_BxQxD: Array,
        seen: KeysValues,
        mask_BxQxL: Array,
        own: Sequence[KeysValues],
        key: Array | None,
    ) -> Array:
        # What is seen of the sequence, and beside it each reading's own appended positions.
        normed_BxQxD = self.norm_attention(x_BxQxD) if self.pre_norm else x_BxQxD
        query_BxQxHxE = self.query(normed_BxQxD).reshape(*x_BxQxD.shape[:2], self.heads, -1)
        query_BxQxHxE = query_BxQxHxE / query_BxQxHxE.shape[-1] ** 0.5
        keys_BxLxHxE, values_BxLxHxE = seen
        scores = jnp.einsum("bqhe,blhe->bhql", query_BxQxHxE, keys_BxLxHxE)
        scores = jnp.where(mask_BxQxL[:, None], scores, UNSEEN)
        if own:
            beside = [jnp.einsum("bqhe,bqhe->bhq", query_BxQxHxE, k)[..., None] for k, _ in own]
            scores = jnp.concatenate([scores, *beside], axis=-1)
        weights = dropout(nnx.softmax(scores, axis=-1), self.dropout, _part(key, 0))
        length = keys_BxLxHxE.shape[1]
        mixed_BxQxHxE = jnp.einsum("bhql,blhe->bqhe", weights[..., :length], values_BxLxHxE)
        for step, (_, value_BxQxHxE) in enumerate(own):
            weight_BxQxH = jnp.moveaxis(weights[..., length + step], 1, 2)
            mixed_BxQxHxE += weight_BxQxH[..., None] * value_BxQxHxE
        mixed_BxQxD = self.out(mixed_BxQxHxE.reshape(x_BxQxD.shape))
        x_BxQxD = x_BxQxD + dropout(mixed_BxQxD, self.dropout, _part(key, 1))
        x_BxQxD = x_BxQxD if self.pre_norm else self.norm_attention(x_BxQxD)
        # The feed-forward maps.
        inner_BxQxF = self.inner(self.norm_inner(x_BxQxD) if self.pre_norm else x_BxQxD)
        inner_BxQxF = nnx.gelu(inner_BxQxF) if self.gelu else nnx.relu(inner_BxQxF)
        inner_BxQxF = dropout(inner_BxQxF, self.dropout, _part(key, 2))
        x_BxQxD = x_BxQxD + dropout(self.outer(inner_BxQxF), self.dropout, _part(key, 3))
        return x_BxQxD if self.pre_norm else self.norm_inner(x_BxQxD)


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

        Every position reasons as if the sequence ended with it. With a key and ``noise``, the
        standard deviation of Gaussian noise on the steps' inputs, a noisy second view of the same
        positions is returned too.
        """
        read_key, plain_key, noisy_key = (None,) * 3 if key is None else jax.random.split(key, 3)
        x_BxLxD, memory = self.encoder.encode(x_BxLxD, mask_BxLxL, read_key)
        start_BxQxD, mask_BxQxL = x_BxLxD[:, first:], mask_BxLxL[:, first:]

        def reason(key: Array | None, noise: float) -> Array:
            x_BxQxD = start_BxQxD
            found = [x_BxQxD]
            appended: list[list[KeysValues]] = []
            for number in range(self.step_positions.shape[0]):
                x_BxQxD = x_BxQxD + self.step_positions[number]
                step_key = None
                if key is not None:
                    step_key, noise_key = jax.random.split(jax.random.fold_in(key, number))
                    if noise:
                        x_BxQxD = x_BxQxD + noise * jax.random.normal(noise_key, x_BxQxD.shape)
                x_BxQxD, new = self.encoder.extend(x_BxQxD, memory, mask_BxQxL, appended, step_key)
                found.append(x_BxQxD)
                appended.append(new)
            return jnp.stack(found, axis=2)

        chain_BxQxTxD = reason(plain_key, 0.0)
        return chain_BxQxTxD, reason(noisy_key, noise) if noise and key is not None else None


def _part(key: Array | None, number: int) -> Array | None:
    return None if key is None else jax.random.fold_in(key, number)


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
