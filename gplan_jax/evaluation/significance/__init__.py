"""Which differences between arms hold: intervals and tests over ids, by scipy and statsmodels."""

from gplan_jax.evaluation.significance.power import detectable_accuracy, detectable_difference
from gplan_jax.evaluation.significance.scores import read_evaluations, read_run, score_arm
from gplan_jax.evaluation.significance.summary import (
    ArmScores,
    Comparison,
    Summary,
    summarize_arms,
)

__all__ = [
    "ArmScores",
    "Comparison",
    "Summary",
    "detectable_accuracy",
    "detectable_difference",
    "read_evaluations",
    "read_run",
    "score_arm",
    "summarize_arms",
]
