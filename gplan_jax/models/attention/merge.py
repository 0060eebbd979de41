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
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    contexts: tuple[Context, ...],
) -> tuple[jax.Array, _Residuals]:
    parts = [flash.forward(query, key, value, None)]
    for context in contexts:
        folded, lengths = _fold(query, context), _at_least_one(context)
        output, lse = flash.forward(folded, context.key, context.value, lengths)
        hidden = jnp.broadcast_to(_empty(context)[:, None, None], lse.shape)
        lse = jnp.where(hidden, -jnp.inf, lse)
        parts.append((output.reshape(query.shape), lse.reshape(query.shape[:-1])))
    # The own part is never empty (a query sees itself), so the sum below is finite.
    total = parts[0][1]
    for _, lse in parts[1:]:
        total = jnp.logaddexp(total, lse)
    weighted = [jnp.exp(lse - total)[..., None] * output for output, lse in parts]
    merged = sum(weighted[1:], start=weighted[0]).astype(value.dtype)
    merged = checkpoint_name(merged, ATTENTION_RESIDUALS)
    total = checkpoint_name(total, ATTENTION_RESIDUALS)
    return merged, (query, key, value, contexts, merged, total)


def _backward(
    flash: Flash, residuals: _Residuals, d_output: jax.Array
) -> tuple[jax.Array, jax.Array, jax.Array, tuple[Context, ...]]:
    query, key, value, contexts, output, lse = residuals
    d_query, d_key, d_value = flash.backward(query, key, value, None, output, lse, d_output)
    d_query_sum = d_query.astype(jnp.float32)
    d_contexts = []
    for context in contexts:
        d_part, d_context_key, d_context_value = flash.backward(
            _fold(query, context),
            context.key,
            context.value,
            _at_least_one(context),
            *(_fold(x, context) for x in (output, lse, d_output)),
        )
        hidden = _empty(context)[:, None, None, None]
        d_part = jnp.where(hidden, 0, d_part).reshape(query.shape)
        d_query_sum += d_part.astype(jnp.float32)
        d_contexts.append(
            Context(
                key=jnp.where(hidden, 0, d_context_key),
                value=jnp.where(hidden, 0, d_context_value),
                lengths=None,  # type: ignore[arg-type]  # whole numbers have no cotangent
            )
        )
    return d_query_sum.astype(query.dtype), d_key, d_value, tuple(d_contexts)


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
