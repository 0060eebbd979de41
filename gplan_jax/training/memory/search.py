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
    """Looks for the nearest setting to ``config`` that fits, making ``most`` plans at most."""
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
