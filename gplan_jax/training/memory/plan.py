"""A memory plan as data: what one configuration needs on one topology, and what bounds its step."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from gplan_jax.models.qwen3.config import Qwen3Config
from gplan_jax.models.qwen3.work import Work
from gplan_jax.training.memory.batch_shape import BatchShape, RowLengths, segments
from gplan_jax.training.memory.hlo_costs import HloCosts
from gplan_jax.training.memory.topologies import Chip, Topology
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
