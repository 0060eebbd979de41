"""What a config makes of a model: put together alike for a run and for its memory plan."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from gplan_jax.data.batch_plan import BatchPlan
from gplan_jax.data.preference_set import PreferenceSet
from gplan_jax.data.training_set import Mode, TrainingSet
from gplan_jax.models import Qwen3
from gplan_jax.models.attention.causal import Kernel, resolve_kernel
from gplan_jax.models.layers.projection import LoraParam
from gplan_jax.models.qwen3.lora import add_lora
from gplan_jax.objectives.curriculum import CompressionCurriculum
from gplan_jax.training.steps.preference_objective import PreferenceObjective
from gplan_jax.training.steps.section_objective import SectionObjective
from gplan_jax.training.steps.state import TrainState
from gplan_jax.training.steps.step import Objective, TrainStep, make_train_step
from gplan_jax.training.steps.train_config import TrainConfig


def weights_dtype(config: TrainConfig) -> jnp.dtype:
    """Dtype that the model's weights are held in.

    Frozen ones are never updated: they need no master copy beyond what is multiplied.
    """
    precision = config.precision
    return jnp.dtype(precision.compute if config.lora.rank else precision.params)


def kernel_of(config: TrainConfig, model: Qwen3, *, platform: str) -> Kernel:
    """The attention kernel of a config on a platform ("cpu", "gpu" or "tpu")."""
    return resolve_kernel(
        config.precision.attention,
        platform=platform,
        dtype=model.compute_dtype,
        head_dim=model.config.head_dim,
    )


def add_adapters(
    model: Qwen3, config: TrainConfig, *, latent_ids: Sequence[int], mesh: Mesh | None = None
) -> None:
    """Puts the config's adapters into the model, if it has any; latent rows train beside them."""
    lora = config.lora
    if lora.rank:
        add_lora(
            model,
            rank=lora.rank,
            alpha=lora.alpha,
            targets=lora.targets,
            trained_rows=latent_ids,
            seed=config.seed,
            mesh=mesh,
        )


def trained_filters(config: TrainConfig) -> tuple[Any, ...]:
    """What ``nnx.split`` parts the model by: what trains, then what is frozen if anything is."""
    return (LoraParam, ...) if config.lora.rank else (nnx.Param,)


def curriculum_of(config: TrainConfig, samples: int) -> CompressionCurriculum:
    """The curriculum over so many samples; it stands still where the mode has none."""
    moves = Mode(config.mode).has_curriculum
    return CompressionCurriculum(
        samples, epochs_per_stage=config.epochs_per_stage if moves else None
    )


def batch_plan_of(
    config: TrainConfig, rows: TrainingSet | PreferenceSet, lengths_NxGx2: np.ndarray
) -> BatchPlan:
    """The batches of a config over rows or pairs, given their tokens by stage."""
    return BatchPlan(
        lengths_NxGx2,
        curriculum_of(config, len(rows)),
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        window_batches=config.data.window_batches,
        length_multiple=config.data.length_multiple,
        response_multiple=config.data.response_multiple,
        prefix_length=len(rows.prefix_ids) if config.data.layout == "prefix_tree" else 0,
    )


def objective_of(config: TrainConfig) -> Objective:
    """What a config's mode minimises."""
    mode = Mode(config.mode)
    if mode is Mode.SCDPO:
        return PreferenceObjective(config.preference, vocab_chunk=config.loss.vocab_chunk)
    return SectionObjective(config.loss, "sections" if mode.has_curriculum else "tokens")


def step_of(
    config: TrainConfig,
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    shardings: TrainState,
) -> TrainStep:
    """The jit-compiled step of a config."""
    return make_train_step(
        graphdef,
        optimizer,
        objective_of(config),
        accumulation_steps=config.accumulation_steps,
        state_shardings=shardings,
    )
