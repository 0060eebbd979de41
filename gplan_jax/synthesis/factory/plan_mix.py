"""What plans are made of: their lengths, tools and tags, and how two sets of plans differ."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import IntentLibrary, Plan, read_labelled_samples
from gplan_jax.reasoning import GSISR_LATENTS

P90 = 0.9


@dataclass
class PlanMix:
    """Counts over plans. ``tags`` are the values of the library's relevance parameters."""

    lengths: Counter[int] = field(default_factory=Counter)
    tools: Counter[str] = field(default_factory=Counter)
    tags: Counter[str] = field(default_factory=Counter)

    @classmethod
    def of_plans(cls, plans: Iterable[Plan], library: IntentLibrary) -> PlanMix:
        """The mix of some plans."""
        mix = cls()
        for plan in plans:
            mix.add(plan, library)
        return mix

    @classmethod
    def of_file(cls, path: str | Path, library: IntentLibrary) -> PlanMix:
        """The mix of a file's plans; rows without a readable plan are left out."""
        rows = read_labelled_samples(path, library, faulty=FaultyRows("skip"))
        return cls.of_plans((label.plan for _, label in rows), library)

    def add(self, plan: Plan, library: IntentLibrary) -> None:
        """Counts one more plan."""
        self.lengths[len(plan)] += 1
        self.tools.update(intent[library.tool_key] for intent in plan)
        for key in library.relevance_parameters:
            self.tags.update(intent[key] for intent in plan if key in intent)

    def to_dict(self, library: IntentLibrary) -> dict[str, Any]:
        """Plan lengths in rows; tools and tags as shares of all intents, and of all tags."""
        keys = library.relevance_parameters
        known_tags = [value for key in keys for value in library.parameters[key].values or ()]
        return {
            "rows": self.lengths.total(),
            "plan_lengths": {str(n): self.lengths[n] for n in sorted(self.lengths)},
            "tools": shares(self.tools, library.tools),
            "tags": shares(self.tags, known_tags),
        }

    def compare(self, other: PlanMix, library: IntentLibrary) -> dict[str, Any]:
        """The other mix for JSON, and how far this one is from it (total variation distance)."""
        distances = {
            "plan_lengths": distance(self.lengths, other.lengths),
            "tools": distance(self.tools, other.tools),
            "tags": distance(self.tags, other.tags),
        }
        return {**other.to_dict(library), "distance": distances}

    def suggested_target_blocks(self) -> int | None:
        """B* of CALR (``optimizer.target_blocks``): 90th percentile of B = 2 + |Y|."""
        seen = 0
        for length in sorted(self.lengths):
            seen += self.lengths[length]
            if seen >= P90 * self.lengths.total():
                return len(GSISR_LATENTS.context_blocks) + length
        return None


def shares(counts: Mapping[str, int], order: Iterable[str] = ()) -> dict[str, float]:
    """Each count's share of their sum, to four digits, in ``order``; those of 0 are left out."""
    total = sum(counts.values())
    names = [*dict.fromkeys([*order, *sorted(counts)])]
    return {name: round(counts[name] / total, 4) for name in names if counts.get(name)}


def distance(mine: Mapping[Any, int], others: Mapping[Any, int]) -> float | None:
    """Total variation distance, half the sum of |share - share|; None where a mix is empty."""
    here, there = sum(mine.values()), sum(others.values())
    if not here or not there:
        return None
    keys = {*mine, *others}
    return round(sum(abs(mine.get(k, 0) / here - others.get(k, 0) / there) for k in keys) / 2, 4)
