"""The fitted shares of the simulated world, as quick draws; calibration.yaml holds them.

A table maps values to relative weights, or a key to such a table; some hold quantiles instead.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import accumulate
from pathlib import Path
from typing import Any

import yaml

CALIBRATION = Path(__file__).parent / "calibration.yaml"


@dataclass(frozen=True, slots=True)
class Shares:
    """Values and the running sums of their weights."""

    values: tuple[str, ...]
    bounds: tuple[float, ...]

    @classmethod
    def of(cls, weights: Mapping[str, float]) -> Shares:
        """Relative weights; at least one is above 0."""
        return cls(tuple(map(str, weights)), tuple(accumulate(weights.values())))

    def at(self, level: float) -> str:
        """The value at ``level``, 0 <= level < 1, of the weights laid end to end."""
        place = bisect_right(self.bounds, level * self.bounds[-1])
        return self.values[min(place, len(self.values) - 1)]

    def draw(self, generator: random.Random) -> str:
        """A value, each as often as its weight says."""
        return self.at(generator.random())


@cache
def tables() -> Mapping[str, Any]:
    """All tables as the file has them."""
    found: dict[str, Any] = yaml.safe_load(CALIBRATION.read_text(encoding="utf-8"))
    return found


@cache
def shares(name: str, key: str | None = None) -> Shares:
    """The table ``name``, or its part ``key``."""
    table = tables()[name]
    return Shares.of(table if key is None else table[key])


def draw(generator: random.Random, name: str, key: str | None = None) -> str:
    """A value of the table ``name``, or of its part ``key``."""
    return shares(name, key).draw(generator)


def has(name: str, key: str) -> bool:
    """Whether the table ``name`` has a part ``key``."""
    return key in tables()[name]


def draw_quantile(generator: random.Random, name: str, key: str | None = None) -> float:
    """A number whose quantiles are those of a table."""
    return quantile_at(generator.random(), name, key)


def quantile_at(level: float, name: str, key: str | None = None) -> float:
    """The quantile of a table at ``level``, 0 to 1; straight lines between those that it has."""
    table: Sequence[float] = tables()[name] if key is None else tables()[name][key]
    place = level * (len(table) - 1)
    low = min(int(place), len(table) - 2)
    return table[low] + (place - low) * (table[low + 1] - table[low])
