"""The floors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from gplan_jax.baselines.floors.base import Floor
from gplan_jax.baselines.floors.boosting import GradientBoosting, GradientBoostingFirst
from gplan_jax.baselines.floors.context_table import ContextTable, refuse_history
from gplan_jax.baselines.floors.neighbours import NearestNeighbours
from gplan_jax.baselines.floors.simple import MajorityFirstIntent, PopularityList, TriggerTable
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.gsisr import IntentLibrary, Sample

FitFloor = Callable[[Sequence[Sample], IntentLibrary, InputMode], Floor]

# What evaluations of planners show beside them: fitted in no time.
FLOORS: Mapping[str, Callable[[Sequence[Sample], IntentLibrary], Floor]] = {
    "majority_first_intent": MajorityFirstIntent.fit,
    "popularity_list": PopularityList.fit,
    "trigger_table": TriggerTable.fit,
}


def _majority(samples: Sequence[Sample], library: IntentLibrary, mode: InputMode) -> Floor:
    return MajorityFirstIntent.fit(samples, library)


def _popularity(samples: Sequence[Sample], library: IntentLibrary, mode: InputMode) -> Floor:
    return PopularityList.fit(samples, library)


def _trigger(samples: Sequence[Sample], library: IntentLibrary, mode: InputMode) -> Floor:
    refuse_history("trigger_table", mode)
    return TriggerTable.fit(samples, library)


# The two tables know nothing but the context, so the history mode refuses them (GplanError).
CONTEXT_FLOORS = frozenset({"trigger_table", "context_table"})

ALL_FLOORS: Mapping[str, FitFloor] = {
    "majority_first_intent": _majority,
    "popularity_list": _popularity,
    "trigger_table": _trigger,
    "context_table": ContextTable.fit,
    "gradient_boosting_first": GradientBoostingFirst.fit,
    "gradient_boosting": GradientBoosting.fit,
    "nearest_neighbours": NearestNeighbours.fit,
}
