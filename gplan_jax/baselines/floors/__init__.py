"""Floors: predictors so simple that a planner which does not beat them has learnt nothing.

A floor is fitted on labelled training rows and then answers with a plan text. Ties go to the
intent or plan whose text or number comes first, so that the order of the rows does not matter.
"""

from gplan_jax.baselines.floors.base import BatchFloor, Floor, predict_rows
from gplan_jax.baselines.floors.boosting import GradientBoosting, GradientBoostingFirst
from gplan_jax.baselines.floors.context_table import ContextTable
from gplan_jax.baselines.floors.neighbours import NearestNeighbours
from gplan_jax.baselines.floors.registry import ALL_FLOORS, CONTEXT_FLOORS, FLOORS, FitFloor
from gplan_jax.baselines.floors.simple import MajorityFirstIntent, PopularityList, TriggerTable

__all__ = [
    "ALL_FLOORS",
    "CONTEXT_FLOORS",
    "FLOORS",
    "BatchFloor",
    "ContextTable",
    "FitFloor",
    "Floor",
    "GradientBoosting",
    "GradientBoostingFirst",
    "MajorityFirstIntent",
    "NearestNeighbours",
    "PopularityList",
    "TriggerTable",
    "predict_rows",
]
