"""Which keys of the config a run may change when it is resumed, and what that does to the result.

free      cannot touch the weights: where things lie, what is logged, kept and evaluated
rounding  the same sums in another order: equal to the tolerance of floating point, not in bits
content   names of files: their content is compared instead, see ``run_record``
exact     everything else: the weights would be those of neither config
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from gplan_jax.training.steps.train_config import TrainConfig

FREE = (
    *("output", "checkpoint", "logging", "evaluation", "preference.reference_cache"),
    *("data.test", "data.threads", "data.workers"),
)
ROUNDING = (
    *("mesh", "accumulation_steps", "precision.remat", "precision.attention", "loss.vocab_chunk"),
    *("data.layout", "data.length_multiple", "data.response_multiple"),
)
CONTENT = ("model", "data.train", "data.library", "data.template", "data.on_error")


@dataclass(frozen=True)
class ConfigChanges:
    """Lines ``key: was a, now b`` by what they mean for the result."""

    free: tuple[str, ...] = ()
    rounding: tuple[str, ...] = ()
    exact: tuple[str, ...] = ()

    @property
    def all(self) -> tuple[str, ...]:
        """Every change, the grave ones first."""
        return self.exact + self.rounding + self.free


def compare(before: TrainConfig, now: TrainConfig) -> ConfigChanges:
    """The differences of two configs. A new file name is free; its content is judged elsewhere."""
    found: dict[str, list[str]] = {"free": [], "rounding": [], "exact": []}
    for key, old, new in _differences(before.model_dump(), now.model_dump()):
        found[_kind(key)].append(f"{key}: was {old!r}, now {new!r}")
    return ConfigChanges(**{kind: tuple(lines) for kind, lines in found.items()})


def _kind(key: str) -> str:
    def is_under(names: tuple[str, ...]) -> bool:
        return any(key == name or key.startswith(f"{name}.") for name in names)

    if is_under(FREE + CONTENT):
        return "free"
    return "rounding" if is_under(ROUNDING) else "exact"


def _differences(
    before: dict[str, Any], now: dict[str, Any], prefix: str = ""
) -> Iterator[tuple[str, Any, Any]]:
    for key, new in now.items():
        old = before.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            yield from _differences(old, new, f"{prefix}{key}.")
        elif old != new:
            yield f"{prefix}{key}", old, new
