from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.data.prefix_tree import build_levels

segments = st.lists(st.integers(1, 3), min_size=1, max_size=3)
sequences = st.integers(1, 4).flatmap(
    lambda depth: st.lists(st.tuples(*[segments] * depth), min_size=1, max_size=8)
)


@given(sequences, st.integers(1, 4))
def test_every_sequence_can_be_read_back(rows: list[tuple[list[int], ...]], multiple: int) -> None:
    levels = build_levels(rows, pad_id=0, length_multiple=multiple)
    assert all(level.tokens.shape[1] % multiple == 0 for level in levels)
    for leaf, row in enumerate(rows):
        node, read = leaf, []
        for level in reversed(levels):
            length = int(level.lengths[node])
            read.append(np.asarray(level.tokens)[node, :length].tolist())
            assert not np.asarray(level.tokens)[node, length:].any()
            node = int(level.parents[node])
        assert tuple(read[::-1]) == row


@given(sequences)
def test_inner_segments_stand_once(rows: list[tuple[list[int], ...]]) -> None:
    levels = build_levels(rows, pad_id=0)
    for depth, level in enumerate(levels[:-1]):
        prefixes = {tuple(map(tuple, row[: depth + 1])) for row in rows}
        assert len(level.lengths) == len(prefixes)
    assert len(levels[-1].lengths) == len(rows)


def test_a_pair_and_its_counterpart_share_what_they_can() -> None:
    system, profile = [1, 2, 3], [4, 5]
    rows = [
        (system, profile, [6], [7, 7]),
        (system, profile, [6], [8]),
        (system, profile, [9], [7, 7]),
        (system, profile, [9], [8]),
    ]
    levels = build_levels(rows, pad_id=0)
    assert [len(level.lengths) for level in levels] == [1, 1, 2, 4]
    assert levels[3].parents.tolist() == [0, 0, 1, 1]


@pytest.mark.parametrize("rows", [[], [([1],), ([1], [2])], [()]])
def test_uneven_sequences_are_refused(rows: list[tuple[list[int], ...]]) -> None:
    with pytest.raises(ValueError, match="the same number of segments"):
        build_levels(rows, pad_id=0)
