"""What is fixed for the length of a run: devices, model, rows, batches, schedule and step.

The functions at the end put a model and its batches together as a config says; the memory plan
calls them too, with shapes in place of weights and rows.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from gplan_jax.data.batch_plan import BatchPlan
from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.loaders import PreferenceLoader, SampleLoader, batch_iterator
from gplan_jax.data.preference_set import PreferenceSet
from gplan_jax.data.tasks.registry import load_task, make_task, service_of_run
from gplan_jax.data.tasks.task import PROMPT_FOLDER, TASK_FILE, Mode, Task
from gplan_jax.data.training_set import TrainingSet
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.streams import cores
from gplan_jax.models import Qwen3, load_qwen3
from gplan_jax.models.attention.causal import Kernel, resolve_kernel
from gplan_jax.models.attention.check import attention_fault
from gplan_jax.models.checkpoints.model_directory import read_config
from gplan_jax.models.layers.projection import LoraParam
from gplan_jax.models.qwen3.lora import add_lora
from gplan_jax.objectives.curriculum import CompressionCurriculum
from gplan_jax.training.hosts.mesh import batch_share, check_mesh, make_mesh
from gplan_jax.training.hosts.processes import any_fault, log_once
from gplan_jax.training.steps.objectives import (
    PreferenceObjective,
    SectionObjective,
    make_objective,
)
from gplan_jax.training.steps.step import (
    CACHED_TOKENS,
    Params,
    TrainState,
    TrainStep,
    make_optimizer,
    make_schedule,
    make_train_step,
)
from gplan_jax.training.steps.train_config import TrainConfig

Rows = TypeVar("Rows", TrainingSet, PreferenceSet)
CACHE_NAME = "cache"  # token ids and reference values, below the run directory


@dataclass(frozen=True)
class Run:
    """All that is fixed for the length of a run."""

    config: TrainConfig
    directory: Path
    mesh: Mesh
    model: Qwen3
    loader: SampleLoader | PreferenceLoader
    schedule: optax.Schedule
    optimizer: optax.GradientTransformation

    @property
    def training_set(self) -> TrainingSet | PreferenceSet:
        return self.loader.training_set

    @property
    def plan(self) -> BatchPlan:
        return self.loader.plan

    @property
    def full_prompts(self) -> int:
        """Rows whose prompts have as many tokens as they may; all that are cut are among them."""
        prompts_N = self.plan.lengths_NxGx2[:, 0, 0]
        return int((prompts_N >= self.training_set.task.prompt_length).sum())

    def initial_state(self) -> TrainState:
        create = jax.jit(
            lambda params: TrainState.create(params, self.optimizer),
            out_shardings=self._state_shardings,
        )
        return create(self._trained)

    def train_step(self) -> TrainStep:
        """The compiled step: (state, batch on devices) -> (state, metrics)."""
        graphdef, _, *frozen = nnx.split(self.model, *trained_filters(self.config))
        leaves, structure = jax.tree.flatten(self._state_shardings)
        most_tokens = None
        if self.mesh.size == 1 and self.mesh.devices.flat[0].platform == "cpu":
            most_tokens = CACHED_TOKENS * int(os.environ.get("NPROC") or cores())  # as XLA counts
        step = _step_of(
            graphdef,
            self.optimizer,
            make_objective(self.config),
            self.config.accumulation_steps,
            most_tokens,
            tuple(leaves),
            structure,
        )
        return functools.partial(step, frozen=frozen[0]) if frozen else step

    def batches(self, start: int) -> grain.DatasetIterator:
        """This process's share of every batch from step ``start`` on; its state is one number."""
        data = self.config.data
        return batch_iterator(
            self.loader, self.plan, start=start, threads=data.threads, workers=data.workers
        )

    @property
    def _trained(self) -> Params:
        return nnx.state(self.model, trained_filters(self.config)[0])

    @property
    def _state_shardings(self) -> TrainState:
        return TrainState.shardings(self._trained, self.optimizer, self.mesh)


@functools.lru_cache(maxsize=4)
def _step_of(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    objective: SectionObjective | PreferenceObjective,
    accumulation_steps: int,
    most_tokens: int | None,
    shardings: tuple[NamedSharding, ...],
    structure: jax.tree_util.PyTreeDef,
) -> TrainStep:
    """One step for all runs of a process that differ in rows and weights alone, as seeds do: the
    second one traces and compiles nothing."""
    return make_train_step(
        graphdef,
        optimizer,
        objective,
        accumulation_steps=accumulation_steps,
        most_tokens=most_tokens,
        state_shardings=jax.tree.unflatten(structure, shardings),
    )


def prepare(config: TrainConfig, directory: Path) -> Run:
    """Reads rows and model, tokenizes and fixes batches, schedule and optimizer. Bad input is a
    GplanError before anything but tokens has been written.
    """
    # Devices and rows come first: what is wrong with them costs no minutes of reading weights.
    mesh = make_mesh(config.mesh)
    check_mesh(
        mesh,
        read_config(config.model),
        batch_size=config.batch_size,
        accumulation_steps=config.accumulation_steps,
    )
    mode, cache = Mode(config.mode), directory / CACHE_NAME
    encoder, faulty = ChatEncoder.load(config.model), FaultyRows(config.data.on_error)
    task = task_of(config, tell=True)
    loader: SampleLoader | PreferenceLoader
    if mode is Mode.SCDPO:
        pairs = PreferenceSet.read(config.data.train, encoder=encoder, task=task, faulty=faulty)
        # A policy is only worth refining on prompts that it knows.
        own = Path(config.model)
        if (own / PROMPT_FOLDER).is_dir():
            known, contexts = load_task(own), [row.context for row in pairs.pairs[0].examples]
            if any(known.prompt(context) != task.prompt(context) for context in contexts):
                log_once(
                    f"warning: {own} was trained with another prompt than data.template="
                    f"{config.data.template}; its own is data.template={own}/{PROMPT_FOLDER}"
                )
        pairs = with_prompt_length(config, pairs, pairs.response_lengths(cache_dir=cache))
        pairs, levels_Nx3 = pairs.fitting(cache_dir=cache, faulty=faulty)
        unknown_Nx2x2 = np.full((len(pairs), 2, 2), np.nan, np.float32)  # ``reference`` fills it in
        plan = batch_plan_of(config, pairs, pairs.whole_lengths(levels_Nx3))
        loader = PreferenceLoader(pairs, plan, levels_Nx3, unknown_Nx2x2, batch_share(mesh))
    else:
        order = config.curriculum
        rows = TrainingSet.read(
            config.data.train,
            encoder=encoder,
            task=task,
            mode=mode,
            cache=Path(config.data.cache or cache),
            order=order,
            faulty=faulty,
        )
        hidden_at = order.last_stage(rows.most_blocks)
        last_stage = curriculum_of(config, len(rows)).stage_of_epoch(config.epochs - 1)
        lengths_NxGx2 = rows.lengths(min(last_stage, hidden_at) + 1)
        rows = with_prompt_length(config, rows, lengths_NxGx2[..., 1].max(axis=1))
        room = rows.task.prompt_length
        if not task.cuts_prompts and (lengths_NxGx2[:, 0, 0] > room).any():
            longest = int(lengths_NxGx2[:, 0, 0].argmax())
            raise GplanError(
                f"The prompt of the row with id {rows.row_id(longest)} has "
                f"{lengths_NxGx2[longest, 0, 0]} tokens, and {room} are left for prompts beside "
                f"the longest response; data.task={task.name} cuts none. Give a greater "
                "data.max_length."
            )
        lengths_NxGx2[..., 0] = lengths_NxGx2[..., 0].clip(max=room)
        loader = SampleLoader(rows, batch_plan_of(config, rows, lengths_NxGx2), batch_share(mesh))
    faulty.report()
    schedule = make_schedule(
        config.optimizer,
        steps_per_epoch=loader.plan.steps_per_epoch,
        total_steps=loader.plan.total_steps,
        curriculum=loader.plan.curriculum,
    )

    model = load_qwen3(
        config.model,
        param_dtype=weights_dtype(config),
        compute_dtype=jnp.dtype(config.precision.compute),
        remat=config.precision.remat,
        mesh=mesh,
    )
    model.kernel = checked_kernel(config, model, mesh)
    add_adapters(model, config, latent_ids=encoder.latent_ids, mesh=mesh)
    optimizer = make_optimizer(config.optimizer, schedule)
    run = Run(config, directory, mesh, model, loader, schedule, optimizer)
    if task.cuts_prompts:
        rows_with = f"{run.full_prompts} of {len(run.training_set)} rows have"
        log_once(
            f"prompts are cut to {run.training_set.task.prompt_length} tokens; {rows_with} that "
            "many and may have lost some of their history"
        )
    return run


def task_of(config: TrainConfig, *, tell: bool = False) -> Task:
    """The task of a run, as its config names it; ``with_prompt_length`` cuts its prompts.

    With ``tell`` a line of the log says how its service is known.
    """
    data = config.data
    service, told = service_of_run(
        data.task, data.service, data=Path(data.train), model=Path(config.model)
    )
    if told and tell:
        log_once(told)
    return make_task(
        data.task,
        template=data.template,
        service=service,
        prompt_length=data.prompt_length or data.max_length,
        response=Mode(config.mode).response,
    )


def with_prompt_length(config: TrainConfig, rows: Rows, responses_N: np.ndarray) -> Rows:
    """The rows with the one length that prompts are cut to, which the model directory will keep.

    ``responses_N`` are the tokens of each row's longest response. GplanError, naming that of the
    longest, where prompt and response don't fit in ``data.max_length``.
    """
    limit, longest = config.data.max_length, int(responses_N.max())
    room = config.data.prompt_length
    if room is None:
        room = limit - longest
        if Mode(config.mode) is Mode.SCDPO and (Path(config.model) / TASK_FILE).is_file():
            room = min(room, load_task(Path(config.model)).prompt_length)
    prompt = rows.task.prompt(next(iter(rows.examples)).context)
    try:
        rows.encoder.user_room(prompt, max_length=min(room, limit - longest))
        if room + longest > limit:
            raise GplanError(f"Beside it a prompt of data.prompt_length={room} does not fit.")
    except GplanError as error:
        raise GplanError(
            f"The answer of the row with id {rows.row_id(int(responses_N.argmax()))} has {longest} "
            f"tokens of at most {limit} (data.max_length) for prompt and answer. {error}"
        ) from None
    return replace(rows, task=replace(rows.task, prompt_length=room))


def weights_dtype(config: TrainConfig) -> jnp.dtype:
    """Dtype of the weights; frozen ones need no master copy beyond what is multiplied."""
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


def checked_kernel(config: TrainConfig, model: Qwen3, mesh: Mesh) -> Kernel:
    """The kernel of ``kernel_of``, if it computes here what it should: compared with a plain
    computation on a device of each process, at the size that one has. What is wrong or refuses is
    replaced by xla with a warning; GplanError where the config asks for it by name.
    """
    platform, config_of = mesh.devices.flat[0].platform, model.config
    kernel = kernel_of(config, model, platform=platform)
    if kernel == "xla":
        return kernel
    parts = mesh.shape["tensor"]
    fault = any_fault(
        attention_fault(
            kernel,
            dtype=model.compute_dtype,
            heads=config_of.num_attention_heads // parts,
            kv_heads=config_of.num_key_value_heads // parts,
            head_dim=config_of.head_dim,
            platform=platform,
        ),
        "could not run it",
    )
    if fault is None:
        return kernel
    said = f"the attention kernel {kernel} fails its check here ({fault})"
    if config.precision.attention != "auto":
        raise GplanError(
            f"precision.attention={kernel}: {said}. Choose auto or xla; gplan doctor says more."
        )
    log_once(f"warning: {said}; this run takes xla instead. gplan doctor says more.")
    return "xla"


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
        samples,
        epochs_per_stage=config.epochs_per_stage if moves else None,
        order=config.curriculum,
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
