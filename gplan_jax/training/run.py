"""What is fixed for the length of a run: devices, model, rows, batches, schedule and step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import grain
import jax.numpy as jnp
import optax
from flax import nnx
from jax.sharding import Mesh

from gplan_jax.data.batch_plan import BatchPlan
from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.pipeline import Batch, batch_iterator
from gplan_jax.data.training_set import Mode, TrainingSet
from gplan_jax.foundation import GplanError, RowError
from gplan_jax.foundation.progress import report_skipped
from gplan_jax.gsisr import IntentLibrary, PromptTemplate
from gplan_jax.models import Qwen3, load_qwen3
from gplan_jax.objectives.curriculum import CompressionCurriculum
from gplan_jax.training.config import TrainConfig
from gplan_jax.training.mesh import make_mesh
from gplan_jax.training.run_directory import CACHE_NAME
from gplan_jax.training.state import TrainState, make_optimizer, make_schedule
from gplan_jax.training.step import DEVICE_FIELDS, DeviceBatch, TrainStep, make_train_step


@dataclass(frozen=True)
class Run:
    """All that is fixed for the length of a run."""

    config: TrainConfig
    directory: Path
    mesh: Mesh
    model: Qwen3
    training_set: TrainingSet
    plan: BatchPlan
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation

    def initial_state(self) -> TrainState:
        """The state before the first step, on the devices of the mesh."""
        return TrainState.create(nnx.state(self.model, nnx.Param), self.optimizer)

    def train_step(self) -> TrainStep:
        """The compiled step: (state, batch on devices) -> (state, metrics)."""
        return make_train_step(
            nnx.graphdef(self.model),
            self.optimizer,
            loss=self.config.loss,
            average="sections" if self.config.mode == Mode.PICD else "tokens",
            accumulation_steps=self.config.accumulation_steps,
        )

    def batches(self) -> grain.DatasetIterator:
        """This process's share of every batch, from the first step; its state is the next step."""
        data = self.config.data
        return batch_iterator(
            self.training_set, self.plan, threads=data.threads, workers=data.workers
        )

    def to_devices(self, batch: Batch) -> DeviceBatch:
        """The fields of a batch that the step reads, laid out over the mesh."""
        return {name: jnp.asarray(batch[name]) for name in DEVICE_FIELDS}

    def update_model(self, state: TrainState) -> Qwen3:
        """The run's model with the weights of ``state``."""
        nnx.update(self.model, state.params)
        return self.model


def prepare(config: TrainConfig, directory: Path) -> Run:
    """Reads rows and model, counts tokens and fixes batches, schedule and optimizer.

    Raises:
        GplanError: bad input; nothing but counted tokens has been written then.
    """
    if config.batch_size % config.accumulation_steps:
        raise GplanError(
            f"batch_size={config.batch_size} does not divide into "
            f"accumulation_steps={config.accumulation_steps} equal parts."
        )
    mesh = make_mesh(config.mesh)
    mode = Mode(config.mode)
    skipped: list[RowError] = []
    training_set = TrainingSet.read(
        config.data.train,
        encoder=ChatEncoder.load(config.model),
        template=PromptTemplate.load(config.data.template),
        library=IntentLibrary.load(config.data.library),
        mode=mode,
        max_length=config.data.max_length,
        on_error=config.data.on_error,
        skipped=skipped,
    )
    report_skipped(skipped)
    model = load_qwen3(
        config.model,
        param_dtype=jnp.dtype(config.precision.params),
        compute_dtype=jnp.dtype(config.precision.compute),
    )
    model.remat = config.precision.remat
    curriculum = CompressionCurriculum(
        len(training_set), epochs_per_stage=config.epochs_per_stage if mode is Mode.PICD else None
    )
    blocks = max(training_set.blocks(row) for row in range(len(training_set)))
    stages = min(curriculum.stage_of_epoch(config.epochs - 1), blocks) + 1
    plan = BatchPlan(
        training_set.lengths(stages, cache_dir=directory / CACHE_NAME),
        curriculum,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        window_batches=config.data.window_batches,
        length_multiple=config.data.length_multiple,
        response_multiple=config.data.response_multiple,
    )
    schedule = make_schedule(
        config.optimizer,
        steps_per_epoch=plan.steps_per_epoch,
        total_steps=plan.total_steps,
        curriculum=curriculum,
    )
    optimizer = make_optimizer(config.optimizer, schedule)
    return Run(config, directory, mesh, model, training_set, plan, schedule, optimizer)
