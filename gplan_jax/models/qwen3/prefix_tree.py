"""Sequences that begin alike, computed once where they are alike: a tree, level by level.

A level holds the segments of one depth, right-padded to one length; a segment sees its own earlier
tokens and everything its ancestors hold. States are those of the whole sequences one by one, so
losses and gradients are too (a test shows both).

A state predicts the token after it, so a leaf whose first token is supervised must begin one token
earlier: the last prompt token belongs to the leaf.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import jax

from gplan_jax.models.qwen3.cache import LayeredContext
from gplan_jax.models.qwen3.model import Qwen3


@jax.tree_util.register_dataclass
@dataclass(frozen=True)
class TreeLevel:
    """The n segments of one depth.

    Attributes:
        tokens: int32 [n, S], right-padded.
        lengths: int32 [n], tokens that are no padding.
        parents: int32 [n], the segment of the level above that each one continues; zeros at the
            root level, whose segments begin a sequence.
    """

    tokens: jax.Array
    lengths: jax.Array
    parents: jax.Array


def tree_states(model: Qwen3, levels: Sequence[TreeLevel]) -> list[jax.Array]:
    """The states after the final norm of every level's segments, [n, S, D] each.

    Args:
        model: the language model.
        levels: from the root down; every sequence is one leaf of the last level with its ancestors.
            A level of one segment is shared by all below it without being copied.
    """
    states: list[jax.Array] = []
    ancestors: tuple[LayeredContext, ...] = ()
    for depth, level in enumerate(levels):
        if depth:
            ancestors = tuple(ancestor.rows(level.parents) for ancestor in ancestors)
        keep = depth < len(levels) - 1
        hidden, context = model.branch(level.tokens, level.lengths, ancestors, keep=keep)
        states.append(hidden)
        if context is not None:
            ancestors = (*ancestors, context)
    return states
