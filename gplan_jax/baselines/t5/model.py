"""T5, an encoder-decoder with relative positions: teacher forcing, and cached single steps.

Letters: B rows, K beams, S source, T target, D model, N heads, H head size, L decoder layers,
V vocabulary. All is float32. A call with a ``key`` drops values out; one without does not.
"""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from gplan_jax.baselines.t5.config import T5Config
from gplan_jax.baselines.t5.layers import (
    Attention,
    FeedForward,
    Norm,
    PositionBias,
    dropout,
    mask_bias,
)


class EncoderBlock(nnx.Module):
    """Self-attention and feed-forward, each of a normed input and added to it."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.attention_norm = Norm(config)
        self.attention = Attention(config, rngs=rngs)
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
        self.attention = Attention(config, rngs=rngs)
        self.cross_norm = Norm(config)
        self.cross = Attention(config, rngs=rngs)
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
    """What a decoder remembers between steps; the beams of a row stand side by side.

    Attributes:
        self_key, self_value: [L, B*K, T, N, H], filled up to ``position``.
        cross_key, cross_value: [L, B, S, N, H] of the encoder's output.
        mask: [B, S], true at the source's tokens.
        position: how many tokens have been taken in.
    """

    self_key: jax.Array
    self_value: jax.Array
    cross_key: jax.Array
    cross_value: jax.Array
    mask: jax.Array
    position: jax.Array

    def reorder(self, parents_BK: jax.Array) -> DecoderCache:
        """The cache in which beam i goes on from beam ``parents_BK[i]`` of the same row."""
        return self._replace(
            self_key=self.self_key[:, parents_BK], self_value=self.self_value[:, parents_BK]
        )


class T5(nnx.Module):
    """The encoder-decoder; both sides and, where tied, the head share one embedding [V, D]."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.config = config
        shape = (config.vocabulary_size, config.hidden_size)
        self.embedding = nnx.Param(jax.random.normal(rngs.params(), shape))
        scale = config.hidden_size**-0.5
        self.head = (
            None if config.tied else nnx.Param(scale * jax.random.normal(rngs.params(), shape))
        )
        self.encoder_bias = PositionBias(config, bidirectional=True, rngs=rngs)
        self.decoder_bias = PositionBias(config, bidirectional=False, rngs=rngs)
        self.encoder = nnx.List(
            [EncoderBlock(config, rngs=rngs) for _ in range(config.encoder_layers)]
        )
        self.decoder = nnx.List(
            [DecoderBlock(config, rngs=rngs) for _ in range(config.decoder_layers)]
        )
        self.encoder_norm = Norm(config)
        self.decoder_norm = Norm(config)

    def embed(self, tokens: jax.Array) -> jax.Array:
        """The embeddings [..., D] of tokens."""
        return self.embedding[...][tokens]

    def encode(
        self, source: jax.Array, mask_BxS: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """The encoder's output [B, S, D] for tokens [B, S] or embeddings [B, S, D].

        ``mask_BxS`` is true at tokens; padding is seen by nobody, wherever it stands.
        """
        x = source if source.ndim == 3 else self.embed(source)
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
        if self.head is not None:
            return x @ self.head[...].T
        return (x * self.config.hidden_size**-0.5) @ self.embedding[...].T


def shift_right(target_BxT: jax.Array, start: int) -> jax.Array:
    """What the decoder is given to predict the target: the start token, then all but the last."""
    return jnp.pad(target_BxT[:, :-1], ((0, 0), (1, 0)), constant_values=start)


def _split(key: jax.Array | None, count: int) -> list[jax.Array | None]:
    return [None] * count if key is None else list(jax.random.split(key, count))
