"""Qwen3 dense in Flax NNX: one block's parameters stacked over layers and scanned.

Letters: B batch, S sequence, T new tokens, C cache slots, D model, N query heads,
K key/value heads, H head size, F feed-forward, L layers, V vocabulary.

Parameters are stored in ``param_dtype`` and multiplied in ``compute_dtype``; norms, rotary
embedding, softmax and logits are float32. A tied model has one ``embedding`` and no ``head``.
"""

from __future__ import annotations

from typing import Any, Literal, cast

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from gplan_jax.models.attention import attention, causal_mask
from gplan_jax.models.cache import KVCache
from gplan_jax.models.config import Qwen3Config
from gplan_jax.models.layers import rms_norm, rotate, rotation

Remat = Literal["none", "full", "dots", "offload"]
CosSin = tuple[jax.Array, jax.Array]


class Attention(nnx.Module):
    """Grouped-query self-attention with RMS-normalised queries and keys."""

    def __init__(self, config: Qwen3Config, *, rngs: nnx.Rngs, param_dtype: DTypeLike) -> None:
        d, h = config.hidden_size, config.head_dim
        n, k = config.num_attention_heads, config.num_key_value_heads
        self.query = _normal(rngs, (d, n, h), param_dtype, config)
        self.key = _normal(rngs, (d, k, h), param_dtype, config)
        self.value = _normal(rngs, (d, k, h), param_dtype, config)
        self.output = _normal(rngs, (n, h, d), param_dtype, config)
        self.query_norm = nnx.Param(jnp.ones((h,), param_dtype))
        self.key_norm = nnx.Param(jnp.ones((h,), param_dtype))
        self.eps = config.rms_norm_eps

    def __call__(
        self,
        x_BxTxD: jax.Array,
        cos_sin: CosSin,
        mask: jax.Array,
        cache: KVCache | None,
        layer: jax.Array,
        slot: jax.Array,
    ) -> tuple[jax.Array, KVCache | None]:
        query = _project("BTD,DNH->BTNH", x_BxTxD, self.query)
        key = _project("BTD,DKH->BTKH", x_BxTxD, self.key)
        value = _project("BTD,DKH->BTKH", x_BxTxD, self.value)
        query = rotate(rms_norm(query, self.query_norm[...], self.eps), cos_sin)
        key = rotate(rms_norm(key, self.key_norm[...], self.eps), cos_sin)
        if cache is not None:
            cache = cache.write(layer, slot, key, value)
            key, value = cache.layer(layer)
        mixed = attention(query, key, value, mask).astype(x_BxTxD.dtype)
        return _project("BTNH,NHD->BTD", mixed, self.output), cache


class Mlp(nnx.Module):
    """Gated feed-forward: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: Qwen3Config, *, rngs: nnx.Rngs, param_dtype: DTypeLike) -> None:
        d, f = config.hidden_size, config.intermediate_size
        self.gate = _normal(rngs, (d, f), param_dtype, config)
        self.up = _normal(rngs, (d, f), param_dtype, config)
        self.down = _normal(rngs, (f, d), param_dtype, config)

    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        gate = jax.nn.silu(_project("BTD,DF->BTF", x_BxTxD, self.gate))
        return _project("BTF,FD->BTD", gate * _project("BTD,DF->BTF", x_BxTxD, self.up), self.down)


class Block(nnx.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: Qwen3Config, *, rngs: nnx.Rngs, param_dtype: DTypeLike) -> None:
        self.attention_norm = nnx.Param(jnp.ones((config.hidden_size,), param_dtype))
        self.attention = Attention(config, rngs=rngs, param_dtype=param_dtype)
        self.mlp_norm = nnx.Param(jnp.ones((config.hidden_size,), param_dtype))
        self.mlp = Mlp(config, rngs=rngs, param_dtype=param_dtype)
        self.eps = config.rms_norm_eps

    def __call__(
        self,
        x_BxTxD: jax.Array,
        cos_sin: CosSin,
        mask: jax.Array,
        cache: KVCache | None,
        layer: jax.Array,
        slot: jax.Array,
    ) -> tuple[jax.Array, KVCache | None]:
        normed = rms_norm(x_BxTxD, self.attention_norm[...], self.eps)
        mixed, cache = self.attention(normed, cos_sin, mask, cache, layer, slot)
        x_BxTxD = x_BxTxD + mixed
        return x_BxTxD + self.mlp(rms_norm(x_BxTxD, self.mlp_norm[...], self.eps)), cache


class Qwen3(nnx.Module):
    """The language model; ``layers`` is one ``Block`` whose parameters are stacked to [L, ...].

    Args:
        config: the shape.
        rngs: source of the random initial weights.
        param_dtype: dtype the parameters are stored in.
        compute_dtype: dtype of matrix products; None means ``param_dtype``.
        remat: what the backward pass computes again instead of keeping: "none" keeps all, "full"
            keeps only each layer's input, "dots" keeps the products with weights.
    """

    def __init__(
        self,
        config: Qwen3Config,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        compute_dtype: DTypeLike | None = None,
        remat: Remat = "none",
    ) -> None:
        self.config = config
        self.compute_dtype = jnp.dtype(param_dtype if compute_dtype is None else compute_dtype)
        self.remat = remat
        vocabulary = (config.vocab_size, config.hidden_size)
        self.embedding = _normal(rngs, vocabulary, param_dtype, config)
        tied = config.tie_word_embeddings
        self.head = None if tied else _normal(rngs, vocabulary, param_dtype, config)
        self.final_norm = nnx.Param(jnp.ones((config.hidden_size,), param_dtype))

        @nnx.split_rngs(splits=config.num_hidden_layers)
        @nnx.vmap
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs=rngs, param_dtype=param_dtype)

        self.layers = stack(rngs)

    def __call__(
        self, input_ids_BxS: jax.Array, attention_mask_BxS: jax.Array | None = None
    ) -> jax.Array:
        """Returns float32 logits [B, S, V]; the mask is 1 at tokens and 0 at padding (right)."""
        return self.logits(self.hidden(input_ids_BxS, attention_mask_BxS))

    def hidden(
        self,
        input_ids_BxS: jax.Array,
        attention_mask_BxS: jax.Array | None = None,
        positions_BxS: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the states after the final norm, [B, S, D] in the compute dtype.

        Positions count from 0 along S where none are given; attention is causal along S.
        """
        if attention_mask_BxS is None:
            attention_mask_BxS = jnp.ones_like(input_ids_BxS)
        if positions_BxS is None:
            positions_BxS = jnp.arange(input_ids_BxS.shape[1])[None]
        mask = causal_mask(attention_mask_BxS)
        hidden, _ = self._run(input_ids_BxS, positions_BxS, mask, None, jnp.int32(0))
        return hidden

    def hidden_with_cache(
        self,
        input_ids_BxT: jax.Array,
        positions_BxT: jax.Array,
        cache: KVCache,
        write_slot: jax.Array | int,
        key_mask_BxTxC: jax.Array,
    ) -> tuple[jax.Array, KVCache]:
        """Runs T new tokens against a cache that also takes them in.

        Args:
            input_ids_BxT: the new tokens.
            positions_BxT: their rotary positions, free of where they are stored.
            cache: keys and values of C slots.
            write_slot: the new tokens take slots ``write_slot .. write_slot + T`` in all rows.
            key_mask_BxTxC: True where a new token may see a slot (its own included).

        Returns:
            The states after the final norm [B, T, D] and the cache with the new tokens.
        """
        slot = jnp.asarray(write_slot, jnp.int32)
        hidden, cache_after = self._run(input_ids_BxT, positions_BxT, key_mask_BxTxC, cache, slot)
        return hidden, cast(KVCache, cache_after)

    def head_VxD(self) -> jax.Array:
        """Returns the output matrix [V, D]: the embedding itself where they are tied."""
        return self.embedding[...] if self.head is None else self.head[...]

    def logits(self, hidden: jax.Array) -> jax.Array:
        """Returns float32 logits [..., V] of states [..., D]."""
        head = self.head_VxD().astype(hidden.dtype)
        return jnp.einsum("...D,VD->...V", hidden, head, preferred_element_type=jnp.float32)

    def _run(
        self,
        input_ids_BxT: jax.Array,
        positions_BxT: jax.Array,
        mask: jax.Array,
        cache: KVCache | None,
        slot: jax.Array,
    ) -> tuple[jax.Array, KVCache | None]:
        cos_sin = rotation(positions_BxT, self.config.head_dim, self.config.rope_theta)
        hidden = self.embedding[...][input_ids_BxT].astype(self.compute_dtype)
        block, stacked = nnx.split(self.layers)

        def one_layer(
            carry: tuple[jax.Array, KVCache | None], xs: tuple[jax.Array, Any]
        ) -> tuple[tuple[jax.Array, KVCache | None], None]:
            layer, parameters = xs
            hidden, cache = carry
            return nnx.merge(block, parameters)(hidden, cos_sin, mask, cache, layer, slot), None

        numbers = jnp.arange(self.config.num_hidden_layers)
        (hidden, cache), _ = jax.lax.scan(
            _rematerialised(one_layer, self.remat), (hidden, cache), (numbers, stacked)
        )
        return rms_norm(hidden, self.final_norm[...], self.config.rms_norm_eps), cache


def _project(equation: str, x: jax.Array, weight: nnx.Param) -> jax.Array:
    return jnp.einsum(equation, x, weight[...].astype(x.dtype))


def _normal(
    rngs: nnx.Rngs, shape: tuple[int, ...], dtype: DTypeLike, config: Qwen3Config
) -> nnx.Param:
    initializer = nnx.initializers.normal(config.initializer_range)
    return nnx.Param(initializer(rngs.params(), shape, dtype))


def _rematerialised(function: Any, remat: Remat) -> Any:
    if remat == "none":
        return function
    keep_products = jax.checkpoint_policies.checkpoint_dots_with_no_batch_dims
    policy = keep_products if remat == "dots" else None
    # Inside a scan nothing can be merged with the forward pass, so no barrier is needed.
    return jax.checkpoint(function, policy=policy, prevent_cse=False)
