"""The nearest setting that fits, where a configured one does not.

Settings are tried in a declared order, from what costs a step least to what costs it most:

1. ``accumulation_steps`` up: more collectives, no more computation;
2. ``precision.remat`` none -> dots -> full -> offload: more computation, then host transfers;
3. ``mesh.tensor`` up (``mesh.fsdp`` down with it): collectives inside every layer.

At each stage of 2 and 3 the most micro-batches are tried first; where they fit, fewer are.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

from gplan_jax.models.qwen3.config import Qwen3Config
from gplan_jax.training.hosts.mesh import mesh_shape
from gplan_jax.training.memory.plan import MemoryPlan
from gplan_jax.training.steps.train_config import TrainConfig

REMATS = ("none", "dots", "full", "offload")
MOST_PLANS = 8
PlanOf = Callable[[TrainConfig], MemoryPlan]


@dataclass(frozen=True)
class Search:
    """How the search went.

    Attributes:
        found: the plan of the nearest setting that fits; None where none of those tried does.
        tried: every plan made, in order.
        complete: False where the search stopped at its cap.
    """

    found: MemoryPlan | None
    tried: tuple[MemoryPlan, ...]
    complete: bool


def search_fitting(
    config: TrainConfig,
    shape: Qwen3Config,
    devices: int,
    plan_of: PlanOf,
    *,
    most: int = MOST_PLANS,
    report: Callable[[str], None] = lambda line: None,
) -> Search:
    """Looks for the nearest setting that fits.

    Args:
        config: the setting that does not fit.
        shape: of the model: its heads bound the tensor axis.
        devices: of the topology.
        plan_of: plans a setting; called ``most`` times at most.
        report: gets a line before every plan.
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
    """Settings other than ``config`` in the declared order, those of a stage by micro-batches."""
    data, _, tensor = mesh_shape(config.mesh, devices)
    remats = REMATS[REMATS.index(config.precision.remat) :]
    for remat in remats:
        yield from _stage(config, remat, data, tensor, devices)
    heads = shape.num_key_value_heads
    while tensor * 2 <= heads and heads % (tensor * 2) == 0 and devices % (data * tensor * 2) == 0:
        tensor *= 2
        for remat in remats:
            yield from _stage(config, remat, data, tensor, devices)


def _stage(
    config: TrainConfig, remat: str, data: int, tensor: int, devices: int
) -> Iterator[tuple[TrainConfig, ...]]:
    """The settings of one remat policy and mesh: every number of micro-batches that divides."""
    own = mesh_shape(config.mesh, devices)
    row_parts = devices // tensor
    settings = []
    for parts in range(config.accumulation_steps, config.batch_size + 1):
        if config.batch_size % parts or (config.batch_size // parts) % row_parts:
            continue
        changes: dict[str, object] = {"accumulation_steps": parts}
        if remat != config.precision.remat:
            changes["precision"] = config.precision.model_copy(update={"remat": remat})
        if tensor != own[2]:
            sizes = {"data": data, "fsdp": row_parts // data, "tensor": tensor}
            changes["mesh"] = config.mesh.model_copy(update=sizes)
        candidate = config.model_copy(update=changes)
        if candidate != config:
            settings.append(candidate)
    if settings:
        yield tuple(settings)


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
