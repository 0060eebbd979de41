"""Learning-rate schedules: CALR, and the single-phase ones it is compared with."""

from __future__ import annotations

import math

import jax.numpy as jnp
import optax

from gplan_jax.objectives.curriculum import CompressionCurriculum


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
