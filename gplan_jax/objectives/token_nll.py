"""Negative log-likelihood of target tokens, with and without the whole [N, V] matrix of logits."""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax import Array


def token_nll(logits: Array, targets: Array) -> Array:
    """-log softmax(logits)[target] in float32; logits [..., V], targets [...] -> [...]."""
    chex.assert_shape(targets, logits.shape[:-1])
    logits = logits.astype(jnp.float32)
    picked = jnp.take_along_axis(logits, targets[..., None], axis=-1)[..., 0]
    return jax.nn.logsumexp(logits, axis=-1) - picked


def chunked_token_nll(
    hidden_NxD: Array, head_VxD: Array, targets_N: Array, *, vocab_chunk: int = 16384
) -> Array:
    """``token_nll(hidden @ head.T, targets)`` that holds one slice of the vocabulary at a time.

    Arguments as ``partition_and_picked``; targets in [0, V). Returns float32 [N].
    """
    partition_N, picked_N = partition_and_picked(
        hidden_NxD, head_VxD, targets_N, vocab_chunk=vocab_chunk
    )
    return partition_N - picked_N


def partition_and_picked(
    hidden_NxD: Array, head_VxD: Array, targets_N: Array, *, vocab_chunk: int
) -> tuple[Array, Array]:
    """log sum_v exp(logits), and each target's logit, a slice of the vocabulary at a time.

    The log-partition is a log-sum-exp over the slices' own log-partitions; the slices' logits are
    computed again in the backward pass instead of being kept, so memory is O(N * vocab_chunk).

    Args:
        hidden_NxD: hidden states of the supervised positions, after the final norm.
        head_VxD: output matrix (the embedding itself where the two are tied).
        targets_N: rows of the head; one outside [0, V) has 0 for its logit.
        vocab_chunk: upper bound on the rows of the head in one slice.

    Returns:
        float32 [N] each.
    """
    chex.assert_rank([hidden_NxD, head_VxD], 2)
    vocabulary, width = head_VxD.shape
    chex.assert_shape(hidden_NxD, (len(targets_N), width))
    slices = -(-vocabulary // vocab_chunk)
    # Equal slices where the vocabulary allows it (151,936 = 16 * 9,496); else a shorter last one.
    size = -(-vocabulary // slices)
    whole = vocabulary // size

    @jax.checkpoint
    def one_slice(head_CxD: Array, start: Array | int) -> tuple[Array, Array]:
        logits_NxC = jnp.einsum(
            "nd,cd->nc", hidden_NxD, head_CxD, preferred_element_type=jnp.float32
        )
        inside_N = (targets_N >= start) & (targets_N < start + head_CxD.shape[0])
        column_N = jnp.where(inside_N, targets_N - start, 0)
        picked_N = jnp.take_along_axis(logits_NxC, column_N[:, None], axis=1)[:, 0]
        return jax.nn.logsumexp(logits_NxC, axis=1), jnp.where(inside_N, picked_N, 0.0)

    head_WxCxD = head_VxD[: whole * size].reshape(whole, size, width)
    starts_W = jnp.arange(whole) * size
    _, (partitions_WxN, picked_WxN) = jax.lax.scan(
        lambda carry, inputs: (carry, one_slice(*inputs)), None, (head_WxCxD, starts_W)
    )
    partition_N = jax.nn.logsumexp(partitions_WxN, axis=0)
    picked_N = picked_WxN.sum(axis=0)
    if whole * size < vocabulary:
        last_partition_N, last_picked_N = one_slice(head_VxD[whole * size :], whole * size)
        partition_N = jnp.logaddexp(partition_N, last_partition_N)
        picked_N = picked_N + last_picked_N
    return partition_N, picked_N
