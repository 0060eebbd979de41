"""Progressive compression: which reasoning blocks are latent, and when; CALR, the learning
rate that follows its stages, and the single-phase rates it is compared with.

The stage is a pure function of a sample's global index, so it carries no state: it is the same on
every host, and a resumed run continues where it was.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

import jax.numpy as jnp
import optax

from gplan_jax.foundation.config import Config


class BlockOrder(Config):
    """Which of a row's B blocks are hidden (latent in PICD, gone in ICoT) at stage g."""

    # "forward" hides the leading blocks first, as the paper does, "reverse" the last ones
    order: Literal["forward", "reverse"] = "forward"
    # "linear" hides one block more a stage, min(g, B), "log" 1, 2, 4, ... of them, min(2^g - 1, B)
    chunks: Literal["linear", "log"] = "linear"

    def hidden_blocks(self, stage: int, blocks: int) -> range:
        """Indices of the hidden ones of so many blocks."""
        count = min(stage if self.chunks == "linear" else 2**stage - 1, blocks)
        return range(count) if self.order == "forward" else range(blocks - count, blocks)

    def last_stage(self, blocks: int) -> int:
        """The first stage at which so many blocks are all hidden."""
        return blocks if self.chunks == "linear" else blocks.bit_length()


FORWARD = BlockOrder()


@dataclass(frozen=True)
class CompressionCurriculum:
    """Maps a position in the training stream to a compression stage (paper, section 4.1.3).

    The stream is the data set repeated epoch after epoch; the sample at global index i is seen in
    epoch e = i // samples_per_epoch, at stage g = first_stage + e // epochs_per_stage.
    """

    samples_per_epoch: int
    first_stage: int = 0  # stage of the first epoch; 0 is explicit reasoning
    # 1 fits the paper's 13 epochs and B* = 9; small data sets want more, to learn a stage. None
    # stands still, which training on explicit reasoning (CoT-SFT) wants.
    epochs_per_stage: int | None = 1
    order: BlockOrder = FORWARD

    def __post_init__(self) -> None:
        if self.samples_per_epoch < 1:
            raise ValueError(f"samples_per_epoch must be positive, not {self.samples_per_epoch}")
        if self.first_stage < 0:
            raise ValueError(f"first_stage must not be negative, not {self.first_stage}")
        if self.epochs_per_stage is not None and self.epochs_per_stage < 1:
            raise ValueError(f"epochs_per_stage must be positive, not {self.epochs_per_stage}")

    def epoch(self, global_index: int) -> int:
        """The epoch, from 0, in which the sample at ``global_index`` is seen."""
        return global_index // self.samples_per_epoch

    def stage(self, global_index: int) -> int:
        """g: the compression stage of the sample at ``global_index``."""
        return self.stage_of_epoch(self.epoch(global_index))

    def stage_of_epoch(self, epoch: int) -> int:
        """g of every sample seen in ``epoch``."""
        if self.epochs_per_stage is None:
            return self.first_stage
        return self.first_stage + epoch // self.epochs_per_stage

    def first_epoch_beyond(self, blocks: int) -> int:
        """The first epoch in which more than ``blocks`` blocks are hidden of a row that has them.

        Raises:
            ValueError: the curriculum stands still and never hides so many.
        """
        beyond = self.order.last_stage(blocks + 1)
        if self.first_stage >= beyond:
            return 0
        if self.epochs_per_stage is None:
            raise ValueError(f"a curriculum that stands still never hides {blocks + 1} blocks")
        return (beyond - self.first_stage) * self.epochs_per_stage


def calr_schedule(
    *,
    steps_per_epoch: int,
    total_steps: int,
    structure_lr: float,
    polish_lr: float,
    target_blocks: int = 9,
    warmup_ratio: float = 0.0,
    polish_decay_epochs: float = 0.0,
    curriculum: CompressionCurriculum | None = None,
) -> optax.Schedule:
    """Compression-aware learning rate (paper, equation 4).

    ``lr(t) = structure_lr`` while g(t) <= B*, then
    ``polish_lr * (1 + cos(pi * min((t - t*) / decay, 1))) / 2`` with t* the first step whose stage
    g exceeds B*. The boundary is asked of the curriculum, never set by hand.

    Args:
        steps_per_epoch: optimizer steps in one epoch.
        total_steps: optimizer steps of the whole run.
        structure_lr: rate while the latent prefix is being formed.
        polish_lr: rate at which refinement of the plan begins.
        target_blocks: B*, the number of blocks after which the prefix counts as formed.
        warmup_ratio: share of ``total_steps`` with a linear rise from 0 to ``structure_lr``.
        polish_decay_epochs: epochs over which the cosine falls to 0; 0 means all that remain.
        curriculum: the run's curriculum; one stage an epoch from 0 where it is not given.

    Returns:
        A schedule: step -> learning rate, usable in jit.
    """
    curriculum = curriculum or CompressionCurriculum(samples_per_epoch=1)
    polish_start = curriculum.first_epoch_beyond(target_blocks) * steps_per_epoch
    decay_steps = round(polish_decay_epochs * steps_per_epoch) or total_steps - polish_start
    structure = warmup_constant(structure_lr, total_steps=total_steps, warmup_ratio=warmup_ratio)
    polish = optax.cosine_decay_schedule(polish_lr, max(decay_steps, 1))
    return optax.join_schedules([structure, polish], [polish_start])


def warmup_constant(
    peak_lr: float, *, total_steps: int, warmup_ratio: float = 0.0
) -> optax.Schedule:
    """``peak_lr * min(t / w, 1)`` with w = ceil(warmup_ratio * total_steps) warm-up steps."""
    warmup_steps = math.ceil(warmup_ratio * total_steps)
    if warmup_steps == 0:
        return optax.constant_schedule(peak_lr)
    return lambda step: peak_lr * jnp.minimum(step / warmup_steps, 1.0)


def warmup_cosine(
    peak_lr: float, *, total_steps: int, warmup_ratio: float = 0.0, final_ratio: float = 0.0
) -> optax.Schedule:
    """A linear rise over the warm-up, then half a cosine down to ``final_ratio * peak_lr``."""
    warmup_steps = math.ceil(warmup_ratio * total_steps)
    decay = optax.cosine_decay_schedule(
        peak_lr, max(total_steps - warmup_steps, 1), alpha=final_ratio
    )
    if warmup_steps == 0:
        return decay
    rise = warmup_constant(peak_lr, total_steps=total_steps, warmup_ratio=warmup_ratio)
    return optax.join_schedules([rise, decay], [warmup_steps])
