"""T5, an encoder-decoder with relative positions: teacher forcing, and cached single steps.

Raffel et al. 2020, "Exploring the limits of transfer learning", section 2.1; no biases anywhere,
all in float32. A call with a ``key`` drops values out; one without does not.

Letters: B rows, K beams, S source or keys, T target or queries, D model, N heads, H head size,
F feed-forward, L decoder layers, V vocabulary.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from gplan_jax.foundation.config import Config
from gplan_jax.models.layers.norms import rms_norm

_MASKED = -1e9  # Finite, so that a row without any key has a mean and no NaN.


class T5Config(Config):
    """The sizes of a T5; the defaults are small enough for one CPU core."""

    vocabulary_size: int = Field(ge=1)  # V, shared by both sides
    hidden_size: int = Field(default=64, ge=1)  # D
    heads: int = Field(default=4, ge=1)  # N; N * H need not be D
    head_dim: int = Field(default=16, ge=1)  # H
    mlp_size: int = Field(default=128, ge=1)  # F
    encoder_layers: int = Field(default=2, ge=1)
    decoder_layers: int = Field(default=2, ge=1)
    buckets: int = Field(default=32, ge=4, multiple_of=4)  # of relative positions, see below
    max_distance: int = Field(default=128, ge=2)
    dropout: float = Field(default=0.1, ge=0, lt=1)
    epsilon: float = Field(default=1e-6, gt=0)  # added to the mean square in the norms


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


class T5Attention(nnx.Module):
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
    """down(relu(up(x)))."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        d, f = config.hidden_size, config.mlp_size
        self.up = _normal(rngs, (d, f), d**-0.5)
        self.down = _normal(rngs, (f, d), f**-0.5)
        self.dropout = config.dropout

    def __call__(self, x: jax.Array, key: jax.Array | None = None) -> jax.Array:
        inner = jax.nn.relu(x @ self.up[...])
        return dropout(inner, self.dropout, key) @ self.down[...]


def mask_bias(mask: jax.Array) -> jax.Array:
    """0 where the mask is true and a very negative number elsewhere, to add to scores."""
    return jnp.where(mask, 0.0, _MASKED)


def dropout(x: jax.Array, rate: float, key: jax.Array | None) -> jax.Array:
    """x with a share of its values zeroed and the others scaled up; x itself without a key."""
    if key is None or rate == 0:
        return x
    # As in the original T5 the mask is shared along the axis before the last one: it drops a
    # feature of all tokens, or a key of all queries.
    kept = jax.random.bernoulli(key, 1 - rate, (*x.shape[:-2], 1, x.shape[-1]))
    return jnp.where(kept, x / (1 - rate), 0)


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...], deviation: float) -> nnx.Param:
    return nnx.Param(deviation * jax.random.normal(rngs.params(), shape))


class EncoderBlock(nnx.Module):
    """Self-attention and feed-forward, each of a normed input and added to it."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.attention_norm = Norm(config)
        self.attention = T5Attention(config, rngs=rngs)
        self.mlp_norm = Norm(config)
        self.mlp = FeedForward(config, rngs=rngs)
        self.dropout = config.dropout

    def __call__(self, x_BxSxD: jax.Array, bias: jax.Array, key: jax.Array | None) -> jax.Array:
        keys = _split(key, 4)
        normed = self.attention_norm(x_BxSxD)
        mixed = self.attention(normed, self.attention.keys_values(normed), bias, keys[0])
        x_BxSxD = x_BxSxD + dropout(mixed, self.dropout, keys[1])
        return x_BxSxD + dropout(self.mlp(self.mlp_norm(x_BxSxD), keys[2]), self.dropout, keys[3])


class DecoderBlock(nnx.Module):
    """Self-attention, attention to the encoder's output, and feed-forward."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.attention_norm = Norm(config)
        self.attention = T5Attention(config, rngs=rngs)
        self.cross_norm = Norm(config)
        self.cross = T5Attention(config, rngs=rngs)
        self.mlp_norm = Norm(config)
        self.mlp = FeedForward(config, rngs=rngs)
        self.dropout = config.dropout

    def __call__(
        self,
        x_BxTxD: jax.Array,
        keys_values: tuple[jax.Array, jax.Array],
        bias: jax.Array,
        cross_keys_values: tuple[jax.Array, jax.Array],
        cross_bias: jax.Array,
        key: jax.Array | None,
    ) -> jax.Array:
        """The states after the block; rows of the encoder may each serve B / rows beams."""
        keys = _split(key, 6)
        normed = self.attention_norm(x_BxTxD)
        mixed = self.attention(normed, keys_values, bias, keys[0])
        x_BxTxD = x_BxTxD + dropout(mixed, self.dropout, keys[1])
        # Beams of a row are queries side by side, so that the encoder's output isn't repeated.
        rows = len(cross_keys_values[0])
        normed = self.cross_norm(x_BxTxD).reshape(rows, -1, x_BxTxD.shape[-1])
        mixed = self.cross(normed, cross_keys_values, cross_bias, keys[2]).reshape(x_BxTxD.shape)
        x_BxTxD = x_BxTxD + dropout(mixed, self.dropout, keys[3])
        return x_BxTxD + dropout(self.mlp(self.mlp_norm(x_BxTxD), keys[4]), self.dropout, keys[5])


class DecoderCache(NamedTuple):
    """What a decoder remembers between steps; the beams of a row stand side by side."""

    self_key: jax.Array  # [L, B*K, T, N, H], filled up to ``position``
    self_value: jax.Array
    cross_key: jax.Array  # [L, B, S, N, H] of the encoder's output
    cross_value: jax.Array
    mask: jax.Array  # [B, S], true at the source's tokens
    position: jax.Array  # how many tokens have been taken in

    def reorder(self, parents_BK: jax.Array) -> DecoderCache:
        """The cache in which beam i goes on from beam ``parents_BK[i]`` of the same row."""
        return self._replace(
            self_key=self.self_key[:, parents_BK], self_value=self.self_value[:, parents_BK]
        )


class T5(nnx.Module):
    """The encoder-decoder; both sides and the head share one embedding [V, D]."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.config = config
        shape = (config.vocabulary_size, config.hidden_size)
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), shape))
        self.encoder_bias = PositionBias(config, bidirectional=True, rngs=rngs)
        self.decoder_bias = PositionBias(config, bidirectional=False, rngs=rngs)
        encoder = [EncoderBlock(config, rngs=rngs) for _ in range(config.encoder_layers)]
        decoder = [DecoderBlock(config, rngs=rngs) for _ in range(config.decoder_layers)]
        self.encoder, self.decoder = nnx.List(encoder), nnx.List(decoder)
        self.encoder_norm = Norm(config)
        self.decoder_norm = Norm(config)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """The embeddings [..., D] of tokens."""
        return self.embedding[...][tokens]

    def encode(self, x: jax.Array, mask_BxS: jax.Array, key: jax.Array | None = None) -> jax.Array:
        """The encoder's output [B, S, D] for embeddings [B, S, D]; the mask is true at tokens."""
        positions = jnp.arange(x.shape[1])
        bias = self.encoder_bias(positions, positions) + mask_bias(mask_BxS)[:, None, None]
        keys = _split(key, 2 + len(self.encoder))
        x = dropout(x, self.config.dropout, keys[0])
        for block, block_key in zip(self.encoder, keys[2:], strict=True):
            x = block(x, bias, block_key)
        return dropout(self.encoder_norm(x), self.config.dropout, keys[1])

    def decode(
        self,
        target_BxT: jax.Array,
        encoded_BxSxD: jax.Array,
        mask_BxS: jax.Array,
        key: jax.Array | None = None,
    ) -> jax.Array:
        """Logits [B, T, V] of the token after each of ``target_BxT`` (see ``shift_right``)."""
        positions = jnp.arange(target_BxT.shape[1])
        causal = mask_bias(positions[None, :] <= positions[:, None])
        bias = self.decoder_bias(positions, positions) + causal
        cross_bias = mask_bias(mask_BxS)[:, None, None]
        keys = _split(key, 2 + len(self.decoder))
        x = dropout(self.embed(target_BxT), self.config.dropout, keys[0])
        for block, block_key in zip(self.decoder, keys[2:], strict=True):
            own = block.attention.keys_values(block.attention_norm(x))
            x = block(x, own, bias, block.cross.keys_values(encoded_BxSxD), cross_bias, block_key)
        return self._logits(dropout(self.decoder_norm(x), self.config.dropout, keys[1]))

    def start(
        self, encoded_BxSxD: jax.Array, mask_BxS: jax.Array, *, beams: int, steps: int
    ) -> DecoderCache:
        """An empty cache for ``beams`` hypotheses a row of at most ``steps`` tokens each."""
        config, rows = self.config, len(encoded_BxSxD)
        cross = [block.cross.keys_values(encoded_BxSxD) for block in self.decoder]
        shape = (len(self.decoder), rows * beams, steps, config.heads, config.head_dim)
        return DecoderCache(
            self_key=jnp.zeros(shape),
            self_value=jnp.zeros(shape),
            cross_key=jnp.stack([key for key, _ in cross]),
            cross_value=jnp.stack([value for _, value in cross]),
            mask=mask_BxS,
            position=jnp.zeros((), jnp.int32),
        )

    def step(self, cache: DecoderCache, tokens_BK: jax.Array) -> tuple[DecoderCache, jax.Array]:
        """Takes one token of each beam in; returns the cache and the next one's logits [B*K, V]."""
        positions = jnp.arange(cache.self_key.shape[2])
        seen = mask_bias(positions <= cache.position)
        bias = self.decoder_bias(cache.position[None], positions) + seen
        cross_bias = mask_bias(cache.mask)[:, None, None]
        x = self.embed(tokens_BK)[:, None]
        self_key, self_value = cache.self_key, cache.self_value
        for i, block in enumerate(self.decoder):
            key, value = block.attention.keys_values(block.attention_norm(x))
            place = (i, 0, cache.position, 0, 0)
            self_key = jax.lax.dynamic_update_slice(self_key, key[None], place)
            self_value = jax.lax.dynamic_update_slice(self_value, value[None], place)
            cross = (cache.cross_key[i], cache.cross_value[i])
            x = block(x, (self_key[i], self_value[i]), bias, cross, cross_bias, None)
        cache = cache._replace(
            self_key=self_key, self_value=self_value, position=cache.position + 1
        )
        return cache, self._logits(self.decoder_norm(x))[:, 0]

    def _logits(self, x: jax.Array) -> jax.Array:
        return (x * self.config.hidden_size**-0.5) @ self.embedding[...].T


def shift_right(target_BxT: jax.Array, start: int) -> jax.Array:
    """What the decoder is given to predict the target: the start token, then all but the last."""
    return jnp.pad(target_BxT[:, :-1], ((0, 0), (1, 0)), constant_values=start)


def _split(key: jax.Array | None, count: int) -> list[jax.Array | None]:
    return [None] * count if key is None else list(jax.random.split(key, count))
