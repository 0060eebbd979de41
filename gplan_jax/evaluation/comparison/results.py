"""A results directory of `gplan baseline`: where its files lie, what they hold, and how it is read.

The comparison writes what the report reads, so each file has one model. Keys that a model does not
know may stand beside those it knows; what an earlier release left out has a default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic

from gplan_jax.evaluation.significance.arm_summary import ArmSummary, ResultPart
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import read_json, read_jsonl

COMPARISON, PREDICTIONS = "comparison.json", "predictions.jsonl"
CURVES, SUMMARY = "curves.json", "summary.json"
TABLE, MARKDOWN = "table.txt", "table.md"
ARMS, TRIALS_FILE = "arms", "trials.json"
MEND = "run the same gplan baseline command again: it goes on where it stopped"

Group = Literal["trained", "added", "floor"]


class ComparedFile(ResultPart):
    """A file of rows, as far as they take part."""

    file: str
    rows: int
    ids: int
    sha256: str


class ArmCost(ResultPart):
    """What an arm's fits cost: the largest model's numbers, the median fit's seconds."""

    parameters: int | None = None
    seconds: float | None = None


class FailedFit(ResultPart):
    """A fit that ended in an error, or whose process did; trials count as those of seed 0."""

    arm: str
    fold: int
    seed: int
    reason: str


class ComparisonAbout(ResultPart):
    """comparison.json: what was compared and how."""

    data: ComparedFile  # the rows that are scored
    train_data: ComparedFile | None = None  # those learnt from where that is another file
    mode: str
    folds: int
    seeds: int
    trials: int
    # Those of the table in its order, finished or added; ``floors`` and ``added`` are among them,
    # ``unfinished`` are the others.
    arms: list[str]
    titles: dict[str, str]
    library: str
    library_digest: str = ""
    set: dict[str, dict[str, Any]] = pydantic.Field(default_factory=dict)  # arm -> its overrides
    # Arm -> digest of its defaults and trials, by which a fit of another release is told
    declared: dict[str, str] = pydantic.Field(default_factory=dict)
    rows_without_plan: int = 0
    rows_not_learnt: int = 0
    unfinished: list[str] = pydantic.Field(default_factory=list)
    hardware: str = ""
    version: str = ""
    command: str = ""
    floors: list[str] = pydantic.Field(default_factory=list)
    added: list[str] = pydantic.Field(default_factory=list)
    failures: list[FailedFit] = pydantic.Field(default_factory=list)
    costs: dict[str, ArmCost] = pydantic.Field(default_factory=dict)


class ComparisonSummary(ArmSummary):
    """summary.json; ``beside`` holds arm -> means that no test is made for."""

    beside: dict[str, dict[str, float]] = pydantic.Field(default_factory=dict)


class RowFacts(ResultPart):
    """What slices are made by."""

    order_type: str
    hour: int = pydantic.Field(ge=0, le=23)
    order_distance: str


class ArmTexts(ResultPart):
    """An arm's plan texts for one row, one a seed."""

    constrained: list[str] = pydantic.Field(min_length=1)
    free: list[str] = pydantic.Field(default_factory=list)


class PredictedRow(ResultPart):
    """One line of predictions.jsonl; ``row`` is its number in the data file, from 1."""

    row: int
    id: str
    label: str
    fold: int | None = None
    facts: RowFacts
    arms: dict[str, ArmTexts]


class CurvePoint(ResultPart):
    """Losses of one fit after one epoch; curves.json has a list of them for each arm."""

    fold: int
    seed: int
    epoch: int
    loss: float | None = None
    validation_loss: float | None = None


class Trial(ResultPart):
    """One setting that was tried in one fold: figures on the validation rows, best epoch, curve."""

    overrides: dict[str, Any] = pydantic.Field(default_factory=dict)
    acc1: float | None = None
    nes: float | None = None
    epochs: int | None = None
    validation_loss: float | None = None
    seconds: float | None = None
    curve: list[dict[str, Any]] = pydantic.Field(default_factory=list)


class FoldTrials(ResultPart):
    """trials.json of one arm and fold."""

    trials: list[Trial] = pydantic.Field(min_length=1)
    chosen: int = pydantic.Field(ge=0)


class SeedFit(ResultPart):
    """seed_S.json: one fit of the chosen trial, and its plans for the fold's test rows."""

    settings: dict[str, Any] = pydantic.Field(default_factory=dict)
    parameters: int | None = None
    seconds: float | None = None
    curve: list[dict[str, Any]] = pydantic.Field(default_factory=list)
    rows: list[int] = pydantic.Field(default_factory=list)
    constrained: list[str] = pydantic.Field(default_factory=list)
    free: list[str] = pydantic.Field(default_factory=list)


@dataclass(frozen=True)
class ComparisonResults:
    """A results directory: R rows, and arms in table order."""

    name: str  # what the run is called on a page
    about: ComparisonAbout
    summary: ComparisonSummary
    rows: Sequence[PredictedRow]
    curves: Mapping[str, Sequence[CurvePoint]]  # empty for floors and added arms
    trials: Mapping[str, Sequence[FoldTrials]]  # arm -> one entry a fold
    fits: Mapping[str, Sequence[SeedFit]]  # arm -> one entry a fold and seed

    @property
    def arms(self) -> list[str]:
        """Arm names in table order."""
        return self.about.arms

    def group(self, arm: str) -> Group:
        """Whether an arm was trained here, predicted elsewhere, or is a floor."""
        if arm in self.about.floors:
            return "floor"
        return "added" if arm in self.about.added else "trained"

    def of_group(self, *groups: Group) -> list[str]:
        """The arms of these groups, in table order."""
        return [arm for arm in self.arms if self.group(arm) in groups]

    def title(self, arm: str) -> str:
        return self.about.titles.get(arm, arm.replace("_", " "))


def seed_path(out: Path, arm: str, fold: int, seed: int) -> Path:
    """Where the `SeedFit` of a fold and seed lies."""
    return out / ARMS / arm / f"fold_{fold}" / f"seed_{seed}.json"


def trials_path(out: Path, arm: str, fold: int) -> Path:
    """Where the `FoldTrials` of a fold lie."""
    return out / ARMS / arm / f"fold_{fold}" / TRIALS_FILE


P = TypeVar("P", bound=ResultPart)


def read_part(kind: type[P], path: Path, mend: str = MEND) -> P:
    """Reads one JSON file; GplanError names it, the key at fault and the mend."""
    if not path.is_file():
        raise GplanError(f"{path} does not exist; {mend}.")
    return _parse(kind, read_json(path), path)


def _parse(kind: type[P], value: Any, source: str | Path) -> P:
    try:
        return kind.model_validate(value)
    except pydantic.ValidationError as error:
        fault = error.errors()[0]
        where = ".".join(str(part) for part in fault["loc"]) or "the whole of it"
        raise GplanError(
            f"{source} is not what this version writes: {where}: {fault['msg']}; "
            "make it again with gplan baseline."
        ) from None


def read_results(folder: str | Path, name: str = "") -> ComparisonResults:
    """Reads a results directory whole and checks that its files fit one another."""
    folder = Path(folder)
    if not folder.is_dir():
        raise GplanError(f"{folder} is no directory; name the --out of a gplan baseline run.")
    about_path = folder / COMPARISON
    about = read_part(ComparisonAbout, about_path, "name the --out of a gplan baseline run")
    if not about.arms:
        raise GplanError(f"{about_path} names no finished arm; {MEND}.")
    summary = read_part(ComparisonSummary, folder / SUMMARY)
    for arm in about.arms:
        if arm not in summary.arms:
            raise GplanError(f"{folder / SUMMARY} lacks the arm {arm}; {MEND}.")
    curves: dict[str, list[CurvePoint]] = {}
    if (path := folder / CURVES).exists():
        for arm, points in read_json(path).items():
            curves[arm] = [_parse(CurvePoint, point, path) for point in points]

    def files(arm: str, pattern: str) -> list[Path]:
        paths = (folder / ARMS / arm).glob(f"fold_*/{pattern}")
        return sorted(paths, key=lambda path: (len(str(path)), path))  # Fold 2 before fold 10.

    return ComparisonResults(
        name=name or folder.resolve().name,
        about=about,
        summary=summary,
        rows=_read_rows(folder / PREDICTIONS, about),
        curves={arm: curves.get(arm, []) for arm in about.arms},
        trials={a: [read_part(FoldTrials, p) for p in files(a, TRIALS_FILE)] for a in about.arms},
        fits={a: [read_part(SeedFit, p) for p in files(a, "seed_*.json")] for a in about.arms},
    )


def _read_rows(path: Path, about: ComparisonAbout) -> list[PredictedRow]:
    if not path.is_file():
        raise GplanError(f"{path} does not exist; {MEND}.")
    rows: list[PredictedRow] = []
    seeds: dict[str, tuple[int, int]] = {}
    for number, value in enumerate(read_jsonl(path), start=1):
        row = _parse(PredictedRow, value, f"{path}, line {number}")
        for arm in about.arms:
            if arm not in row.arms:
                raise GplanError(f"{path}, line {number}: no prediction of {arm}; {MEND}.")
            texts = row.arms[arm]
            counts = len(texts.constrained), len(texts.free)
            if seeds.setdefault(arm, counts) != counts:
                raise GplanError(
                    f"{path}, line {number}: {arm} has plans of {counts[0]} seeds, free ones of "
                    f"{counts[1]}, but the first line of {seeds[arm][0]} and {seeds[arm][1]}; "
                    f"{MEND}."
                )
        rows.append(row)
    if len(rows) != about.data.rows:
        raise GplanError(
            f"{path} has {len(rows)} lines, but {COMPARISON} counts {about.data.rows} rows; {MEND}."
        )
    return rows
