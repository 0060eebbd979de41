"""P5's network: a T5 whose source tokens also carry the embedding of their whole word."""

from __future__ import annotations

import functools
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gplan_jax.baselines.p5.text import END, PAD
from gplan_jax.baselines.t5 import (
    T5,
    Constraint,
    T5Config,
    search_plans,
    shift_right,
    target_loss,
)

WHOLE_WORDS = 64


class P5Network(nnx.Module):
    """A T5, and a table [WHOLE_WORDS, D] whose row w is added to the source tokens of word w."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.t5 = T5(config, rngs=rngs)
        shape = (WHOLE_WORDS, config.hidden_size)
        self.whole_words = nnx.Param(jax.random.normal(rngs.params(), shape))

    def encode(
        self, tokens_BxS: jax.Array, words_BxS: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """The encoder's output [B, S, D]; words beyond the table share its last row."""
        words = self.whole_words[...][jnp.minimum(words_BxS, WHOLE_WORDS - 1)]
        return self.t5.encode(self.t5.embed(tokens_BxS) + words, tokens_BxS != PAD, key)


def p5_loss(
    model: P5Network, batch: dict[str, jax.Array], key: jax.Array, train: bool
) -> tuple[jax.Array, jax.Array]:
    """The summed negative log-likelihood of the plans' tokens, and how many there are.

    The batch has "tokens" and "words" [B, S], "target" [B, T] padded with PAD, and "weight" [B].
    """
    encoder_key, decoder_key = jax.random.split(key) if train else (None, None)
    encoded = model.encode(batch["tokens"], batch["words"], encoder_key)
    target = batch["target"]
    logits = model.t5.decode(shift_right(target, PAD), encoded, batch["tokens"] != PAD, decoder_key)
    return target_loss(logits, target, batch["weight"], padding=PAD)


@functools.partial(jax.jit, static_argnames=("graph", "beams", "steps"))
def generate(
    graph: Any,
    state: nnx.State,
    tokens_BxS: jax.Array,
    words_BxS: jax.Array,
    constraint: Constraint,
    *,
    beams: int,
    steps: int,
) -> jax.Array:
    """The best plan's tokens [B, steps] of each row by beam search, filled up with END.

    ``graph`` and ``state`` are the two parts of ``nnx.split`` of a network.
    """
    model = nnx.merge(graph, state)
    encoded = model.encode(tokens_BxS, words_BxS)
    mask = tokens_BxS != PAD
    return search_plans(
        model.t5, encoded, mask, constraint, beams=beams, steps=steps, start=PAD, end=END
    )
