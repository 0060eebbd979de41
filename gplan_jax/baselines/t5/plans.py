"""What every T5 that writes plans does alike: the loss of its targets, and the search."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import optax

from gplan_jax.baselines.t5.beam import Constraint, beam_search
from gplan_jax.baselines.t5.model import T5, DecoderCache


def target_loss(
    logits_BxTxV: jax.Array, target_BxT: jax.Array, weight_B: jax.Array, *, padding: int
) -> tuple[jax.Array, jax.Array]:
    """Summed cross-entropy of the targets' tokens but ``padding``, and how many there are.

    Both count a row as often as its weight says.
    """
    counts = (target_BxT != padding) * weight_B[:, None]
    losses = optax.softmax_cross_entropy_with_integer_labels(logits_BxTxV, target_BxT)
    return jnp.sum(losses * counts), jnp.sum(counts)


def search_plans(
    t5: T5,
    encoded_BxSxD: jax.Array,
    mask_BxS: jax.Array,
    constraint: Constraint,
    *,
    beams: int,
    steps: int,
    start: int,
    end: int,
) -> jax.Array:
    """The tokens of each row's best hypothesis: int32 [B, steps], filled up with ``end``.

    Args:
        t5: reads the encoder's output [B, S, D], of which ``mask_BxS`` says what counts.
        constraint: what may follow; ``Free()`` for anything.
        beams: hypotheses a row.
        steps: the most tokens of a plan.
        start, end: the token before a plan's first one, and the one that ends it.
    """

    def step(cache: DecoderCache, tokens: jax.Array) -> tuple[DecoderCache, jax.Array]:
        cache, logits = t5.step(cache, tokens)
        return cache, jax.nn.log_softmax(logits)

    return beam_search(
        step,
        DecoderCache.reorder,
        t5.start(encoded_BxSxD, mask_BxS, beams=beams, steps=steps),
        constraint,
        rows=len(encoded_BxSxD),
        beams=beams,
        steps=steps,
        start=start,
        end=end,
    ).tokens
