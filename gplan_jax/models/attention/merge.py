"""Exact attention over several blocks of keys, each computed by its own flash call.

The call over part i returns o_i = sum_j softmax_i(s)_j v_j and lse_i = log sum_j e^{s_j}, over that
part's keys. With LSE = log sum_i e^{lse_i}, attention over all is o = sum_i e^{lse_i - LSE} o_i.

The merge needs no gradient of its own. For a key j of any part, P_j = e^{s_j - LSE} and
dS_j = P_j (dP_j - rowsum(dO * O)): what a flash backward call computes when it is given the whole
output O and the whole LSE in place of the part's own (Dao 2023, FlashAttention-2, section 3.1).

Letters: B batch, T queries, C keys, N query heads, K key/value heads, H head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.ad_checkpoint import checkpoint_name

# What a flash kernel saves for its backward pass: a rematerialisation policy that keeps this name
# spares the second forward call.
ATTENTION_RESIDUALS = "attention_residuals"


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class Context:
    """Keys and values that every query of a row sees, such as those of a shared prompt.

    Its n rows divide the B rows of the batch: row b sees context row b // (B / n), so rows that
    share a context stand side by side, and 1 is shared by all. It is shared, not repeated.
    """

    key: jax.Array  # [n, C, K, H], rotated
    value: jax.Array  # [n, C, K, H]
    lengths: jax.Array  # int32 [n]: keys c < length are visible


class Flash(NamedTuple):
    """One flash kernel as a pair of functions; s = q k^T / sqrt(H).

    ``key_lengths`` of None means causal (query t sees keys j <= t, as many keys as queries), else
    int32 [B], each at least 1: every query sees keys c < length.
    """

    # (query, key, value, key_lengths) -> output [B, T, N, H], float32 log-sum-exp [B, T, N]
    forward: Callable[..., tuple[jax.Array, jax.Array]]
    # (query, key, value, key_lengths, output, lse, output's cotangent) -> theirs of q, k and v
    backward: Callable[..., tuple[jax.Array, jax.Array, jax.Array]]


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def merged_attention(
    flash: Flash,
    query_BxTxNxH: jax.Array,
    key_BxTxKxH: jax.Array,
    value_BxTxKxH: jax.Array,
    contexts: tuple[Context, ...],
) -> jax.Array:
    """Computes causal attention over a row's own keys and over its contexts; see the module."""
    return _forward(flash, query_BxTxNxH, key_BxTxKxH, value_BxTxKxH, contexts)[0]


_Residuals = tuple[jax.Array, jax.Array, jax.Array, tuple[Context, ...], jax.Array, jax.Array]


def _forward(
    flash: Flash,
    q_BxTxNxH: jax.Array,
    k_BxTxKxH: jax.Array,
    v_BxTxKxH: jax.Array,
    contexts: tuple[Context, ...],
) -> tuple[jax.Array, _Residuals]:
    parts = [flash.forward(q_BxTxNxH, k_BxTxKxH, v_BxTxKxH, None)]
    for context in contexts:
        folded, lengths = _fold(q_BxTxNxH, context), _at_least_one(context)
        o_BxTxNxH, lse_BxTxN = flash.forward(folded, context.key, context.value, lengths)
        hidden = jnp.broadcast_to(_empty(context)[:, None, None], lse_BxTxN.shape)
        lse_BxTxN = jnp.where(hidden, -jnp.inf, lse_BxTxN)
        parts.append((o_BxTxNxH.reshape(q_BxTxNxH.shape), lse_BxTxN.reshape(q_BxTxNxH.shape[:-1])))
    # The own part is never empty (a query sees itself), so the sum below is finite.
    total_BxTxN = parts[0][1]
    for _, lse_BxTxN in parts[1:]:
        total_BxTxN = jnp.logaddexp(total_BxTxN, lse_BxTxN)
    weighted = [
        jnp.exp(lse_BxTxN - total_BxTxN)[..., None] * o_BxTxNxH for o_BxTxNxH, lse_BxTxN in parts
    ]
    merged_BxTxNxH = sum(weighted[1:], start=weighted[0]).astype(v_BxTxKxH.dtype)
    merged_BxTxNxH = checkpoint_name(merged_BxTxNxH, ATTENTION_RESIDUALS)
    total_BxTxN = checkpoint_name(total_BxTxN, ATTENTION_RESIDUALS)
    return merged_BxTxNxH, (q_BxTxNxH, k_BxTxKxH, v_BxTxKxH, contexts, merged_BxTxNxH, total_BxTxN)


def _backward(
    flash: Flash, residuals: _Residuals, d_o_BxTxNxH: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, tuple[Context, ...]]:
    q_BxTxNxH, k_BxTxKxH, v_BxTxKxH, contexts, o_BxTxNxH, lse_BxTxN = residuals
    d_q_BxTxNxH, d_k_BxTxKxH, d_v_BxTxKxH = flash.backward(
        q_BxTxNxH, k_BxTxKxH, v_BxTxKxH, None, o_BxTxNxH, lse_BxTxN, d_o_BxTxNxH
    )
    d_q_sum_BxTxNxH = d_q_BxTxNxH.astype(jnp.float32)
    d_contexts = []
    for context in contexts:
        d_part, d_context_k, d_context_v = flash.backward(
            _fold(q_BxTxNxH, context),
            context.key,
            context.value,
            _at_least_one(context),
            *(_fold(x, context) for x in (o_BxTxNxH, lse_BxTxN, d_o_BxTxNxH)),
        )
        hidden = _empty(context)[:, None, None, None]
        d_part = jnp.where(hidden, 0, d_part).reshape(q_BxTxNxH.shape)
        d_q_sum_BxTxNxH += d_part.astype(jnp.float32)
        d_contexts.append(
            Context(
                key=jnp.where(hidden, 0, d_context_k),
                value=jnp.where(hidden, 0, d_context_v),
                lengths=None,  # type: ignore[arg-type]  # whole numbers have no cotangent
            )
        )
    return d_q_sum_BxTxNxH.astype(q_BxTxNxH.dtype), d_k_BxTxKxH, d_v_BxTxKxH, tuple(d_contexts)


merged_attention.defvjp(_forward, _backward)


def _fold(x_BxTx: jax.Array, context: Context) -> jax.Array:
    """Turns the rows that share a context row into more queries of one row: [n, (B / n) * T, ...].

    They see all of it or none, so which of them is first means nothing.
    """
    return x_BxTx.reshape(context.key.shape[0], -1, *x_BxTx.shape[2:])


def _at_least_one(context: Context) -> jax.Array:
    # A softmax over no keys is 0 / 0 inside a kernel: it sees one, and the merge drops the result.
    return jnp.maximum(context.lengths, 1)


def _empty(context: Context) -> jax.Array:
    return context.lengths == 0
