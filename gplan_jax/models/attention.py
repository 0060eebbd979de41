"""The one place where queries meet keys; a faster kernel replaces only this function.

Letters: B batch, T queries, C keys, N query heads, K key/value heads (N = K * G), H head size.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp

# Finite, so that a row that may see nothing (a dummy row of a batch) gives numbers, not NaN.
_MASKED_SCORE = float(jnp.finfo(jnp.float32).min)


def attention(
    query_BxTxNxH: jax.Array, key_BxCxKxH: jax.Array, value_BxCxKxH: jax.Array, mask: jax.Array
) -> jax.Array:
    """Computes softmax(q k^T / sqrt(H)) v with grouped key/value heads.

    Args:
        query_BxTxNxH: rotated queries.
        key_BxCxKxH: rotated keys; each serves N / K query heads.
        value_BxCxKxH: values.
        mask: bool, [B, T, C] or [1, T, C]; True where a query may see a key.

    Returns:
        The mixed values [B, T, N, H] in the dtype of the values; the softmax is in float32.
    """
    batch, queries, heads, head_dim = query_BxTxNxH.shape
    groups = key_BxCxKxH.shape[2]
    grouped = query_BxTxNxH.reshape(batch, queries, groups, heads // groups, head_dim)
    scores = jnp.einsum(
        "BTKGH,BCKH->BKGTC", grouped, key_BxCxKxH, preferred_element_type=jnp.float32
    )
    scores = jnp.where(mask[:, None, None], scores * head_dim**-0.5, _MASKED_SCORE)
    weights = jax.nn.softmax(scores, axis=-1).astype(value_BxCxKxH.dtype)
    mixed = jnp.einsum("BKGTC,BCKH->BTKGH", weights, value_BxCxKxH)
    return mixed.reshape(batch, queries, heads, head_dim)


def causal_mask(attention_mask_BxS: jax.Array) -> jax.Array:
    """Returns bool [B, S, S]: a query sees itself and earlier keys that are not padding."""
    length = attention_mask_BxS.shape[-1]
    earlier = jnp.tril(jnp.ones((length, length), dtype=bool))
    return earlier[None] & attention_mask_BxS.astype(bool)[:, None, :]
