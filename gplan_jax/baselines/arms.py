"""The arms of a comparison: what each is called, how it is fitted and what is tried for it.

An arm's module is imported when the arm is asked for, so that naming arms costs nothing.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from gplan_jax.foundation.config import Config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample

if TYPE_CHECKING:
    from gplan_jax.baselines.features import InputMode

TRIALS = 4


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
    """What a fit gives: the predictor, its learning curve, and the best validation loss.

    ``curve`` holds {"epoch", "loss", "validation_loss", ...} an epoch; it is empty, and the
    validation loss None, where nothing is learnt epoch by epoch.
    """

    predictor: Predictor
    curve: list[dict[str, Any]]
    validation_loss: float | None


# fit(train, validation, settings, mode, library, seed)
Fit = Callable[
    [Sequence[Sample], Sequence[Sample], Any, "InputMode", IntentLibrary, int],
    Fitted,
]


@dataclass(frozen=True)
class Arm:
    """One competitor.

    Attributes:
        name: short, for options and files.
        title: for tables.
        settings: its settings, all with defaults.
        trials: the declared search space, overrides of the defaults; trials[0] is {}.
        fit: (train, validation, settings, mode, library, seed) -> Fitted.
        seeded: whether another seed can give another result.
        constrains: whether constrained and free predictions differ.
        floor: whether it stands below the rule of a table, as what the others have to beat.
    """

    name: str
    title: str
    settings: type[Config]
    trials: tuple[dict[str, Any], ...]
    fit: Fit
    seeded: bool = True
    constrains: bool = True
    floor: bool = False


@dataclass(frozen=True)
class Place:
    """Where an arm is defined: ``module`` exposes it as ``attribute``."""

    module: str
    attribute: str


NETWORKS: Mapping[str, Place] = {
    "sasrec": Place("gplan_jax.baselines.sequential.arm", "SASREC"),
    "bert4rec": Place("gplan_jax.baselines.sequential.arm", "BERT4REC"),
    "rearec_erl": Place("gplan_jax.baselines.sequential.arm", "REAREC_ERL"),
    "rearec_prl": Place("gplan_jax.baselines.sequential.arm", "REAREC_PRL"),
    "p5": Place("gplan_jax.baselines.p5.arm", "P5"),
    "tiger": Place("gplan_jax.baselines.tiger.arm", "TIGER"),
    "tiger_rq": Place("gplan_jax.baselines.tiger.arm", "TIGER_RQ"),
}


class Arms(Mapping[str, Arm]):
    """Name -> arm, each imported when it is looked up."""

    def __init__(self, places: Mapping[str, Place]) -> None:
        self._places = places

    def __getitem__(self, name: str) -> Arm:
        place = self._places[name]
        return getattr(importlib.import_module(place.module), place.attribute)

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


ARMS: Mapping[str, Arm] = Arms(NETWORKS)


def check_arm(arm: Arm) -> None:
    """GplanError where an arm's declaration would make a comparison unfair or fail late."""
    if not arm.trials or arm.trials[0]:
        raise GplanError(f"Arm {arm.name}: trials[0] must be {{}}, the defaults.")
    if arm.seeded and not arm.floor and len(arm.trials) != TRIALS:
        raise GplanError(f"Arm {arm.name} declares {len(arm.trials)} trials; all have {TRIALS}.")
    for trial in arm.trials:
        arm.settings.model_validate(trial)
