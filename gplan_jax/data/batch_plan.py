"""Which rows make up which batch: a pure function of the step, the same on every host.

Rows are shuffled anew each epoch by Grain. Inside a window of a few batches they are ordered by
length, cut into batches and the batches shuffled, so a batch pads little and compiles to few
shapes. Windows never cross an epoch: every row is seen once an epoch, at that epoch's stage; the
last batch of an epoch is filled up with empty rows.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import lru_cache

import grain
import numpy as np

from gplan_jax.objectives.curriculum import CompressionCurriculum

EMPTY_ROW = -1


@dataclass(frozen=True)
class BatchSpec:
    """What batch ``step`` holds."""

    rows: np.ndarray  # [B] indices of samples, EMPTY_ROW where the batch is filled up
    stage: int  # of compression, of all its rows
    epoch: int
    sequence_length: int  # S, tokens of a row (without a shared prefix), padded
    response_length: int  # R, supervised positions of a row, padded likewise


@dataclass(frozen=True)
class Share:
    """The rows of a batch that one process loads: some of ``of`` equal parts.

    ``parts`` ascend and need not lie side by side: the devices of one host of a TPU slice are
    neighbours in two dimensions.
    """

    parts: tuple[int, ...] = (0,)
    of: int = 1

    def take(self, rows_B: np.ndarray) -> np.ndarray:
        """The process's rows, part after part."""
        return rows_B.reshape(self.of, -1)[list(self.parts)].reshape(-1)


@dataclass(frozen=True)
class BatchPlan:
    """Batches of a whole run."""

    # Tokens of prompt and response of every row at every stage; stages beyond the last column are
    # as long as the last.
    lengths_NxGx2: np.ndarray = field(repr=False)
    curriculum: CompressionCurriculum  # gives the stage; its samples_per_epoch is N
    batch_size: int  # rows of a (global) batch
    epochs: int
    seed: int
    window_batches: int = 16  # batches whose rows are ordered by length together
    length_multiple: int = 128  # S is a multiple of this
    response_multiple: int = 64  # R is a multiple of this
    prefix_length: int = 0  # leading tokens of every prompt, held once a batch

    def __post_init__(self) -> None:
        if len(self.lengths_NxGx2) != self.curriculum.samples_per_epoch:
            raise ValueError("lengths and curriculum disagree on the number of samples")
        # Per-instance caches: consecutive steps ask for the same epoch.
        object.__setattr__(self, "_epoch", lru_cache(maxsize=2)(self._plan_epoch))

    def __reduce__(self) -> tuple[object, tuple[object, ...]]:
        values = (getattr(self, name) for name in self.__dataclass_fields__)
        return (BatchPlan, tuple(values))

    @property
    def steps_per_epoch(self) -> int:
        """Batches of one epoch, the last one filled up."""
        return -(-len(self.lengths_NxGx2) // self.batch_size)

    @property
    def total_steps(self) -> int:
        return self.epochs * self.steps_per_epoch

    def batch(self, step: int) -> BatchSpec:
        """The batch of optimizer step ``step`` (from 0)."""
        epoch, position = divmod(step, self.steps_per_epoch)
        rows = self._epoch(epoch)[position]  # type: ignore[attr-defined]
        stage = self.curriculum.stage_of_epoch(epoch)
        lengths = self._lengths_at(stage)[rows[rows != EMPTY_ROW]]
        return BatchSpec(
            rows=rows,
            stage=stage,
            epoch=epoch,
            sequence_length=round_up(
                int(lengths.sum(axis=1).max()) - self.prefix_length, self.length_multiple
            ),
            response_length=round_up(int(lengths[:, 1].max()), self.response_multiple),
        )

    def _plan_epoch(self, epoch: int) -> list[np.ndarray]:
        count = len(self.lengths_NxGx2)
        shuffled = grain.MapDataset.range(count).seed(self.seed).shuffle().repeat(self.epochs)
        order = np.asarray([shuffled[epoch * count + i] for i in range(count)])
        totals = self._lengths_at(self.curriculum.stage_of_epoch(epoch)).sum(axis=1)
        rng = np.random.default_rng([self.seed, epoch])
        batches: list[np.ndarray] = []
        window = self.batch_size * self.window_batches
        for start in range(0, count, window):
            rows = order[start : start + window]
            rows = rows[np.argsort(totals[rows], kind="stable")]
            cut = [rows[i : i + self.batch_size] for i in range(0, len(rows), self.batch_size)]
            batches += [cut[i] for i in rng.permutation(len(cut))]
        return [
            np.pad(rows, (0, self.batch_size - len(rows)), constant_values=EMPTY_ROW)
            for rows in batches
        ]

    def _lengths_at(self, stage: int) -> np.ndarray:
        return self.lengths_NxGx2[:, min(stage, self.lengths_NxGx2.shape[1] - 1)]


def round_up(value: int, multiple: int) -> int:
    """The least multiple that is not below ``value``."""
    return -(-value // multiple) * multiple
