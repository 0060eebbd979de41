"""Negative log-likelihood of tokens, with and without the whole [N, V] matrix of logits, and the
section-normalized loss: reasoning and plan keep their weights while the reasoning shrinks.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from jax import Array

REASONING = 1
PLAN = 2
IGNORED_LABEL = -100

Metrics = dict[str, Array]


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


def section_normalized_loss(
    logits: Array,
    labels: Array,
    sections: Array,
    *,
    reasoning_weight: float = 1.0,
    plan_weight: float = 1.0,
) -> tuple[Array, Metrics]:
    """L = sum_s w_s * mean_s / sum_s w_s over the sections s that hold a token (equation 5).

    mean_s is the mean token loss over all tokens of section s in the whole batch. A section with
    no token drops out of the average; with no token at all the loss is 0.

    Args:
        logits: [B, S, V].
        labels: [B, S] token ids, unshifted (position t is predicted from t - 1); -100 marks
            positions without supervision.
        sections: [B, S], 0 none, 1 reasoning, 2 plan.
        reasoning_weight: w_1.
        plan_weight: w_2.

    Returns:
        The scalar loss, and metrics ``loss_reasoning``, ``loss_plan`` (0 for an absent section),
        ``tokens_reasoning``, ``tokens_plan``.
    """
    chex.assert_rank(logits, 3)
    chex.assert_shape([labels, sections], logits.shape[:2])
    labels_BxT, sections_BxT = labels[:, 1:], sections[:, 1:]
    supervised_BxT = labels_BxT != IGNORED_LABEL
    nll_BxT = token_nll(logits[:, :-1], jnp.where(supervised_BxT, labels_BxT, 0))
    sections_BxT = jnp.where(supervised_BxT, sections_BxT, 0)
    counts_2 = section_counts(sections_BxT)
    sums_2 = section_loss_sums(nll_BxT, sections_BxT)
    weights_2 = section_weights(
        counts_2, reasoning_weight=reasoning_weight, plan_weight=plan_weight
    )
    return jnp.sum(sums_2 * weights_2), section_metrics(sums_2, counts_2)


def section_counts(sections: Array) -> Array:
    """float32 [2]: number of tokens in the reasoning and in the plan section."""
    return jnp.stack([jnp.sum(sections == s) for s in (REASONING, PLAN)]).astype(jnp.float32)


@jax.named_scope("loss")
def section_loss_sums(nll: Array, sections: Array) -> Array:
    """float32 [2]: token losses summed over the reasoning and over the plan section."""
    chex.assert_equal_shape([nll, sections])
    return jnp.stack([jnp.sum(jnp.where(sections == s, nll, 0.0)) for s in (REASONING, PLAN)])


def section_weights(counts_2: Array, *, reasoning_weight: float, plan_weight: float) -> Array:
    """float32 [2]: what one token of each section weighs, w_s / (n_s * sum of present weights).

    The loss is then ``sum(section_loss_sums * section_weights)``, linear in the sums. So gradient
    accumulation needs the counts of the whole batch once, and its micro-batches simply add up.
    """
    chex.assert_shape(counts_2, (2,))
    present_2 = counts_2 > 0
    weights_2 = jnp.where(present_2, jnp.asarray([reasoning_weight, plan_weight], jnp.float32), 0.0)
    total = jnp.sum(weights_2)
    return weights_2 / jnp.where(present_2, counts_2, 1.0) / jnp.where(total > 0, total, 1.0)


def token_weights(counts_2: Array) -> Array:
    """float32 [2]: 1 / n for both sections: the plain mean over all response tokens.

    The loss of Direct-SFT and CoT-SFT, in which no section is favoured.
    """
    total = jnp.sum(counts_2)
    return jnp.ones(2, jnp.float32) / jnp.where(total > 0, total, 1.0)


def section_metrics(sums_2: Array, counts_2: Array) -> Metrics:
    """Mean loss and token count of each section; the mean of an empty section is 0."""
    chex.assert_shape([sums_2, counts_2], (2,))
    means_2 = sums_2 / jnp.where(counts_2 > 0, counts_2, 1.0)
    return {
        "loss_reasoning": means_2[0],
        "loss_plan": means_2[1],
        "tokens_reasoning": counts_2[0],
        "tokens_plan": counts_2[1],
    }
