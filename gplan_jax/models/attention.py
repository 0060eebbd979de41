"""The one place where queries meet keys, and the choice of the kernel that does it.

``causal_attention`` serves training: rows of tokens, each after any number of contexts that all its
tokens see whole. ``attention`` takes any mask and serves decoding over a cache.

Letters: B batch, T queries, C keys, N query heads, K key/value heads (N = K * G), H head size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, cast

import jax
import jax.numpy as jnp

from gplan_jax.foundation import GplanError

Kernel = Literal["xla", "cudnn", "splash"]

# Finite, so that a row that may see nothing (a dummy row of a batch) gives numbers, not NaN.
_MASKED_SCORE = float(jnp.finfo(jnp.float32).min)


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Context:
    """Keys and values that every query of a row sees, such as those of a shared prompt.

    A leading 1 stands for every row of the batch: it is shared, not repeated.
    """

    key: jax.Array  # [1 or B, C, K, H], rotated
    value: jax.Array  # [1 or B, C, K, H]
    lengths: jax.Array  # int32 [1 or B]: keys c < length are visible


def resolve_kernel(
    name: str, *, platform: str, dtype: jax.typing.DTypeLike, head_dim: int
) -> Kernel:
    """Returns the kernel that ``name`` ("auto" or a kernel's own name) means on a platform."""
    if name == "auto":
        return "xla"
    return cast(Kernel, name)


def causal_attention(
    query_BxTxNxH: jax.Array,
    key_BxTxKxH: jax.Array,
    value_BxTxKxH: jax.Array,
    lengths_B: jax.Array,
    contexts: Sequence[Context] = (),
    *,
    kernel: Kernel = "xla",
) -> jax.Array:
    """Computes attention over a row's earlier tokens and everything in its contexts.

    out[t] = sum_j p[t, j] v[j], p = softmax(q k^T / sqrt(H)) over the visible keys: a query t sees
    its own row's keys j <= t and each context's keys c < its length.

    Args:
        query_BxTxNxH: rotated queries of right-padded rows.
        key_BxTxKxH: rotated keys; each serves N / K query heads.
        value_BxTxKxH: values.
        lengths_B: int32, the tokens of each row; 0 for a dummy row.
        contexts: what all tokens of a row see besides.
        kernel: see ``resolve_kernel``.

    Returns:
        [B, T, N, H] in the dtype of the values, with the softmax in float32. Outputs at t >= length
        are finite and mean nothing; give them no cotangent.
    """
    if kernel != "xla":
        raise GplanError(f"kernel {kernel!r} can't run here: use 'xla'")
    batch, queries, heads, head_dim = query_BxTxNxH.shape
    groups = key_BxTxKxH.shape[2]
    grouped = query_BxTxNxH.reshape(batch, queries, groups, heads // groups, head_dim)
    scores = [_scores(grouped, key_BxTxKxH, jnp.tril(jnp.ones((1, queries, queries), bool)))]
    for part in contexts:
        seen = jnp.arange(part.key.shape[1]) < part.lengths[:, None]
        scores.append(_scores(grouped, part.key, seen[:, None]))
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1), axis=-1).astype(value_BxTxKxH.dtype)
    start, mixed = 0, jnp.zeros_like(grouped)
    for value in (value_BxTxKxH, *(part.value for part in contexts)):
        end = start + value.shape[1]
        mixed += _mix(weights[..., start:end], value)
        start = end
    return mixed.reshape(batch, queries, heads, head_dim)


def _scores(query_BxTxKxGxH: jax.Array, key: jax.Array, seen: jax.Array) -> jax.Array:
    equation = "BTKGH,CKH->BKGTC" if key.shape[0] == 1 else "BTKGH,BCKH->BKGTC"
    key = key[0] if key.shape[0] == 1 else key
    scores = jnp.einsum(equation, query_BxTxKxGxH, key, preferred_element_type=jnp.float32)
    return jnp.where(seen[:, None, None], scores * query_BxTxKxGxH.shape[-1] ** -0.5, _MASKED_SCORE)


def _mix(weights_BxKxGxTxC: jax.Array, value: jax.Array) -> jax.Array:
    if value.shape[0] == 1:
        return jnp.einsum("BKGTC,CKH->BTKGH", weights_BxKxGxTxC, value[0])
    return jnp.einsum("BKGTC,BCKH->BTKGH", weights_BxKxGxTxC, value)


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
