"""What a training step needs on devices that need not be here: memory, work, traffic, time.

The step is the run's own (``abstract_step``), compiled ahead of time; memory and the module's text
come from the compiler. Nothing is executed.
"""

from __future__ import annotations

import contextlib
import math
import re
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import jax
import numpy as np
from jax.sharding import Mesh

from gplan_jax.foundation import GplanError
from gplan_jax.models.layers.sharding import LOGICAL_AXES, axis_size
from gplan_jax.models.qwen3.config import Qwen3Config
from gplan_jax.training.hosts.mesh import mesh_shape
from gplan_jax.training.memory.abstract_step import AbstractStep, abstract_step
from gplan_jax.training.memory.batch_shape import BatchShape, RowLengths, batch_shape, segments
from gplan_jax.training.memory.hlo_costs import HloCosts, hlo_costs
from gplan_jax.training.memory.hlo_module import parse_module
from gplan_jax.training.memory.kept_activations import kept_activation_bytes
from gplan_jax.training.memory.topologies import Chip, Topology, local_chip, topology_mesh
from gplan_jax.training.steps.train_config import TrainConfig


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the step's peak.

    Attributes:
        weights: the parameters between steps, this device's part.
        optimizer: both moments of every parameter, likewise.
        batch: the step's input.
        gradients: the float32 sums of the micro-batches, where there are several; with one
            micro-batch gradients come and go among the temporaries and this is 0.
        activations: what one micro-batch keeps for its backward pass, traced from the model.
        temporaries: all else that is live at the peak: gathered weights, a layer's own values,
            logits of a slice, gradients on their way.
        code: the compiled program.
        host: bytes the program keeps in host memory instead (remat "offload").
    """

    weights: float
    optimizer: float
    batch: float
    gradients: float
    activations: float
    temporaries: float
    code: float = 0.0
    host: float = 0.0

    @property
    def peak(self) -> float:
        return (
            self.weights
            + self.optimizer
            + self.batch
            + self.gradients
            + self.activations
            + self.temporaries
            + self.code
        )


@dataclass(frozen=True)
class Roofline:
    """The least seconds a step could take on a device by each of its limits.

    Attributes:
        compute: executed FLOPs at the chip's peak.
        memory: main-memory traffic at its bandwidth.
        network: bytes sent to other chips at the bandwidth of all its links, which a slice without
            wrap-around, or a ring over one axis, does not reach.
        useful: useful FLOPs at the chip's peak.
    """

    compute: float
    memory: float
    network: float
    useful: float

    @property
    def seconds(self) -> float:
        return max(self.compute, self.memory, self.network)

    @property
    def limit(self) -> str:
        times = {
            "matrix products": self.compute,
            "main memory": self.memory,
            "links between chips": self.network,
        }
        return max(times, key=lambda name: times[name])

    @property
    def utilisation(self) -> float:
        """The most useful-FLOPs utilisation that these limits allow."""
        return self.useful / self.seconds


@dataclass(frozen=True)
class MemoryPlan:
    """What one configuration needs on one topology, for each device.

    Attributes:
        source: "compiled" for the compiler's own figures, "estimate" for an analytic one.
        mesh: sizes of data, fsdp and tensor.
        memory: None where the compiler refused the step for want of memory.
        needed: bytes a device must grant; known also where the compiler refused.
        capacity: bytes a device grants; 0 where unknown (a CPU).
        useful_flops: of the whole step, all devices together.
        xla_flops: what XLA's ``cost_analysis`` says of one device; it counts loop bodies once.
        costs: from the compiled module; None for an estimate or a refused step.
    """

    topology: Topology
    config: TrainConfig
    shape: Qwen3Config
    mesh: tuple[int, int, int]
    batch: BatchShape
    kernel: str
    source: Literal["compiled", "estimate"]
    memory: Memory | None
    needed: float
    capacity: float
    useful_flops: float
    xla_flops: float | None = None
    costs: HloCosts | None = None
    lower_seconds: float = 0.0
    compile_seconds: float = 0.0

    @property
    def fits(self) -> bool:
        return self.memory is not None and (not self.capacity or self.needed <= self.capacity)

    @property
    def roofline(self) -> Roofline | None:
        chip = self.topology.chip
        if chip is None or self.costs is None:
            return None
        return roofline(chip, self.costs, self.useful_flops / self.topology.devices)


def roofline(chip: Chip, costs: HloCosts, useful_flops: float) -> Roofline:
    """Divides a device's costs by what its chip can do."""
    return Roofline(
        compute=costs.flops / chip.peak_flops,
        memory=costs.hbm_bytes / chip.bandwidth,
        network=costs.bytes_sent / chip.link if chip.link else 0.0,
        useful=useful_flops / chip.peak_flops,
    )


def plan_memory(
    config: TrainConfig, shape: Qwen3Config, topology: Topology, lengths: RowLengths
) -> MemoryPlan:
    """Plans one configuration: compiled where a compiler for the chip is here, else estimated.

    Raises:
        GplanError: libtpu is missing, or the run does not divide by the mesh.
    """
    from gplan_jax.training.memory.estimate import estimate

    chip = topology.chip
    if chip is not None and chip.platform == "gpu" and not _is_here(topology):
        return estimate(config, shape, topology, lengths)
    mesh = topology_mesh(topology, config.mesh)
    batch = batch_shape(config, lengths)
    built = abstract_step(config, shape, mesh, batch, platform=mesh.devices.flat[0].platform)
    common: dict[str, Any] = {
        "topology": topology,
        "config": config,
        "shape": shape,
        "mesh": mesh_shape(config.mesh, topology.devices),
        "batch": batch,
        "kernel": built.model.kernel,
        "source": "compiled",
        "capacity": chip.memory if chip else 0.0,
        "useful_flops": useful_flops(shape, config, lengths),
    }
    begin = time.perf_counter()
    with jax.set_mesh(mesh):
        lowered = built.lower()
    lowered_at = time.perf_counter()
    with tempfile.TemporaryDirectory(prefix="gplan-plan-") as dump:
        try:
            with jax.set_mesh(mesh), _fresh_compilation():
                compiled = lowered.compile(compiler_options={"xla_dump_to": dump})
        except jax.errors.JaxRuntimeError as error:
            needed = _needed_bytes(str(error))
            if needed is None:
                raise
            seconds = time.perf_counter() - lowered_at
            return MemoryPlan(
                **common,
                memory=None,
                needed=needed,
                lower_seconds=lowered_at - begin,
                compile_seconds=seconds,
            )
        seconds = time.perf_counter() - lowered_at
        text = _module_text(Path(dump), compiled)
    memory = _memory(built, compiled.memory_analysis(), config, mesh, batch)
    analysis = compiled.cost_analysis() or {}
    return MemoryPlan(
        **common,
        memory=memory,
        needed=memory.peak,
        xla_flops=analysis.get("flops"),
        costs=hlo_costs(parse_module(text)),
        lower_seconds=lowered_at - begin,
        compile_seconds=seconds,
    )


def useful_flops(shape: Qwen3Config, config: TrainConfig, lengths: RowLengths) -> float:
    """FLOPs that a step's rows need on all devices, without padding or recomputation.

    3 x (forward): 2 x parameters of the layers for every token ("6ND"), 4 N H for every visible
    query-key pair of a layer, and 2 V D for every supervised position. With the prefix-tree layout
    what rows share counts once. Weights that LoRA freezes have no gradient of their own: theirs is
    2 x (forward), and the adapters are left out.
    """
    d, h = shape.hidden_size, shape.head_dim
    heads = 2 * shape.num_attention_heads + 2 * shape.num_key_value_heads
    layer = d * h * heads + 3 * d * shape.intermediate_size
    parts = segments(config, lengths)
    tokens = sum(part.count * part.tokens for part in parts)
    pairs = sum(
        part.count * (part.tokens * (part.tokens + 1) / 2 + part.tokens * part.after)
        for part in parts
    )
    weights = shape.num_hidden_layers * 2 * layer * tokens
    # The last segments are the sequences' own: each ends in a response.
    weights += 2 * shape.vocab_size * d * parts[-1].count * lengths.response
    attention = shape.num_hidden_layers * 4 * shape.num_attention_heads * h * pairs
    return (2.0 if config.lora.rank else 3.0) * weights + 3.0 * attention


def device_bytes(tree: Any) -> float:
    """Bytes of one device's part of a pytree of shapes with shardings."""
    return sum(
        math.prod(leaf.sharding.shard_shape(leaf.shape)) * np.dtype(leaf.dtype).itemsize
        for leaf in jax.tree.leaves(tree)
    )


def gradient_sums(built: AbstractStep, config: TrainConfig) -> float:
    """Bytes of one device's float32 sums over micro-batches; 0 where there is only one."""
    if config.accumulation_steps == 1:
        return 0.0
    leaves = jax.tree.leaves(built.state.params)
    return sum(4 * math.prod(leaf.sharding.shard_shape(leaf.shape)) for leaf in leaves)


def _memory(
    built: AbstractStep, stats: Any, config: TrainConfig, mesh: Mesh, batch: BatchShape
) -> Memory:
    """Splits the compiler's totals: arguments exactly, temporaries by what is known to be there."""
    unaliased = stats.output_size_in_bytes - stats.alias_size_in_bytes
    weights = device_bytes((built.state.params, built.frozen))
    inputs = device_bytes(built.batch)
    live = stats.temp_size_in_bytes + unaliased
    gradients = min(gradient_sums(built, config), live)
    row_parts = axis_size(mesh, dict(LOGICAL_AXES)["batch"])
    kept = kept_activation_bytes(built.model, config, batch, row_parts)
    activations = min(kept, live - gradients)
    return Memory(
        weights=weights,
        optimizer=stats.argument_size_in_bytes - weights - inputs,
        batch=inputs,
        gradients=gradients,
        activations=activations,
        temporaries=live - gradients - activations,
        code=stats.generated_code_size_in_bytes,
        host=stats.host_temp_size_in_bytes + stats.host_argument_size_in_bytes,
    )


def _is_here(topology: Topology) -> bool:
    return local_chip() is topology.chip and len(jax.devices()) == topology.devices


@contextlib.contextmanager
def _fresh_compilation() -> Iterator[None]:
    """A step from the compilation cache would be neither timed nor written out as text."""
    options: Any = jax.config
    before = options.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    try:
        yield
    finally:
        jax.config.update("jax_enable_compilation_cache", before)


def _module_text(dump: Path, compiled: Any) -> str:
    """The optimised module's text; from the dump, as libtpu may be newer than JAX's own parser."""
    written = sorted(dump.glob("*after_optimizations.txt"), key=lambda path: path.stat().st_size)
    return written[-1].read_text(encoding="utf-8") if written else compiled.as_text()


_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


def _needed_bytes(message: str) -> float | None:
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
