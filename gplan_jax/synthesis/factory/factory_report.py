"""What became of the rows of a run: counts that grow row by row, as JSON and as tables.

``PlanMix`` says what plans are made of, and how two sets of plans differ.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from gplan_jax.chat.ledger import Spending
from gplan_jax.foundation.errors import NothingKept
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.tables import TextTable
from gplan_jax.gsisr import IntentLibrary, Label, Plan, Sample, read_labelled_samples
from gplan_jax.reasoning import GSISR_LATENTS
from gplan_jax.synthesis.factory.output_files import FILTER_TIERS, TIERS, Removal, RemovalTier

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


Part = Literal["train", "test"]


@dataclass
class FactoryReport:
    """Counts of a run."""

    library: IntentLibrary
    parts: Counter[Part] = field(default_factory=Counter)  # Kept rows by file.
    # The ids in each.
    users: dict[Part, set[str]] = field(default_factory=lambda: {"train": set(), "test": set()})
    # Rows by tier and code of the first rule that they break.
    removed: Counter[tuple[RemovalTier, str]] = field(default_factory=Counter)
    last_removal: Removal | None = None
    skipped: int = 0  # Rows that could not be read.
    repaired: int = 0  # Kept rows whose plan is a second answer.
    faulty_first: int = 0  # Rows whose first answer breaks a rule of the filter.
    structured: Counter[str] = field(default_factory=Counter)  # First answers by what held them.
    mix: PlanMix = field(default_factory=PlanMix)  # Of the kept plans.
    # On all answers, of kept and of removed rows.
    spent: Spending = field(default_factory=Spending)

    def keep(self, sample: Sample, label: Label, part: Part, origin: Mapping[str, Any]) -> None:
        """Counts a row that is kept in one of the files."""
        self.parts[part] += 1
        self.users[part].add(sample.id)
        self.mix.add(label.plan, self.library)
        self.repaired += bool(origin.get("repaired"))
        self.faulty_first += bool(origin.get("repaired"))

    def remove(self, removal: Removal, origin: Mapping[str, Any]) -> None:
        """Counts a row that is removed."""
        self.removed[removal.tier, removal.code] += 1
        self.last_removal = removal
        self.faulty_first += removal.tier in FILTER_TIERS or bool(origin.get("repaired"))

    def check_kept(self, removed: Path) -> None:
        """Raises NothingKept where no row was kept; the file ``removed`` says why of each."""
        if not self.kept:
            last = self.last_removal
            why = f" The last: {last.code}, {'; '.join(last.messages)}." if last else ""
            raise NothingKept(f"No row was kept; {removed} says why of each.{why}")

    @property
    def kept(self) -> int:
        """Rows in all files."""
        return self.parts.total()

    def codes(self, tier: RemovalTier) -> dict[str, int]:
        """Rows removed by a tier, by code."""
        return {code: n for (name, code), n in sorted(self.removed.items()) if name == tier}

    def tier(self, name: RemovalTier) -> int:
        """Rows removed by a tier."""
        return sum(self.codes(name).values())

    @property
    def filtered(self) -> float:
        """The share of the answers that the three tiers of the filter removed."""
        return _share(sum(self.tier(name) for name in FILTER_TIERS), self._answered)

    @property
    def filtered_first(self) -> float:
        """The share of the first answers, before repair, that the filter would have removed."""
        return _share(self.faulty_first, self._answered)

    @property
    def _answered(self) -> int:
        return self.kept + self.removed.total() - self.tier("answer")

    def to_dict(self, other: PlanMix | None = None) -> dict[str, Any]:
        """Everything for JSON, without settings; the kept plans beside ``other`` where given."""
        removed = self.removed.total()
        asked = self.kept + removed
        parts: tuple[Part, ...] = ("train", "test")
        return {
            "rows": {
                "read": asked + self.skipped,
                "kept": self.kept,
                "removed": removed,
                "skipped": self.skipped,
            },
            "kept": {
                **{p: {"rows": self.parts[p], "users": len(self.users[p])} for p in parts},
                "repaired": self.repaired,
            },
            "removed": {
                "share": _share(removed, asked),
                "share_by_filter": self.filtered,
                "share_by_filter_of_first_answers": self.filtered_first,
                "by_tier": {
                    name: {
                        "rows": self.tier(name),
                        "share": _share(self.tier(name), asked),
                        "codes": self.codes(name),
                    }
                    for name in TIERS
                },
            },
            "plans": {
                **self.mix.to_dict(self.library),
                "suggested_target_blocks": self.mix.suggested_target_blocks(),
            },
            **({"compared": self.mix.compare(other, self.library)} if other else {}),
            "first_answers_held_by": dict(sorted(self.structured.items())),
            "models_reported": dict(sorted(self.spent.models.items())),
            "spent": self.spent.to_dict(),
        }


def removal_table(report: FactoryReport) -> Table:
    """A line for each tier and code by which rows were removed, and the rows kept."""
    asked = report.kept + report.removed.total()
    rows: list[tuple[str, ...] | None] = []
    for tier in TIERS:
        codes = report.codes(tier).items()
        rows += [(tier, code, f"{count:,}", f"{count / asked:.1%}") for code, count in codes]
        rows += [None] if codes else []
    rows.append(("kept", "", f"{report.kept:,}", f"{report.kept / asked:.1%}" if asked else ""))
    return TextTable(("tier", "code", "rows", "share"), rows, words=2).rich()


def mix_table(report: FactoryReport, other: PlanMix | None) -> Table:
    """Plan lengths, tools and tags as shares, beside those of another set where there is one."""
    mixes = {"kept": report.mix} | ({"compared with": other} if other else {})
    rows: list[tuple[str, ...] | None] = []
    for kind in ("lengths", "tools", "tags"):
        columns = [
            shares({str(k): n for k, n in getattr(mix, kind).items()}) for mix in mixes.values()
        ]
        names = sorted({name for column in columns for name in column})
        if kind == "tools":
            names = [name for name in report.library.tools if name in names]
        for name in names:
            label = f"plans of {name}" if kind == "lengths" else name
            rows.append((label, *(f"{column.get(name, 0):.1%}" for column in columns)))
        rows.append(None)
    return TextTable(("", *mixes), rows).rich()


def _share(part: int, whole: int) -> float:
    return round(part / whole, 4) if whole else 0.0
