"""The arms of a comparison: what each is called, how it is fitted and what is tried for it.

A network's module is imported when the arm is asked for, so that naming arms costs nothing.
"""

from __future__ import annotations

import functools
import pkgutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gplan_jax.baselines.floors.boosting import GradientBoosting, GradientBoostingFirst
from gplan_jax.baselines.floors.counting import (
    ContextTable,
    Floor,
    MajorityFirstIntent,
    PopularityList,
    TriggerTable,
)
from gplan_jax.baselines.floors.neighbours import NearestNeighbours
from gplan_jax.foundation.config import Config
from gplan_jax.gsisr import IntentLibrary, Sample

if TYPE_CHECKING:
    from gplan_jax.baselines.rows.features import InputMode


# fit(samples, library, mode=InputMode.FULL); GplanError where no row has a plan to learn from.
FitFloor = Callable[..., Floor]

# What evaluations of planners show beside them: fitted in no time.
FLOORS: Mapping[str, FitFloor] = {
    "majority_first_intent": MajorityFirstIntent.fit,
    "popularity_list": PopularityList.fit,
    "trigger_table": TriggerTable.fit,
}
ALL_FLOORS: Mapping[str, FitFloor] = {
    **FLOORS,
    "context_table": ContextTable.fit,
    "gradient_boosting_first": GradientBoostingFirst.fit,
    "gradient_boosting": GradientBoosting.fit,
    "nearest_neighbours": NearestNeighbours.fit,
}
# The two tables know nothing but the context, so the history mode refuses them (GplanError).
CONTEXT_FLOORS = frozenset({"trigger_table", "context_table"})


class Predictor(Protocol):
    """A fitted arm."""

    @property
    def parameters(self) -> int:
        """How many numbers were learnt (0 for an arm without weights)."""
        ...

    def predict(self, samples: Sequence[Sample], *, constrained: bool) -> list[str]:
        """A plan text for each row, whose ``raw_labels`` it never looks at.

        Constrained plans obey every rule of the library; free ones may break some.
        """
        ...


@dataclass(frozen=True)
class Fitted:
    """What a fit gives."""

    predictor: Predictor
    # {"epoch", "loss", "validation_loss" (None without validation rows), ...} an epoch; empty where
    # nothing is learnt epoch by epoch.
    curve: list[dict[str, Any]]

    @property
    def best(self) -> dict[str, Any] | None:
        """The point of the curve with the lowest validation loss; None without such losses."""
        judged = [point for point in self.curve if point["validation_loss"] is not None]
        return min(judged, key=lambda point: point["validation_loss"], default=None)


# fit(train, validation, settings, mode, library, seed)
Fit = Callable[[Sequence[Sample], Sequence[Sample], Any, "InputMode", IntentLibrary, int], Fitted]


@dataclass(frozen=True)
class Arm:
    """One competitor."""

    name: str  # short, for options and files
    title: str  # for tables
    settings: type[Config]  # all with defaults
    trials: tuple[dict[str, Any], ...]  # what is tried, overrides of the defaults; trials[0] is {}
    fit: Fit
    # Whether the validation rows say after how many epochs (``settings.epochs``) to stop. If not,
    # and with one trial, they choose nothing.
    stops_early: bool = True
    constrains: bool = True  # if not, the plans of the free predictions count as constrained
    floor: bool = False  # what the others have to beat: nothing to try, no seed


# Where each is defined, as ``pkgutil.resolve_name`` reads it.
NETWORKS: Mapping[str, str] = {
    "sasrec": "gplan_jax.baselines.sequential.arm:SASREC",
    "bert4rec": "gplan_jax.baselines.sequential.arm:BERT4REC",
    "rearec_erl": "gplan_jax.baselines.sequential.arm:REAREC_ERL",
    "rearec_prl": "gplan_jax.baselines.sequential.arm:REAREC_PRL",
    "p5": "gplan_jax.baselines.p5.arm:P5",
    "tiger": "gplan_jax.baselines.tiger.arm:TIGER",
    "tiger_rq": "gplan_jax.baselines.tiger.arm:TIGER_RQ",
}


class Arms(Mapping[str, Arm]):
    """Name -> arm; those given by their place are imported when they are looked up.

    It travels to another process as names, so that the imports happen there.
    """

    def __init__(self, entries: Mapping[str, Arm | str]) -> None:
        self.entries = dict(entries)

    def __getitem__(self, name: str) -> Arm:
        entry = self.entries[name]
        return pkgutil.resolve_name(entry) if isinstance(entry, str) else entry

    def __iter__(self) -> Iterator[str]:
        return iter(self.entries)

    def __len__(self) -> int:
        return len(self.entries)


class NoSettings(Config):
    """Of an arm that has none."""


def floor_arm(name: str) -> Arm:
    """A floor as an arm: no settings, one trial, one seed."""
    return Arm(
        name=name,
        title=name.replace("_", " ").capitalize(),
        settings=NoSettings,
        trials=({},),
        fit=functools.partial(_fit_floor, name),  # Pickled on its way to another process.
        stops_early=False,
        constrains=False,
        floor=True,
    )


def _fit_floor(
    name: str,
    train: Sequence[Sample],
    validation: Sequence[Sample],
    settings: NoSettings,
    mode: InputMode,
    library: IntentLibrary,
    seed: int,
) -> Fitted:
    return Fitted(ALL_FLOORS[name](train, library, mode), [])


ARMS = Arms({**NETWORKS, **{name: floor_arm(name) for name in ALL_FLOORS}})
