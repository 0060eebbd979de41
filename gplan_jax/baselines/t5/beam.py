"""Beam search over any step function, under any constraint, for a batch of rows in one program.

Letters: B rows, K beams, T steps, V vocabulary. The beams of a row stand side by side in B*K.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, TypeVar

import jax
import jax.numpy as jnp

Carry = TypeVar("Carry")


class Constraint(Protocol):
    """Which tokens may follow; it and its state (arrays [rows, ...]) are pytrees.

    Some token is open in every state of a sequence that hasn't ended.
    """

    def initial(self, rows: int) -> Any:
        """The state of ``rows`` sequences that have no token yet."""
        ...

    def open(self, state: Any) -> jax.Array:
        """Which tokens may come next: bool [rows, V]."""
        ...

    def advance(self, state: Any, tokens: jax.Array) -> Any:
        """The state after one more token [rows] each; any state where the token isn't open."""
        ...


class Free(NamedTuple):
    """No constraint: every token may follow."""

    def initial(self, rows: int) -> tuple[()]:
        return ()

    def open(self, state: tuple[()]) -> jax.Array:
        return jnp.ones((1, 1), bool)

    def advance(self, state: tuple[()], tokens: jax.Array) -> tuple[()]:
        return ()


class Found(NamedTuple):
    """The best sequence of each row: int32 [B, T], filled up with the end token; its log-prob."""

    tokens: jax.Array
    score: jax.Array


class _Search(NamedTuple):
    """Beams [B, K], best first, and what belongs to each [B*K, ...]."""

    step: jax.Array
    tokens: jax.Array
    scores: jax.Array
    ended: jax.Array
    state: Any
    carry: Any


def beam_search(
    step: Callable[[Carry, jax.Array], tuple[Carry, jax.Array]],
    reorder: Callable[[Carry, jax.Array], Carry],
    carry: Carry,
    constraint: Constraint,
    *,
    rows: int,
    beams: int,
    steps: int,
    start: int,
    end: int,
) -> Found:
    """The most probable sequence of each row among those that the beams reach.

    A sequence's score is the sum of its tokens' log-probabilities, so it never rises: the search
    is over once the best beam of each row has ended. Tokens that are not open count as impossible;
    the others keep their probability. As long as no row has more than ``beams`` open sequences the
    result is the best of all; with one beam it is the greedy sequence.

    Args:
        step: (carry, last tokens [B*K]) -> (carry, log-probabilities [B*K, V] of the next one).
        reorder: (carry, parents [B*K]) -> the carry in which beam i goes on from ``parents[i]``.
        rows, beams, steps: B, K, T; a sequence that hasn't ended after T tokens is cut.
        start, end: the token that the first step is given, and the one that ends a sequence.
    """
    offsets = jnp.arange(rows)[:, None] * beams

    def unfinished(search: _Search) -> jax.Array:
        return (search.step < steps) & ~search.ended[:, 0].all()

    def step_on(search: _Search) -> _Search:
        last = search.tokens[:, :, jnp.maximum(search.step - 1, 0)]
        last = jnp.where(search.step == 0, start, last)
        carry, log_probs = step(search.carry, last.reshape(-1))
        log_probs = jnp.where(constraint.open(search.state), log_probs, -jnp.inf)
        vocabulary = log_probs.shape[-1]
        # A beam that has ended goes on by ending again, which costs nothing.
        resting = jnp.where(jnp.arange(vocabulary) == end, 0.0, -jnp.inf)
        ways = jnp.where(
            search.ended[..., None], resting, log_probs.reshape(rows, beams, vocabulary)
        )
        totals = (search.scores[..., None] + ways).reshape(rows, -1)
        scores, best = jax.lax.top_k(totals, beams)
        parents, token = best // vocabulary, (best % vocabulary).astype(jnp.int32)
        from_beam = (offsets + parents).reshape(-1)
        tokens = jnp.take_along_axis(search.tokens, parents[..., None], axis=1)
        state = jax.tree.map(lambda leaf: leaf[from_beam], search.state)
        return _Search(
            step=search.step + 1,
            tokens=tokens.at[:, :, search.step].set(token),
            scores=scores,
            ended=jnp.take_along_axis(search.ended, parents, axis=1) | (token == end),
            state=constraint.advance(state, token.reshape(-1)),
            carry=reorder(carry, from_beam),
        )

    # All beams of a row begin alike, so only the first one counts at first.
    alone = jnp.where(jnp.arange(beams) == 0, 0.0, -jnp.inf)
    found = jax.lax.while_loop(
        unfinished,
        step_on,
        _Search(
            step=jnp.zeros((), jnp.int32),
            tokens=jnp.full((rows, beams, steps), end, jnp.int32),
            scores=jnp.broadcast_to(alone, (rows, beams)),
            ended=jnp.zeros((rows, beams), bool),
            state=constraint.initial(rows * beams),
            carry=carry,
        ),
    )
    return Found(found.tokens[:, 0], found.scores[:, 0])
