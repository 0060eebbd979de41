"""What is fixed for the length of a run: devices, model, rows, batches, schedule and step."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh

from gplan_jax.data.batch_plan import BatchPlan
from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.pipeline import Batch, BatchLoader, batch_iterator
from gplan_jax.data.preference_loader import PreferenceLoader
from gplan_jax.data.preference_set import PreferenceSet
from gplan_jax.data.task_files import PROMPT_FOLDER, load_task
from gplan_jax.data.training_set import Mode, TrainingSet
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import IntentLibrary, PromptTemplate
from gplan_jax.models import Qwen3, load_qwen3
from gplan_jax.models.checkpoints.model_directory import read_config
from gplan_jax.models.qwen3.lora import merged
from gplan_jax.objectives.preference import loss_at_reference
from gplan_jax.training.hosts.mesh import batch_share, check_mesh, make_mesh, put_batch
from gplan_jax.training.hosts.processes import log_once
from gplan_jax.training.steps.assembly import (
    add_adapters,
    batch_plan_of,
    curriculum_of,
    kernel_of,
    objective_of,
    step_of,
    trained_filters,
    weights_dtype,
)
from gplan_jax.training.steps.state import Params, TrainState, make_optimizer, make_schedule
from gplan_jax.training.steps.step import SHARED_FIELDS, DeviceBatch, TrainStep
from gplan_jax.training.steps.train_config import TrainConfig

CACHE_NAME = "cache"  # counted tokens and reference values, below the run directory


@dataclass(frozen=True)
class Run:
    """All that is fixed for the length of a run."""

    config: TrainConfig
    directory: Path
    mesh: Mesh
    model: Qwen3
    loader: BatchLoader | PreferenceLoader
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation

    @property
    def training_set(self) -> TrainingSet | PreferenceSet:
        """The rows, or pairs of contexts."""
        return self.loader.training_set

    @property
    def plan(self) -> BatchPlan:
        """Which of them make up which batch."""
        return self.loader.plan

    @property
    def first_loss(self) -> float | None:
        """The loss of the first step where it is known: policy and reference are still the same."""
        if not isinstance(self.loader, PreferenceLoader):
            return None
        return loss_at_reference(self.config.preference.loss, self.config.preference)

    def initial_state(self) -> TrainState:
        """The state before the first step, on the devices of the mesh."""
        create = jax.jit(
            lambda params: TrainState.create(params, self.optimizer),
            out_shardings=self._state_shardings,
        )
        return create(self._trained)

    def train_step(self) -> TrainStep:
        """The compiled step: (state, batch on devices) -> (state, metrics)."""
        graphdef, _, *frozen = nnx.split(self.model, *trained_filters(self.config))
        step = step_of(self.config, graphdef, self.optimizer, self._state_shardings)
        return functools.partial(step, frozen=frozen[0]) if frozen else step

    def batches(self) -> grain.DatasetIterator:
        """This process's share of every batch, from the first step; its state is the next step."""
        data = self.config.data
        return batch_iterator(self.loader, self.plan, threads=data.threads, workers=data.workers)

    def to_devices(self, batch: Batch) -> DeviceBatch:
        """The fields of a batch that the step reads, laid out over the mesh."""
        wanted = (*objective_of(self.config).row_fields, *SHARED_FIELDS)
        fields = [name for name in wanted if name in batch]
        return put_batch({name: batch[name] for name in fields}, self.mesh, shared=SHARED_FIELDS)

    def update_model(self, state: TrainState) -> Qwen3:
        """The run's model with the weights of ``state``."""
        nnx.update(self.model, state.params)
        return self.model

    def finished_model(self, params: Params) -> Qwen3:
        """The model with trained parameters as it is saved: adapters merged into the weights."""
        nnx.update(self.model, params)
        return merged(self.model) if self.config.lora.rank else self.model

    @property
    def _trained(self) -> Params:
        return nnx.state(self.model, trained_filters(self.config)[0])

    @property
    def _state_shardings(self) -> TrainState:
        return TrainState.shardings(self._trained, self.optimizer, self.mesh)


def prepare(config: TrainConfig, directory: Path) -> Run:
    """Reads rows and model, counts tokens and fixes batches, schedule and optimizer.

    Raises:
        GplanError: bad input; nothing but counted tokens has been written then.
    """
    mesh = make_mesh(config.mesh)
    check_mesh(
        mesh,
        read_config(config.model),
        batch_size=config.batch_size,
        accumulation_steps=config.accumulation_steps,
    )
    encoder = ChatEncoder.load(config.model)
    read = _preference_loader if Mode(config.mode) is Mode.SCDPO else _sample_loader
    loader = read(config, encoder, mesh, directory / CACHE_NAME)
    model = load_qwen3(
        config.model,
        param_dtype=weights_dtype(config),
        compute_dtype=jnp.dtype(config.precision.compute),
        remat=config.precision.remat,
        mesh=mesh,
    )
    model.kernel = kernel_of(config, model, platform=mesh.devices.flat[0].platform)
    add_adapters(model, config, latent_ids=encoder.latent_ids, mesh=mesh)
    schedule = make_schedule(
        config.optimizer,
        steps_per_epoch=loader.plan.steps_per_epoch,
        total_steps=loader.plan.total_steps,
        curriculum=loader.plan.curriculum,
    )
    optimizer = make_optimizer(config.optimizer, schedule)
    return Run(config, directory, mesh, model, loader, schedule, optimizer)


def _sample_loader(
    config: TrainConfig, encoder: ChatEncoder, mesh: Mesh, cache: Path
) -> BatchLoader:
    faulty = FaultyRows(config.data.on_error)
    rows = TrainingSet.read(
        config.data.train,
        encoder=encoder,
        template=PromptTemplate.load(config.data.template),
        library=IntentLibrary.load(config.data.library),
        mode=Mode(config.mode),
        max_length=config.data.max_length,
        faulty=faulty,
    )
    faulty.report()
    curriculum = curriculum_of(config, len(rows))
    blocks = max(rows.blocks(row) for row in range(len(rows)))
    stages = min(curriculum.stage_of_epoch(config.epochs - 1), blocks) + 1
    plan = batch_plan_of(config, rows, rows.lengths(stages, cache_dir=cache))
    return BatchLoader(rows, plan, batch_share(mesh))


def _preference_loader(
    config: TrainConfig, encoder: ChatEncoder, mesh: Mesh, cache: Path
) -> PreferenceLoader:
    faulty = FaultyRows(config.data.on_error)
    template = PromptTemplate.load(config.data.template)
    _warn_of_another_prompt(config, template)
    pairs = PreferenceSet.read(
        config.data.train,
        encoder=encoder,
        template=template,
        library=IntentLibrary.load(config.data.library),
        max_length=config.data.max_length,
        faulty=faulty,
    )
    pairs, levels_Nx3 = pairs.fitting(cache_dir=cache, faulty=faulty)
    faulty.report()
    unknown = np.full((len(pairs), 2, 2), np.nan, np.float32)  # until ``reference`` fills it in
    plan = batch_plan_of(config, pairs, pairs.whole_lengths(levels_Nx3))
    return PreferenceLoader(pairs, plan, levels_Nx3, unknown, batch_share(mesh))


def _warn_of_another_prompt(config: TrainConfig, template: PromptTemplate) -> None:
    """A policy is only worth refining on prompts that it knows."""
    if not (Path(config.model) / PROMPT_FOLDER).is_dir():
        return
    known = load_task(Path(config.model)).template
    if (known.system, known.user) != (template.system, template.user):
        log_once(
            f"warning: {config.model} was trained with another prompt than data.template="
            f"{config.data.template}; its own is data.template={config.model}/{PROMPT_FOLDER}"
        )
