"""The optimizer of a run and its learning rate, as the config says."""

from __future__ import annotations

import functools
from typing import Any

import jax
import optax

from gplan_jax.foundation import GplanError
from gplan_jax.objectives.curriculum import (
    CompressionCurriculum,
    calr_schedule,
    warmup_constant,
    warmup_cosine,
)
from gplan_jax.training.steps.train_config import OptimizerConfig

Params = Any


@functools.cache  # One object for equal arguments, so that runs can share a compiled step.
def make_schedule(
    config: OptimizerConfig,
    *,
    steps_per_epoch: int,
    total_steps: int,
    curriculum: CompressionCurriculum,
) -> optax.Schedule:
    """The learning rate of a run.

    GplanError where CALR has no curriculum that moves, or none that passes its target before the
    run ends: that would be a constant rate under CALR's name.
    """
    if config.schedule != "calr":
        single_phase = warmup_constant if config.schedule == "constant" else warmup_cosine
        return single_phase(
            config.learning_rate, total_steps=total_steps, warmup_ratio=config.warmup_ratio
        )
    if curriculum.epochs_per_stage is None:
        raise GplanError(
            "optimizer.schedule=calr follows a moving curriculum, which mode=picd, icot and pause "
            "have; choose optimizer.schedule=cosine or constant."
        )
    polish_epoch = curriculum.first_epoch_beyond(config.target_blocks)
    if polish_epoch * steps_per_epoch >= total_steps:
        raise GplanError(
            "optimizer.schedule=calr would never polish: its second phase begins after "
            f"{polish_epoch} epochs (optimizer.target_blocks={config.target_blocks}) and the run "
            f"has {total_steps // steps_per_epoch}. Train longer, lower target_blocks (the 90th "
            "percentile of a row's blocks), or write optimizer.schedule=constant, which has the "
            "same rates over so short a run."
        )
    return calr_schedule(
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        structure_lr=config.learning_rate,
        polish_lr=config.polish_lr,
        target_blocks=config.target_blocks,
        warmup_ratio=config.warmup_ratio,
        polish_decay_epochs=config.polish_decay_epochs,
        curriculum=curriculum,
    )


@functools.cache
def make_optimizer(
    config: OptimizerConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm; weight decay spares the norm weights."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule,
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decay_mask,
        ),
    )


def decay_mask(params: Params) -> Params:
    """True for every parameter that decays: all but those of the norms, by their name."""

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        return not any("norm" in str(part) for part in path)

    return jax.tree_util.tree_map_with_path(decays, params)
