"""The batch of an optimizer step, typed: numpy arrays from the loader, JAX arrays on the devices.

Letters: B samples, N context pairs (each with 2 contexts, and under each 2 responses: the chosen
and the rejected one), S tokens of a sequence, R supervised positions, P tokens of the prefix that
all rows share, H tokens that both prompts of a pair share below it, C tokens that follow in each.
Sequences are right-padded. A row of length 0 is empty: it fills up the last batch of an epoch.
"""

from __future__ import annotations

import math
from typing import Any

import jax
import numpy as np
from flax import struct

from gplan_jax.models.qwen3.config import Work

CONTEXTS, RESPONSES = 2, 2  # of a pair
CHOSEN, REJECTED = 0, 1

Array = Any  # np.ndarray where it is loaded, jax.Array on the devices


@struct.dataclass
class SharedPrefix:
    """What the prompts of all rows begin with, held once a batch."""

    tokens_P: Array  # int32, right-padded
    length: Array  # int32 scalar


@struct.dataclass
class SampleRows:
    """Prompts with their responses."""

    tokens_BxS: Array  # int32, prompt then response, without the prefix where there is one
    lengths_B: Array  # int32
    targets_BxR: Array  # int32, response tokens in order
    # int32, where in its row the state that predicts each target stands
    target_positions_BxR: Array
    sections_BxR: Array  # int8, 1 reasoning, 2 plan, 0 no target

    @property
    def tokens_a_row(self) -> int:
        """How many the model runs over for one row, padding included."""
        return int(self.tokens_BxS.shape[1])


@struct.dataclass
class PairTree:
    """What the four sequences of a pair share, above the sequences themselves; all int32."""

    shared_tokens_NxH: Array  # what both prompts of a pair have in common below the prefix
    shared_lengths_N: Array
    # What follows in each of them, but for its last token, whose state predicts the response.
    context_tokens_Nx2xC: Array
    context_lengths_Nx2: Array


@struct.dataclass
class PairRows:
    """Context pairs: under each of two contexts the response that fits and the one that doesn't."""

    tokens_Nx2x2xS: Array  # int32, the sequences, or what is left of them below ``tree``
    lengths_Nx2x2: Array  # int32
    targets_Nx2x2xR: Array  # int32, response tokens in order
    target_positions_Nx2x2xR: Array  # int32, where the states that predict them stand
    supervised_Nx2x2xR: Array  # int8, 1 where there is a target
    reference_Nx2x2: Array  # float32, log-probabilities of the responses under the reference
    tree: PairTree | None = None  # None in the plain layout

    @property
    def tokens_a_row(self) -> int:
        """How many the model runs over for one pair, padding included."""
        tree = self.tree
        parts = [self.tokens_Nx2x2xS]
        parts += [tree.shared_tokens_NxH, tree.context_tokens_Nx2xC] if tree else []
        return sum(math.prod(tokens.shape[1:]) for tokens in parts)


@struct.dataclass
class Batch:
    """What a step takes: ``rows`` are split over devices and micro-batches, ``prefix`` is not."""

    rows: SampleRows | PairRows
    prefix: SharedPrefix | None = None


@struct.dataclass
class LoadedBatch:
    """A batch on its host, with what the log and the reference need to know of it."""

    batch: Batch  # the rows that this process loads
    indices_B: np.ndarray  # int32, which samples or pairs they are; -1 for an empty row
    epoch: np.ndarray  # scalar
    stage: np.ndarray | None = None  # scalar, of compression, of all rows; None for pairs

    def token_count(self) -> int:
        """Tokens of this process's sequences, what is shared counted in each of them."""
        rows, prefix = self.batch.rows, self.batch.prefix
        lengths = rows.lengths_B if isinstance(rows, SampleRows) else rows.lengths_Nx2x2
        count = lengths.sum()
        if prefix is not None:
            count += prefix.length * (lengths > 0).sum()
        if isinstance(rows, PairRows) and rows.tree is not None:
            count += rows.tree.shared_lengths_N.sum() * CONTEXTS * RESPONSES
            count += rows.tree.context_lengths_Nx2.sum() * RESPONSES
        return int(count)

    def work(self, shares: float = 1.0) -> Work:
        """What the real tokens of the batch must multiply; what rows share counts once.

        The whole batch has ``shares`` times the rows of this process.
        """
        rows, prefix = self.batch.rows, self.batch.prefix
        shared = 0 if prefix is None else int(prefix.length)
        if isinstance(rows, SampleRows):
            levels, targets = [rows.lengths_B], np.count_nonzero(rows.sections_BxR)
        else:
            tree = rows.tree
            above = [] if tree is None else [tree.shared_lengths_N, tree.context_lengths_Nx2]
            levels, targets = (
                [*above, rows.lengths_Nx2x2],
                np.count_nonzero(rows.supervised_Nx2x2xR),
            )
        before, tokens, pairs = np.asarray(shared), 0.0, 0.0
        for lengths in levels:  # A segment sees all of what is above it.
            before = before[..., None] if before.ndim < lengths.ndim else before
            tokens += float(lengths.sum())
            pairs += float((lengths * (lengths + 1) / 2 + lengths * before).sum())
            before = before + lengths
        once = Work(shared, shared * (shared + 1) / 2, 0)
        return Work(tokens * shares, pairs * shares, targets * shares) + once


def check_shapes(batch: Batch) -> None:
    """Raises ValueError where an array has other axes than its name says.

    ``targets_BxR`` has two axes, and B and R are of one size in all arrays of the batch.
    """
    sizes: dict[str, int] = {}
    for path, array in jax.tree_util.tree_leaves_with_path(batch):
        name = path[-1].name
        axes = name.rpartition("_")[2].split("x") if "_" in name else []
        expected = [
            int(axis) if axis.isdigit() else sizes.setdefault(axis, size)
            for axis, size in zip(axes, array.shape, strict=False)
        ]
        if len(axes) != array.ndim or expected != list(array.shape):
            raise ValueError(f"{name} has shape {array.shape}; axes of the batch so far: {sizes}")
