"""Makes memory plans: by compiling the run's own step, or from shapes where no compiler is here.

The step is the run's own (``abstract_step``), compiled ahead of time for devices that need not be
here; memory and the module's text come from the compiler. Nothing is executed.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import AbstractMesh, Mesh

from gplan_jax.foundation import GplanError
from gplan_jax.models import Qwen3
from gplan_jax.models.layers.sharding import LOGICAL_AXES, axis_size
from gplan_jax.models.qwen3.config import Qwen3Config
from gplan_jax.training.hosts.mesh import AXES, mesh_shape
from gplan_jax.training.memory.abstract_step import (
    AbstractStep,
    abstract_model,
    abstract_step,
    kept_activation_bytes,
)
from gplan_jax.training.memory.batch_shape import BatchShape, RowLengths, batch_shape, levels_of_row
from gplan_jax.training.memory.hlo_costs import hlo_costs
from gplan_jax.training.memory.hlo_module import parse_module
from gplan_jax.training.memory.report import Memory, MemoryPlan, useful_flops
from gplan_jax.training.memory.topologies import Topology, local_chip, topology_mesh
from gplan_jax.training.steps.train_config import TrainConfig


def plan_memory(
    config: TrainConfig, shape: Qwen3Config, topology: Topology, lengths: RowLengths
) -> MemoryPlan:
    """Plans one configuration: compiled where a compiler for the chip is here, else estimated."""
    chip = topology.chip
    is_here = local_chip() is chip and len(jax.devices()) == topology.devices
    if chip is not None and chip.platform == "gpu" and not is_here:
        return estimate(config, shape, topology, lengths)
    mesh = topology_mesh(topology, config.mesh)
    batch = batch_shape(config, lengths)
    built = abstract_step(config, shape, mesh, batch, platform=mesh.devices.flat[0].platform)
    begin = time.perf_counter()
    with jax.set_mesh(mesh):
        lowered = built.lower()
    lowered_at = time.perf_counter()
    refused = MemoryPlan(
        topology=topology,
        config=config,
        shape=shape,
        mesh=mesh_shape(config.mesh, topology.devices),
        batch=batch,
        kernel=built.model.kernel,
        source="compiled",
        memory=None,
        needed=0.0,
        capacity=chip.memory if chip else 0.0,
        useful_flops=useful_flops(shape, config, lengths),
        lower_seconds=lowered_at - begin,
    )

    try:
        with jax.set_mesh(mesh):
            compiled, text = compile_with_text(lowered)
    except jax.errors.JaxRuntimeError as error:
        needed = needed_bytes(str(error))
        if needed is None:
            raise
        seconds = time.perf_counter() - lowered_at
        return dataclasses.replace(refused, needed=needed, compile_seconds=seconds)
    seconds = time.perf_counter() - lowered_at

    # The compiler's totals: arguments exactly, temporaries by what is known to be among them.
    stats: Any = compiled.memory_analysis()
    weights, inputs = _device_bytes((built.state.params, built.frozen)), _device_bytes(built.batch)
    unaliased = stats.output_size_in_bytes - stats.alias_size_in_bytes
    live = stats.temp_size_in_bytes + unaliased
    gradients = min(_gradient_sums(built, config), live)
    row_parts = axis_size(mesh, dict(LOGICAL_AXES)["batch"])
    kept = kept_activation_bytes(built.model, config, batch, row_parts)
    activations = min(kept, live - gradients)
    memory = Memory(
        weights=weights,
        optimizer=stats.argument_size_in_bytes - weights - inputs,
        batch=inputs,
        gradients=gradients,
        activations=activations,
        temporaries=live - gradients - activations,
        code=stats.generated_code_size_in_bytes,
        host=stats.host_temp_size_in_bytes + stats.host_argument_size_in_bytes,
    )
    return dataclasses.replace(
        refused,
        memory=memory,
        needed=memory.peak,
        xla_flops=(compiled.cost_analysis() or {}).get("flops"),
        costs=hlo_costs(parse_module(text), topology.slices),
        compile_seconds=seconds,
    )


def compile_with_text(lowered: Any) -> tuple[Any, str]:
    """Compiles what is lowered, and gives the optimised module's text too.

    The text is from a dump, as libtpu may be newer than JAX's own parser; what the compilation
    cache gives would be neither timed nor dumped, so it is off.
    """
    options: Any = jax.config
    cached = options.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    with tempfile.TemporaryDirectory(prefix="gplan-plan-") as dump:
        try:
            compiled = lowered.compile(compiler_options={"xla_dump_to": dump})
        finally:
            jax.config.update("jax_enable_compilation_cache", cached)
        written = sorted(
            Path(dump).glob("*after_optimizations.txt"), key=lambda path: path.stat().st_size
        )
        return compiled, written[-1].read_text("utf-8") if written else compiled.as_text()


def estimate(
    config: TrainConfig, shape: Qwen3Config, topology: Topology, lengths: RowLengths
) -> MemoryPlan:
    """Estimates a plan without compiling: state exactly, the rest from shapes.

    Temporaries are the sum of what is live when the first layer is differentiated, the busiest
    moment of a step: one layer's values, gathered weights and gradients of one layer, the gradient
    of one micro-batch, and one vocabulary slice's logits with their gradient. What a compiler
    fuses away is not taken off and fragmentation is not added. In a tree of pairs there is a
    gradient from each level: compiled steps hold them all and add them up at the end.
    """
    if topology.chip is None:
        raise ValueError("an estimate needs a chip")
    sizes = mesh_shape(config.mesh, topology.devices)
    mesh = cast(Mesh, AbstractMesh(sizes, AXES))  # shapes of shards need no devices
    batch = batch_shape(config, lengths)
    built = abstract_step(config, shape, mesh, batch, platform=topology.chip.platform)
    row_parts = axis_size(mesh, dict(LOGICAL_AXES)["batch"])
    # One from each level of a tree of pairs, the shared prefix included.
    gradients_at_once = 1 + len(levels_of_row(batch)) if batch.shared else 1
    memory = Memory(
        weights=_device_bytes((built.state.params, built.frozen)),
        optimizer=_device_bytes((built.state.optimizer, built.state.step)),
        batch=_device_bytes(built.batch),
        gradients=_gradient_sums(built, config),
        activations=kept_activation_bytes(built.model, config, batch, row_parts),
        temporaries=_working_set(built.model, config, batch, row_parts, *sizes[1:])
        + gradients_at_once * _device_bytes(built.state.params),
    )
    return MemoryPlan(
        topology=topology,
        config=config,
        shape=shape,
        mesh=sizes,
        batch=batch,
        kernel=built.model.kernel,
        source="estimate",
        memory=memory,
        needed=memory.peak,
        capacity=topology.chip.memory,
        useful_flops=useful_flops(shape, config, lengths),
    )


def _working_set(
    model: Qwen3, config: TrainConfig, batch: BatchShape, row_parts: int, fsdp: int, tensor: int
) -> float:
    """Bytes of one layer's own values, its gathered weights and gradients, and one logits slice."""
    shape, item = model.config, jnp.dtype(model.compute_dtype).itemsize
    keep_all = config.precision.model_copy(update={"remat": "none"})
    one_layer = abstract_model(
        config.model_copy(update={"precision": keep_all}),
        dataclasses.replace(shape, num_hidden_layers=1),
    )
    one_layer.kernel = model.kernel
    values = kept_activation_bytes(one_layer, config, batch, row_parts)
    d, h = shape.hidden_size, shape.head_dim
    heads = 2 * shape.num_attention_heads + 2 * shape.num_key_value_heads
    weights = (d * h * heads + 3 * d * shape.intermediate_size) * item / tensor
    sequences = batch.sequences * (batch.rows // config.accumulation_steps // row_parts)
    # A device scores those of all that share its copy against its own part of the vocabulary:
    # logits and their gradient in float32, that part of the matrix in the compute dtype.
    vocabulary = shape.vocab_size / (fsdp * tensor)
    chunk = min(config.loss.vocab_chunk, vocabulary)
    logits = 2 * 4 * sequences * fsdp * batch.responses * chunk
    head = vocabulary * d * item
    return values + 2 * weights + logits + head


def _device_bytes(tree: Any) -> float:
    """Bytes of one device's part of a pytree of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )


def _gradient_sums(built: AbstractStep, config: TrainConfig) -> float:
    """Bytes of one device's float32 sums over micro-batches; 0 where there is only one."""
    if config.accumulation_steps == 1:
        return 0.0
    leaves = jax.tree.leaves(built.state.params)
    return sum(4 * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)


_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def needed_bytes(message: str) -> float | None:
    """Bytes a refused step asked for, from the compiler's message; None if it says none."""
    for pattern in (
        r"total memory required[^(]*\(([\d.]+)([KMGT]?)\)",
        r"Used ([\d.]+)([KMGT]?)i?B? of [\d.]+[KMGT]?i?B? hbm",
    ):
        found = re.search(pattern, message)
        if found:
            return float(found.group(1)) * _UNITS[found.group(2)]
    if "RESOURCE_EXHAUSTED" in message:
        raise GplanError(f"The compiler ran out of memory: {message.splitlines()[0]}")
    return None


REMATS = ("none", "dots", "full", "offload")
MOST_PLANS = 8
PlanOf = Callable[[TrainConfig], MemoryPlan]


@dataclass(frozen=True)
class Search:
    """How the search went."""

    found: MemoryPlan | None  # of the nearest setting that fits; None where none tried does
    tried: tuple[MemoryPlan, ...]  # in order
    complete: bool  # False where the search stopped at its cap


def search_fitting(
    config: TrainConfig,
    shape: Qwen3Config,
    devices: int,
    plan_of: PlanOf,
    *,
    most: int = MOST_PLANS,
    report: Callable[[str], None] = lambda line: None,
) -> Search:
    """Looks for the nearest setting to ``config`` that fits, making ``most`` plans at most.

    Settings are tried from what costs a step least to what costs it most:

      1. ``accumulation_steps`` up: more collectives, no more computation;
      2. ``precision.remat`` none -> dots -> full -> offload: more computation, then host transfers;
      3. ``mesh.tensor`` up (``mesh.fsdp`` down with it): collectives inside every layer.

    At each stage of 2 and 3 the most micro-batches are tried first; where they fit, fewer are.
    """
    tried: list[MemoryPlan] = []

    def fits(candidate: TrainConfig) -> MemoryPlan | None:
        report(f"trying {' '.join(overrides(config, candidate))}")
        tried.append(plan_of(candidate))
        return tried[-1] if tried[-1].fits else None

    for stage in stages(config, shape, devices):
        if len(tried) == most:
            return Search(None, tuple(tried), complete=False)
        found = fits(stage[-1])
        if found is None:
            continue
        low, high = 0, len(stage) - 1  # stage[high] fits; everything before low does not
        while low < high and len(tried) < most:
            middle = (low + high) // 2
            plan = fits(stage[middle])
            if plan is None:
                low = middle + 1
            else:
                found, high = plan, middle
        return Search(found, tuple(tried), complete=True)
    return Search(None, tuple(tried), complete=True)


def stages(
    config: TrainConfig, shape: Qwen3Config, devices: int
) -> Iterator[tuple[TrainConfig, ...]]:
    """Settings other than ``config``, a stage for each remat policy and mesh, by micro-batches."""
    own = mesh_shape(config.mesh, devices)
    data, _, tensor = own
    heads = shape.num_key_value_heads
    while True:
        row_parts = devices // tensor
        for remat in REMATS[REMATS.index(config.precision.remat) :]:
            changes: dict[str, object] = {}
            if remat != config.precision.remat:
                changes["precision"] = config.precision.model_copy(update={"remat": remat})
            if tensor != own[2]:
                sizes = {"data": data, "fsdp": row_parts // data, "tensor": tensor}
                changes["mesh"] = config.mesh.model_copy(update=sizes)
            settings = tuple(
                config.model_copy(update={**changes, "accumulation_steps": parts})
                for parts in range(config.accumulation_steps, config.batch_size + 1)
                if config.batch_size % parts == 0 and config.batch_size // parts % row_parts == 0
                if changes or parts != config.accumulation_steps
            )
            if settings:
                yield settings
        tensor *= 2
        if tensor > heads or heads % tensor or devices % (data * tensor):
            return


def overrides(config: TrainConfig, candidate: TrainConfig) -> tuple[str, ...]:
    """The KEY=VALUE arguments that turn ``config`` into ``candidate``."""
    changed = []
    if candidate.accumulation_steps != config.accumulation_steps:
        changed.append(f"accumulation_steps={candidate.accumulation_steps}")
    if candidate.precision.remat != config.precision.remat:
        changed.append(f"precision.remat={candidate.precision.remat}")
    if candidate.mesh != config.mesh:
        changed += [
            f"mesh.{axis}={getattr(candidate.mesh, axis)}" for axis in ("data", "fsdp", "tensor")
        ]
    return tuple(changed)
