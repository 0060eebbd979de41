"""Sequences cut into segments -> the levels of a prefix tree, each shared segment held once."""

from __future__ import annotations

from collections.abc import Sequence

import jax.numpy as jnp
import numpy as np

from gplan_jax.data.batch_plan import round_up
from gplan_jax.models.qwen3.prefix_tree import TreeLevel

Segment = Sequence[int]


def build_levels(
    sequences: Sequence[Sequence[Segment]], *, pad_id: int, length_multiple: int = 1
) -> list[TreeLevel]:
    """Merges segments that stand at the same depth after the same segments.

    A preference pair, for instance, is two sequences (system, user, response): they share the
    first two segments; two contexts of one user share system and profile.

    Args:
        sequences: each cut into the same number of segments. Where a segment's first token is to be
            predicted, the cut stands one token earlier (see ``models.prefix_tree``).
        pad_id: fills segments up to their level's length.
        length_multiple: a level's length is a multiple of this.

    Returns:
        Levels from the root down. The last one holds a segment for every sequence, in order: leaves
        are never merged.

    Raises:
        ValueError: sequences with different numbers of segments, or none.
    """
    depths = {len(segments) for segments in sequences}
    if len(depths) != 1 or 0 in depths:
        raise ValueError(f"sequences need the same number of segments, not {sorted(depths)}")
    (depth,) = depths
    levels = []
    at = [0] * len(sequences)
    for level in range(depth):
        nodes: dict[tuple[object, ...], int] = {}
        kept: list[tuple[int, Segment]] = []
        for number, segments in enumerate(sequences):
            segment = segments[level]
            leaf = number if level == depth - 1 else None
            node = nodes.setdefault((at[number], tuple(segment), leaf), len(nodes))
            if node == len(kept):
                kept.append((at[number], segment))
            at[number] = node
        levels.append(_level(kept, pad_id, length_multiple))
    return levels


def _level(nodes: Sequence[tuple[int, Segment]], pad_id: int, length_multiple: int) -> TreeLevel:
    lengths = [len(segment) for _, segment in nodes]
    width = round_up(max(lengths), length_multiple)
    tokens = np.full((len(nodes), width), pad_id, np.int32)
    for line, (_, segment) in enumerate(nodes):
        tokens[line, : len(segment)] = segment
    parents = [parent for parent, _ in nodes]
    return TreeLevel(
        jnp.asarray(tokens), jnp.asarray(lengths, jnp.int32), jnp.asarray(parents, jnp.int32)
    )
