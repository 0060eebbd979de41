"""A memory plan: what one configuration needs on one topology, what bounds its step, and both as
text in tables of at most 100 columns.
"""

from __future__ import annotations

import importlib.metadata
import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax

from gplan_jax.data.batches import CONTEXTS
from gplan_jax.models.checkpoints.hugging_face import parameter_count
from gplan_jax.models.qwen3.config import Qwen3Config, Work
from gplan_jax.training.memory.batch_shape import BatchShape, RowLengths, segments
from gplan_jax.training.memory.hlo_costs import HloCosts
from gplan_jax.training.memory.topologies import GIB, Chip, Topology
from gplan_jax.training.steps.train_config import TrainConfig


@dataclass(frozen=True)
class Memory:
    """Bytes on one device at the step's peak."""

    weights: float  # this device's part of the parameters between steps
    optimizer: float  # and of both their moments
    batch: float
    # The float32 sums of several micro-batches; 0 with one, whose gradients are temporaries.
    gradients: float
    activations: float  # what one micro-batch keeps for its backward pass, traced from the model
    # All else that is live: gathered weights, a layer's own values, a slice's logits, gradients.
    temporaries: float
    code: float = 0.0  # the compiled program
    host: float = 0.0  # kept in host memory instead (remat "offload")

    @property
    def peak(self) -> float:
        state = self.weights + self.optimizer + self.batch + self.code
        return state + self.gradients + self.activations + self.temporaries


@dataclass(frozen=True)
class Roofline:
    """The least seconds a step could take on a device by each of its limits."""

    compute: float  # executed FLOPs at the chip's peak
    memory: float  # main-memory traffic at its bandwidth
    # Bytes sent to other chips at the bandwidth of all links, which a slice without wrap-around,
    # or a ring over one axis, does not reach.
    network: float
    useful: float  # useful FLOPs at the chip's peak

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
        return self.useful / self.seconds


@dataclass(frozen=True)
class MemoryPlan:
    """What one configuration needs on one topology, for each device."""

    topology: Topology
    config: TrainConfig
    shape: Qwen3Config
    mesh: tuple[int, int, int]  # sizes of data, fsdp and tensor
    batch: BatchShape
    kernel: str
    source: Literal["compiled", "estimate"]
    memory: Memory | None  # None where the compiler refused the step for want of memory
    needed: float  # bytes a device must grant; known also where the compiler refused
    capacity: float  # bytes a device grants; 0 where unknown (a CPU)
    useful_flops: float  # of the whole step, all devices together
    xla_flops: float | None = None  # ``cost_analysis`` of one device; counts loop bodies once
    costs: HloCosts | None = None  # None for an estimate or a refused step
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


def useful_flops(shape: Qwen3Config, config: TrainConfig, lengths: RowLengths) -> float:
    """FLOPs that a step's rows need on all devices, without padding or recomputation.

    3 x (forward): 2 x parameters of the layers for every token ("6ND"), 4 N H for every visible
    query-key pair of a layer, and 2 V D for every supervised position. With the prefix-tree layout
    what rows share counts once. Weights that LoRA freezes have no gradient of their own: theirs is
    2 x (forward), and the adapters are left out.
    """
    parts = segments(config, lengths)
    work = Work(
        tokens=sum(part.count * part.tokens for part in parts),
        pairs=sum(
            part.count * (part.tokens * (part.tokens + 1) / 2 + part.tokens * part.after)
            for part in parts
        ),
        # The last segments are the sequences' own: each ends in a response.
        logits=parts[-1].count * lengths.response,
    )
    return work.flops(shape, frozen=bool(config.lora.rank))


def describe(plan: MemoryPlan) -> str:
    """Everything a plan knows, as lines of at most 100 columns."""
    config, batch, chip, costs = plan.config, plan.batch, plan.topology.chip, plan.costs
    precision, parts = config.precision, config.accumulation_steps
    lines: list[str] = []

    # What is planned, a line each.
    shape = plan.shape
    count = parameter_count(shape)
    parameters = f"{count / 1e9:.2f} B" if count >= 1e8 else f"{count / 1e6:.2f} M"
    data, fsdp, tensor = plan.mesh
    slices = f"slices={plan.topology.slices} " if plan.topology.slices > 1 else ""
    shared = f" after a shared prefix of {batch.prefix:,}" if batch.prefix else ""
    if batch.sequences == 1:
        rows = (
            f"{batch.rows} rows in {parts} part(s), {batch.tokens:,} tokens a row{shared}, "
            f"{batch.responses} supervised"
        )
    elif not batch.shared:
        rows = (
            f"{batch.rows} pairs in {parts} part(s), {batch.sequences} sequences each of "
            f"{batch.tokens:,} tokens, {batch.responses} supervised"
        )
    else:
        rows = (
            f"{batch.rows} pairs in {parts} part(s), {batch.shared:,} + {CONTEXTS} x "
            f"{batch.context} + {batch.sequences} x {batch.tokens} tokens each{shared}"
        )
    weights = f"weights {precision.params}"
    if config.lora.rank:
        weights = f"LoRA of rank {config.lora.rank} on {precision.compute} weights"
    source = "ESTIMATE from shapes; nothing was compiled for this chip"
    if plan.source == "compiled":
        versions = f"jax {jax.__version__}"
        if plan.topology.needs_libtpu and importlib.util.find_spec("libtpu"):
            versions += f", libtpu {importlib.metadata.version('libtpu')}"
        source = (
            f"compiled ahead of time with {versions}: traced in {plan.lower_seconds:.0f} s, "
            f"compiled in {plan.compile_seconds:.0f} s"
        )
    lines += [
        f"model     {shape.num_hidden_layers} layers, width {shape.hidden_size:,}, "
        f"{parameters} parameters",
        f"devices   {plan.topology.devices} x {chip.name if chip else jax.devices()[0].device_kind}"
        f", mesh {slices}data={data} fsdp={fsdp} tensor={tensor}",
        f"batch     {rows}",
        f"step      {weights}, products {precision.compute}, remat {precision.remat}, "
        f"attention {plan.kernel}",
        f"source    {source}",
        "",
    ]

    # What a device must hold.
    memory = plan.memory
    if memory is None:
        lines += [f"The compiler refused the step: a device would need {gib(plan.needed)}.", ""]
    else:
        sizes = [
            ("weights", memory.weights, "between steps"),
            ("optimizer", memory.optimizer, "two moments of every weight"),
            ("batch", memory.batch, ""),
            ("gradients", memory.gradients, "float32 sums over the parts"),
            ("activations", memory.activations, "kept for the backward pass (traced)"),
            ("temporaries", memory.temporaries, "all else that is live at the peak"),
            ("program", memory.code, ""),
            ("peak", memory.peak, ""),
        ]
        if memory.host:
            sizes.append(("host memory", memory.host, "beside the device"))
        lines += table(
            ("memory of a device", "", ""),
            [(name, gib(size), note) for name, size, note in sizes if size or name == "peak"],
        )

    # What a step computes, and what it sends.
    useful = plan.useful_flops
    all_devices = "forward and backward, for real tokens; nothing twice"
    work = [
        ("useful, all devices", tera(useful), all_devices),
        ("useful, a device", tera(useful / plan.topology.devices), "an equal share of it"),
    ]
    if costs is not None:
        note = "products in the compiled module, times loop trips"
        work.append(("executed, a device", tera(costs.flops), note))
    if plan.xla_flops is not None:
        note = "counts every loop body once: not the step's"
        work.append(("XLA cost_analysis", tera(plan.xla_flops), note))
    lines += table(("work of a step", "TFLOP", ""), work)
    if costs is not None and costs.silent_kernels:
        lines += [f"{costs.silent_kernels} kernel calls state no FLOPs and are not counted.", ""]
    if costs is not None and costs.unknown_loops:
        names = ", ".join(costs.unknown_loops[:3])
        lines += [f"Loops whose trips are unknown, counted once: {names}.", ""]
    if costs is not None and costs.collectives:
        lines += table(
            ("collectives of a step", "count", "GB sent by a device"),
            [
                (
                    f"{c.kind} between slices" if c.between_slices else c.kind,
                    f"{c.count:,}",
                    f"{sent:,.2f}" if sent >= 0.01 else f"{sent:.2g}",
                )
                for c in costs.collectives
                for sent in [c.bytes_sent / 1e9]
            ],
        )

    if costs is not None and costs.bytes_between_slices:
        sent, chips = (
            costs.bytes_between_slices / 1e9,
            plan.topology.devices // plan.topology.slices,
        )
        lines += [
            f"Between slices (DCN) a chip sends {sent:,.3g} GB a step, a slice of {chips} chips "
            f"{sent * chips:,.3g} GB;",
            "the roofline leaves that out, since the network between them is your data centre's.",
            "",
        ]

    # What bounds its time.
    line = plan.roofline
    if line is not None and costs is not None and chip is not None:
        links = f"{costs.bytes_sent / 1e9:,.1f} GB at {chip.link / 1e9:,.0f} GB/s, all links busy"
        memory_traffic = f"{costs.hbm_bytes / 1e9:,.0f} GB at {chip.bandwidth / 1e9:,.0f} GB/s"
        limits = [
            ("matrix products", line.compute, f"at {chip.peak_flops / 1e12:,.0f} TFLOP/s"),
            ("main memory", line.memory, memory_traffic),
            ("links between chips", line.network, links),
        ]
        lines += table(
            ("roofline", "seconds", ""),
            [(name, f"{seconds:.3f}", note) for name, seconds, note in limits],
        )
        lines.append(
            f"At least {line.seconds:.3f} s a step, limited by {line.limit}: "
            f"{line.utilisation:.0%} useful-FLOPs utilisation at most."
        )
    estimated = plan.source == "estimate"
    return "\n".join([*lines, verdict(plan.needed, plan.capacity, estimated=estimated)])


def verdict(needed: float, capacity: float, *, estimated: bool) -> str:
    """One line: whether so many bytes fit a device, and by how much; capacity 0: not known."""
    if not capacity:
        return f"fits: unknown; a device needs {gib(needed)}, what it has is not in the table"
    kind, gap = " (estimate)" if estimated else "", gib(abs(capacity - needed))
    if needed <= capacity:
        return f"fits: yes{kind}, {gap} of {gib(capacity)} to spare"
    return f"fits: no{kind}, it needs {gib(needed)}, {gap} more than the {gib(capacity)} there are"


def gib(size: float) -> str:
    """A size for reading: in GiB, or in MiB where that would show nothing."""
    return f"{size / GIB:,.2f} GiB" if not 0 < size < GIB / 100 else f"{size / 2**20:,.2f} MiB"


def tera(value: float) -> str:
    """Multiples of 10^12 with a decimal, or three digits where that would show nothing."""
    return f"{value / 1e12:,.1f}" if value >= 1e11 else f"{value / 1e12:.3g}"


def table(head: tuple[str, str, str], rows: Sequence[tuple[str, str, str]]) -> list[str]:
    """Lines of a table and an empty one; figures stand at the right of their column."""
    widths = [max(len(row[column]) for row in (head, *rows)) for column in range(3)]
    lines = [
        f"{name.ljust(widths[0])}  {figure.rjust(widths[1])}  {note.ljust(widths[2])}".rstrip()
        for name, figure, note in (head, *rows)
    ]
    return [*lines, ""]
