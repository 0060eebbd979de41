"""Beam search against exhaustive search and against greedy decoding."""

from __future__ import annotations

import functools
import itertools
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gplan_jax.baselines.t5.plans import Found, Free, beam_search

VOCABULARY, STEPS, START, END = 4, 3, 0, 3


class Bigrams(NamedTuple):
    """A model that scores a token by the one before it and by the step."""

    table: jax.Array
    step: jax.Array


class NoRepeats(NamedTuple):
    """A constraint: no token twice in a row, END only after the first token."""

    def initial(self, rows: int) -> jax.Array:
        return jnp.full(rows, END)

    def open(self, state: jax.Array) -> jax.Array:
        return jnp.arange(VOCABULARY) != state[:, None]

    def advance(self, state: jax.Array, tokens: jax.Array) -> jax.Array:
        return tokens


@functools.partial(jax.jit, static_argnames="beams")
def _search(table: jax.Array, constraint: Free | NoRepeats, *, beams: int) -> Found:
    rows = len(table)

    def step(carry: Bigrams, last: jax.Array) -> tuple[Bigrams, jax.Array]:
        chosen = carry.table[jnp.arange(rows * beams), carry.step, last]
        return Bigrams(carry.table, carry.step + 1), chosen

    def reorder(carry: Bigrams, parents: jax.Array) -> Bigrams:
        return carry._replace(table=carry.table[parents])

    carry = Bigrams(jnp.repeat(table, beams, axis=0), jnp.zeros((), jnp.int32))
    return beam_search(
        step, reorder, carry, constraint,
        rows=rows, beams=beams, steps=STEPS, start=START, end=END,
    )  # fmt: skip


def _score(table: np.ndarray, tokens: tuple[int, ...]) -> float:
    return sum(
        float(table[t, last, token])
        for t, (last, token) in enumerate(itertools.pairwise((START, *tokens)))
    )


def _sequences(allowed: bool) -> list[tuple[int, ...]]:
    """All that end within STEPS tokens or are cut there."""
    words = range(VOCABULARY)
    found = []
    for length in range(1, STEPS + 1):
        for tokens in itertools.product(words, repeat=length):
            whole = tokens[-1] == END or length == STEPS
            repeats = any(a == b for a, b in itertools.pairwise((END, *tokens)))
            if whole and END not in tokens[:-1] and not (allowed and repeats):
                found.append(tokens)
    return found


def _table(seed: int, rows: int = 3) -> np.ndarray:
    logits = np.random.default_rng(seed).normal(size=(rows, STEPS, VOCABULARY, VOCABULARY)) * 2
    return np.asarray(jax.nn.log_softmax(logits.astype(np.float32)))


@pytest.mark.parametrize("constraint", [Free(), NoRepeats()])
@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_enough_beams_find_the_best_of_all(constraint: Free | NoRepeats, seed: int) -> None:
    table = _table(seed)
    sequences = _sequences(isinstance(constraint, NoRepeats))
    found = _search(jnp.asarray(table), constraint, beams=VOCABULARY**STEPS)
    for row, tokens, score in zip(table, found.tokens, found.score, strict=True):
        best = max(sequences, key=lambda sequence: _score(row, sequence))
        assert tuple(tokens.tolist()) == best + (END,) * (STEPS - len(best))
        np.testing.assert_allclose(score, _score(row, best), atol=1e-5)


@settings(deadline=None, max_examples=25)
@given(seed=st.integers(0, 2**31))
def test_one_beam_is_greedy(seed: int) -> None:
    table = _table(seed)
    found = _search(jnp.asarray(table), NoRepeats(), beams=1)
    for row, tokens in zip(table, found.tokens, strict=True):
        last, closed, greedy = START, END, []
        for t in range(STEPS):
            scores = row[t, last].copy()
            scores[closed] = -np.inf
            last = closed = int(scores.argmax())
            greedy.append(last)
            if last == END:
                break
        assert tokens.tolist() == greedy + [END] * (STEPS - len(greedy))


def test_a_beam_beyond_the_greedy_one_can_win() -> None:
    table = np.log(np.full((1, STEPS, VOCABULARY, VOCABULARY), 1e-6, np.float32))
    table[0, 0, START, [1, 2]] = np.log([0.6, 0.4])
    table[0, 1, 1, [0, 1, 2, 3]] = np.log(0.25)
    table[0, 1, 2, END] = 0
    assert _search(jnp.asarray(table), Free(), beams=1).tokens[0, 0] == 1
    assert _search(jnp.asarray(table), Free(), beams=2).tokens[0].tolist() == [2, END, END]
