"""What a judge says about a plan, and what a judge is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol

from gplan_jax.gsisr import Plan, Sample

DEFAULT_SCORE = 3
LOWEST, HIGHEST = 1, 5
Choice = Literal["first", "second", "tie"]


@dataclass(frozen=True, slots=True)
class AxisScore:
    """The score of one axis, 1 to 5, and the reason given for it."""

    score: int
    reason: str


@dataclass(frozen=True, slots=True)
class Judgement:
    """What one judge says about one plan."""

    scores: Mapping[str, AxisScore]  # by axis; empty where the plan is unscored
    unscored: str | None = None  # why there is no score, which is never turned into a 3
    # Where it comes from (request key, the model that the server reports); empty for rules.
    # Nothing in it depends on what went wrong on the way.
    origin: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Preference:
    """Which of two plans, shown in this order, one judge prefers; None where it can't be told."""

    choice: Choice | None
    reason: str
    origin: Mapping[str, Any] = field(default_factory=dict)


class Judge(Protocol):
    """Whoever scores plans: rules, or a language model.

    The samples that a judge is given have no label (``raw_labels`` is ""), and of an answer it is
    given the parsed plan alone.
    """

    name: str  # how tables call it
    axes: tuple[str, ...]  # the keys of its rubric's axes, in order
    settings: Mapping[str, Any]  # what its scores depend on, in plain JSON values
    caution: str  # what a reader of its scores must know, "" where nothing

    @property
    def at_once(self) -> int: ...  # how many calls are worth having under way at a time

    async def judge(self, sample: Sample, plan: Plan) -> Judgement:
        """Scores a plan of at least one intent. An answer of no use is an unscored judgement;
        GplanError where the context can't be read or the run can't go on.
        """
        ...

    async def compare(self, sample: Sample, first: Plan, second: Plan) -> Preference:
        """Which of two different plans suits the context better, asked in this order."""
        ...

    def note(self) -> str:
        """A few words for the progress bar: what it has cost so far."""
        ...

    async def close(self) -> None:
        """Lets go of what the judge holds; it may be asked again afterwards."""
        ...


GENERIC = "no failure, and nothing that would not suit many other contexts as well"


@dataclass(frozen=True, slots=True)
class Findings:
    """What speaks for and against a plan on one axis; ``systemic`` ones run through it all."""

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
