"""What a results directory of `gplan baseline` holds, read whole and checked before use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import pydantic

from gplan_jax.baselines.floors.registry import ALL_FLOORS
from gplan_jax.evaluation.comparison.layout import (
    ARMS,
    COMPARISON,
    CURVES,
    PREDICTIONS,
    SUMMARY,
    TRIALS_FILE,
)
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import read_json, read_jsonl

Group = Literal["trained", "added", "floor"]
MEND = "run the same gplan baseline command again: it goes on where it stopped"


class _Part(pydantic.BaseModel):
    """A part of a file; keys that the report doesn't need may stand beside it."""

    model_config = pydantic.ConfigDict(frozen=True, extra="ignore")


class Data(_Part):
    """The rows that were compared on."""

    file: str
    rows: int
    ids: int
    sha256: str


class About(_Part):
    """comparison.json: what was compared and how."""

    data: Data
    mode: str
    folds: int
    seeds: int
    trials: int
    arms: list[str] = pydantic.Field(min_length=1)
    titles: dict[str, str]
    library: str
    hardware: Any = None
    version: str = ""
    command: str = ""
    train_data: Data | None = None
    unfinished: list[str] = pydantic.Field(default_factory=list)
    rows_without_plan: int = 0
    rows_not_learnt: int = 0


class Means(_Part):
    """One arm's mean of one measure, its interval over rows and its spread over seeds."""

    mean: float
    low: float
    high: float
    seed_sd: float | None = None
    seed_low: float | None = None
    seed_high: float | None = None


class Difference(_Part):
    """One comparison: ``first`` minus ``second``."""

    first: str
    second: str
    measure: str
    difference: float
    low: float
    high: float
    p: float
    p_holm: float
    holds: bool
    method: str
    clusters: int | None = None
    detectable: float | None = None


class Summary(_Part):
    """summary.json: means, intervals and comparisons."""

    arms: dict[str, dict[str, Means]]
    comparisons: list[Difference]
    method: str = ""
    reference: str | None = None


class RowFacts(_Part):
    """What slices are made by."""

    order_type: str
    hour: int = pydantic.Field(ge=0, le=23)
    order_distance: str


class Texts(_Part):
    """An arm's plan texts for one row, one a seed."""

    constrained: list[str] = pydantic.Field(min_length=1)
    free: list[str] = pydantic.Field(default_factory=list)


class Row(_Part):
    """One line of predictions.jsonl."""

    row: int
    id: str
    label: str
    fold: int | None = None
    facts: RowFacts
    arms: dict[str, Texts]


class CurvePoint(_Part):
    """Losses of one fit after one epoch."""

    fold: int
    seed: int
    epoch: int
    loss: float | None = None
    validation_loss: float | None = None


class Trial(_Part):
    """One setting that was tried in one fold."""

    overrides: dict[str, Any] = pydantic.Field(default_factory=dict)
    acc1: float | None = None
    nes: float | None = None
    validation_loss: float | None = None
    seconds: float | None = None


class Trials(_Part):
    """trials.json of one arm and fold."""

    trials: list[Trial] = pydantic.Field(min_length=1)
    chosen: int = pydantic.Field(ge=0)


class Fit(_Part):
    """What the report needs of a seed_S.json: the size of the model and what it cost."""

    parameters: int | None = None
    seconds: float | None = None


@dataclass(frozen=True)
class Results:
    """A results directory: R rows, and arms in table order.

    Attributes:
        name: what the run is called on the page.
        about: what was compared and how.
        summary: means, intervals and comparisons.
        rows: [R] label, facts and predictions of each row.
        curves: arm -> points of its learning curves; empty for floors and added arms.
        trials: arm -> its trials, one entry a fold.
        fits: arm -> one entry a fold and seed.
        groups: arm -> trained here, added (predicted elsewhere) or a floor.
    """

    name: str
    about: About
    summary: Summary
    rows: Sequence[Row]
    curves: Mapping[str, Sequence[CurvePoint]]
    trials: Mapping[str, Sequence[Trials]]
    fits: Mapping[str, Sequence[Fit]]
    groups: Mapping[str, Group]

    @property
    def arms(self) -> list[str]:
        """Arm names in table order."""
        return self.about.arms

    def of_group(self, *groups: Group) -> list[str]:
        """The arms of these groups, in table order."""
        return [arm for arm in self.arms if self.groups[arm] in groups]

    def title(self, arm: str) -> str:
        """How an arm is called on the page."""
        return self.about.titles.get(arm, arm.replace("_", " "))


def read_results(folder: str | Path, name: str = "") -> Results:
    """Reads a results directory.

    Raises:
        GplanError: a file is missing, unfinished or of another form, or one file has arms or rows
            that another one lacks; the message names the file and the mend.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise GplanError(f"{folder} is no directory; name the --out of a gplan baseline run.")
    about = _read(About, folder / COMPARISON, mend="name the --out of a gplan baseline run")
    summary = _read(Summary, folder / SUMMARY)
    for arm in about.arms:
        if arm not in summary.arms:
            raise GplanError(f"{folder / SUMMARY} lacks the arm {arm}; {MEND}.")
    rows = _read_rows(folder / PREDICTIONS, about)
    curves: dict[str, list[CurvePoint]] = {}
    if (folder / CURVES).exists():
        curves = {
            arm: [_parse(CurvePoint, point, folder / CURVES) for point in points]
            for arm, points in read_json(folder / CURVES).items()
        }
    fits = {arm: _read_all(Fit, folder, arm, "fold_*/seed_*.json") for arm in about.arms}
    trials = {arm: _read_all(Trials, folder, arm, f"fold_*/{TRIALS_FILE}") for arm in about.arms}
    return Results(
        name=name or folder.resolve().name,
        about=about,
        summary=summary,
        rows=rows,
        curves={arm: curves.get(arm, []) for arm in about.arms},
        trials=trials,
        fits=fits,
        groups={arm: _group(folder, arm) for arm in about.arms},
    )


def _group(folder: Path, arm: str) -> Group:
    """Which of the three an arm is; ``gplan baseline`` keeps no fold of arms that were added."""
    if arm in ALL_FLOORS:
        return "floor"
    return "trained" if (folder / ARMS / arm).is_dir() else "added"


def _read_rows(path: Path, about: About) -> list[Row]:
    _must_exist(path)
    rows: list[Row] = []
    seeds: dict[str, tuple[int, int]] = {}
    for number, value in enumerate(read_jsonl(path), start=1):
        row = _parse(Row, value, f"{path}, line {number}")
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


P = TypeVar("P", bound=_Part)


def _read_all(kind: type[P], folder: Path, arm: str, pattern: str) -> list[P]:
    """Every such file of an arm, by fold and seed."""
    paths = sorted((folder / ARMS / arm).glob(pattern), key=lambda path: (len(str(path)), path))
    return [_read(kind, path) for path in paths]


def _read(kind: type[P], path: Path, mend: str = MEND) -> P:
    _must_exist(path, mend)
    return _parse(kind, read_json(path), path)


def _must_exist(path: Path, mend: str = MEND) -> None:
    if not path.is_file():
        raise GplanError(f"{path} does not exist; {mend}.")


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
