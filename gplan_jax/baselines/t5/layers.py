"""T5's layers: relative position buckets, attention with a bias, feed-forward; no biases anywhere.

Letters: B rows, T queries, S keys, D model, N heads, H head size, F feed-forward.
Source: Raffel et al. 2020, "Exploring the limits of transfer learning", section 2.1.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from flax import nnx

from gplan_jax.baselines.t5.config import T5Config
from gplan_jax.models.layers.norms import rms_norm

_MASKED = -1e9  # Finite, so that a row without any key has a mean and no NaN.


def relative_buckets(
    distance: jax.Array, *, bidirectional: bool, buckets: int, max_distance: int
) -> jax.Array:
    """The bucket of each key position minus query position, int32 of the same shape.

    Half of the buckets hold one distance each; the others grow with log(distance) up to
    ``max_distance``. With n buckets a direction and e = n / 2 exact ones, a distance d >= e goes
    to e + floor(log(d / e) / log(max_distance / e) * (n - e)), n - 1 at most. A bidirectional
    bias spends half of the buckets on each direction, later keys second; a causal one puts all
    later keys into bucket 0.
    """
    offset = jnp.zeros_like(distance)
    if bidirectional:
        buckets //= 2
        offset = jnp.where(distance > 0, buckets, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    exact = buckets // 2
    # The smallest positive float keeps log(0) out of the branch that is not taken.
    ratio = jnp.maximum(distance, 1).astype(jnp.float32) / exact
    grown = jnp.log(ratio) / math.log(max_distance / exact) * (buckets - exact)
    far = jnp.minimum(exact + grown.astype(jnp.int32), buckets - 1)
    return (offset + jnp.where(distance < exact, distance, far)).astype(jnp.int32)


class PositionBias(nnx.Module):
    """A learnt bias for each bucket and head, added to the attention scores of all layers."""

    def __init__(self, config: T5Config, *, bidirectional: bool, rngs: nnx.Rngs) -> None:
        self.bidirectional = bidirectional
        self.max_distance = config.max_distance
        shape = (config.buckets, config.heads)
        self.table = _normal(rngs, shape, config.hidden_size**-0.5)

    def __call__(self, queries_T: jax.Array, keys_S: jax.Array) -> jax.Array:
        """The bias [1, N, T, S] between queries and keys at these positions."""
        buckets_TxS = relative_buckets(
            keys_S[None, :] - queries_T[:, None],
            bidirectional=self.bidirectional,
            buckets=self.table.shape[0],
            max_distance=self.max_distance,
        )
        return jnp.moveaxis(self.table[...][buckets_TxS], -1, 0)[None]


class Norm(nnx.Module):
    """RMS norm: a scale, but no mean and no bias."""

    def __init__(self, config: T5Config) -> None:
        self.scale = nnx.Param(jnp.ones(config.hidden_size))
        self.epsilon = config.epsilon

    def __call__(self, x: jax.Array) -> jax.Array:
        return rms_norm(x, self.scale[...], self.epsilon)


class Attention(nnx.Module):
    """Multi-head attention whose scores are not scaled: the initial weights are, instead."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        d, n, h = config.hidden_size, config.heads, config.head_dim
        self.query = _normal(rngs, (d, n, h), (d * h) ** -0.5)
        self.key = _normal(rngs, (d, n, h), d**-0.5)
        self.value = _normal(rngs, (d, n, h), d**-0.5)
        self.output = _normal(rngs, (n, h, d), (n * h) ** -0.5)
        self.dropout = config.dropout

    def keys_values(self, x_BxSxD: jax.Array) -> tuple[jax.Array, jax.Array]:
        """The keys and values [B, S, N, H] of the states that are looked at."""
        key = jnp.einsum("BSD,DNH->BSNH", x_BxSxD, self.key[...])
        return key, jnp.einsum("BSD,DNH->BSNH", x_BxSxD, self.value[...])

    def __call__(
        self,
        x_BxTxD: jax.Array,
        keys_values: tuple[jax.Array, jax.Array],
        bias: jax.Array,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Mixes the values for each of x; ``bias`` is broadcast to [B, N, T, S]."""
        keys, values = keys_values
        query = jnp.einsum("BTD,DNH->BTNH", x_BxTxD, self.query[...])
        scores = jnp.einsum("BTNH,BSNH->BNTS", query, keys) + bias
        weights = dropout(jax.nn.softmax(scores, axis=-1), self.dropout, key)
        mixed = jnp.einsum("BNTS,BSNH->BTNH", weights, values)
        return jnp.einsum("BTNH,NHD->BTD", mixed, self.output[...])


class FeedForward(nnx.Module):
    """down(relu(up(x))), or down(gelu(gate(x)) * up(x)) where gated."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        d, f = config.hidden_size, config.mlp_size
        self.up = _normal(rngs, (d, f), d**-0.5)
        self.gate = _normal(rngs, (d, f), d**-0.5) if config.gated else None
        self.down = _normal(rngs, (f, d), f**-0.5)
        self.dropout = config.dropout

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        inner = x @ self.up[...]
        if self.gate is None:
            inner = jax.nn.relu(inner)
        else:
            inner = jax.nn.gelu(x @ self.gate[...], approximate=True) * inner
        return dropout(inner, self.dropout, key) @ self.down[...]


def mask_bias(mask: jax.Array) -> jax.Array:
    """0 where the mask is true and a very negative number elsewhere, to add to scores."""
    return jnp.where(mask, 0.0, _MASKED)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """x with a share of its values zeroed and the others scaled up; x itself without a key.

    As in the original T5, what is dropped is the same all along the axis before the last one: a
    feature of all tokens, or a key of all queries.
    """
    if key is None or rate == 0:
        return x
    kept = jax.random.bernoulli(key, 1 - rate, (*x.shape[:-2], 1, x.shape[-1]))
    return jnp.where(kept, x / (1 - rate), 0)


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...], deviation: float) -> nnx.Param:
    return nnx.Param(deviation * jax.random.normal(rngs.params(), shape))
