"""The floors by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gplan_jax.baselines.floors.boosting import GradientBoosting, GradientBoostingFirst
from gplan_jax.baselines.floors.counting import (
    ContextTable,
    Floor,
    MajorityFirstIntent,
    PopularityList,
    TriggerTable,
)
from gplan_jax.baselines.floors.neighbours import NearestNeighbours

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
