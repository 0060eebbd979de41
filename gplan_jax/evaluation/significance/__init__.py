"""Which differences between arms hold: intervals and tests over ids, by scipy and statsmodels."""

from gplan_jax.evaluation.significance.metric_study import (
    StudyRow,
    metric_study,
    read_study_rows,
    study_rows,
)
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
    "StudyRow",
    "Summary",
    "detectable_accuracy",
    "detectable_difference",
    "metric_study",
    "read_evaluations",
    "read_run",
    "read_study_rows",
    "score_arm",
    "study_rows",
    "summarize_arms",
]
