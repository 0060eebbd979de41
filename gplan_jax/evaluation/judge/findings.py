"""From findings to a score: 3 is the default, and only what can be named moves it.

The paper's five levels (section 5.3): without a failure, 3 and one more for each positive sign, at
most 5; with one failure 2, with several or a systemic one 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from gplan_jax.evaluation.judge.verdict import DEFAULT_SCORE, HIGHEST, LOWEST, AxisScore

GENERIC = "no failure, and nothing that would not suit many other contexts as well"


@dataclass(frozen=True, slots=True)
class Findings:
    """What speaks for and against a plan on one axis, in words.

    Attributes:
        positive: named evidence for it.
        failures: named failures.
        systemic: the failures run through the whole plan.
    """

    positive: Sequence[str] = ()
    failures: Sequence[str] = ()
    systemic: bool = False


def score_of(findings: Findings) -> AxisScore:
    """The score that findings amount to, and the findings that decided it as its reason."""
    if findings.failures:
        several = findings.systemic or len(findings.failures) > 1
        score = LOWEST if several else LOWEST + 1
        return AxisScore(score, "; ".join(findings.failures))
    score = min(HIGHEST, DEFAULT_SCORE + len(findings.positive))
    return AxisScore(score, "; ".join(findings.positive) or GENERIC)
