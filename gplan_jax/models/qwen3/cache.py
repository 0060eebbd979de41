"""Keys and values of tokens already seen, one stacked array each for all layers.

``KVCache`` is written while decoding; ``LayeredContext`` is read-only and differentiable: what a
shared prefix gives to the sequences that continue it.

Letters: L layers, B batch, C cache slots, T new tokens, K key/value heads, H head size.
"""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gplan_jax.models.qwen3.config import Qwen3Config


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Rotated keys ``k`` and values ``v``, both [L, B, C, K, H]."""

    k: jax.Array
    v: jax.Array

    def write(
        self, layer: jax.Array, slot: jax.Array, key_BxTxKxH: jax.Array, value_BxTxKxH: jax.Array
    ) -> KVCache:
        """Returns the cache with slots ``slot .. slot + T`` of one layer replaced."""
        start = (layer, 0, slot, 0, 0)
        return KVCache(
            k=jax.lax.dynamic_update_slice(self.k, key_BxTxKxH[None].astype(self.k.dtype), start),
            v=jax.lax.dynamic_update_slice(self.v, value_BxTxKxH[None].astype(self.v.dtype), start),
        )

    def layer(self, layer: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns keys and values of one layer, both [B, C, K, H]."""
        return self.k[layer], self.v[layer]


def init_cache(config: Qwen3Config, batch: int, length: int, dtype: DTypeLike) -> KVCache:
    """Returns an empty cache of ``length`` slots for ``batch`` rows."""
    shape = (
        config.num_hidden_layers,
        batch,
        length,
        config.num_key_value_heads,
        config.head_dim,
    )
    return KVCache(k=jnp.zeros(shape, dtype), v=jnp.zeros(shape, dtype))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayeredContext:
    """Keys and values that continuing sequences see in full, [L, B, C, K, H]; B is 1 where shared.

    A multiple of B sequences may go on from it, those of one row side by side: see ``Context``.
    ``lengths`` [B] counts the slots in use; slots beyond are padding. Keys and values may have more
    rows than ``lengths``: those are not looked at.
    """

    key: jax.Array
    value: jax.Array
    lengths: jax.Array
