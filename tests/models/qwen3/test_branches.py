"""Sequences that begin alike, each shared part computed once, equal the sequences one by one."""

from __future__ import annotations

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from gplan_jax.models import Qwen3, Qwen3Config
from gplan_jax.models.qwen3.model import LayeredContext

CONFIG = Qwen3Config(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    tie_word_embeddings=True,
)
# Segments and their greatest length at every depth: system, profiles, contexts, responses.
SHAPES = ((1, 6), (2, 5), (3, 4), (6, 7))
WIDTH = sum(width for _, width in SHAPES)
MODEL = Qwen3(CONFIG, rngs=nnx.Rngs(jax.random.key(1, impl="rbg")), remat="full")
GRAPHDEF, PARAMS = nnx.split(MODEL, nnx.Param)


class TreeLevel(NamedTuple):
    """The n segments of one depth: tokens [n, S], right-padded; lengths [n]; and parents [n], the
    segment of the level above that each one continues."""

    tokens: np.ndarray
    lengths: np.ndarray
    parents: np.ndarray


def tree_states(model: Qwen3, levels: list[TreeLevel]) -> list[jax.Array]:
    """The states of every level's segments, [n, S, D] each, from the root down."""
    states: list[jax.Array] = []
    ancestors: list[LayeredContext] = []
    for depth, level in enumerate(levels):
        ancestors = [
            # The root is shared by all below it without being copied.
            above
            if len(above.lengths) == 1
            else LayeredContext(
                above.key[:, level.parents],
                above.value[:, level.parents],
                above.lengths[level.parents],
            )
            for above in ancestors
        ]
        keep = depth < len(levels) - 1
        hidden, context = model.branch(level.tokens, level.lengths, ancestors, keep=keep)
        states.append(hidden)
        if context is not None:
            ancestors.append(context)
    return states


def random_tree(seed: int) -> list[TreeLevel]:
    rng = np.random.default_rng(seed)
    levels, above = [], 1
    for count, width in SHAPES:
        levels.append(
            TreeLevel(
                tokens=rng.integers(0, CONFIG.vocab_size, (count, width), np.int32),
                lengths=rng.integers(1, width + 1, count, np.int32),
                parents=rng.integers(0, above, count, np.int32),
            )
        )
        above = count
    return levels


def sequences(levels: list[TreeLevel]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Every leaf's whole sequence, its length and where the leaf begins in it."""
    leaves = len(levels[-1].lengths)
    tokens = np.zeros((leaves, WIDTH), np.int32)
    lengths, starts = np.zeros(leaves, np.int32), np.zeros(leaves, np.int32)
    for leaf in range(leaves):
        node, parts = leaf, []
        for level in reversed(levels):
            parts.append(level.tokens[node, : int(level.lengths[node])])
            node = int(level.parents[node])
        whole = np.concatenate(parts[::-1])
        tokens[leaf, : len(whole)] = whole
        lengths[leaf], starts[leaf] = len(whole), len(whole) - len(parts[0])
    return tokens, lengths, starts


def score(states_NxSxD: jax.Array, valid_NxS: jax.Array) -> jax.Array:
    """A loss that every state of every leaf token has a part in, each another one."""
    weights = jnp.cos(jnp.arange(CONFIG.hidden_size))
    return jnp.sum(jnp.where(valid_NxS, jnp.tanh(states_NxSxD @ weights), 0.0))


@jax.jit
@jax.value_and_grad
def tree_score(params: nnx.State, levels: list[TreeLevel]) -> jax.Array:
    leaf_states = tree_states(nnx.merge(GRAPHDEF, params), levels)[-1]
    valid = jnp.arange(leaf_states.shape[1]) < levels[-1].lengths[:, None]
    return score(leaf_states, valid)


@jax.jit
@jax.value_and_grad
def plain_score(
    params: nnx.State, tokens: jax.Array, lengths: jax.Array, starts: jax.Array
) -> jax.Array:
    places = jnp.arange(WIDTH)
    states = nnx.merge(GRAPHDEF, params).hidden(tokens, places < lengths[:, None])
    return score(states, (places >= starts[:, None]) & (places < lengths[:, None]))


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**32 - 1))
def test_loss_and_gradient_are_those_of_whole_sequences(seed: int) -> None:
    levels = random_tree(seed)
    loss, gradient = tree_score(PARAMS, levels)
    expected, expected_gradient = plain_score(PARAMS, *sequences(levels))
    np.testing.assert_allclose(loss, expected, rtol=1e-5, atol=1e-5)
    leaves = map(jax.tree.leaves, (gradient, expected_gradient))
    for ours, theirs in zip(*leaves, strict=True):
        scale = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-5 * scale)


def test_a_change_in_a_shared_segment_reaches_only_its_descendants() -> None:
    levels = random_tree(3)
    states = jax.jit(lambda levels: tree_states(MODEL, levels))
    before = states(levels)
    changed = levels[1].tokens.copy()
    changed[0, 0] = (changed[0, 0] + 1) % CONFIG.vocab_size
    levels[1] = levels[1]._replace(tokens=changed)
    after = states(levels)
    contexts = levels[2].parents == 0
    leaves = contexts[levels[3].parents]
    for depth, touched in ((2, contexts), (3, leaves)):
        moved = np.abs(np.asarray(before[depth] - after[depth]))[:, 0].max(axis=-1) > 1e-6
        np.testing.assert_array_equal(moved, touched)
    assert 0 < leaves.sum() < len(leaves)
