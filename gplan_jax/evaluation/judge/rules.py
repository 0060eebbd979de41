"""The rule judge: the rubric's three axes by fixed rules over facts. No language model judges here.

It checks properties of a plan (stage order, time fit, place fit, order state), not its likeness to
any plan, so that different good plans do well. What it can't see: taste, tone, anything in the
history beyond ``facts_of``. Its evidence is shared with the rules that explain the simulated
world's plans, so it favours that world's plans; it is a check, no substitute for a judge.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from gplan_jax.evaluation.judge.case import case_of
from gplan_jax.evaluation.judge.findings import score_of
from gplan_jax.evaluation.judge.flow import flow_findings
from gplan_jax.evaluation.judge.logic import logic_findings
from gplan_jax.evaluation.judge.spatiotemporal import spatiotemporal_findings
from gplan_jax.evaluation.judge.verdict import AxisScore, Preference, Verdict
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Plan, Sample, facts_of
from gplan_jax.synthesis.amap.intents import TOOL_WORDS
from gplan_jax.synthesis.amap.situation import situation_of

NAME = "rules"
AXES = ("flow", "logic", "spatiotemporal")
VERSION = 1
CAUTION = (
    "rules is no language model: it checks stage order, time fit, place fit and order state only"
)


def judge_by_rules(sample: Sample, plan: Plan, library: IntentLibrary) -> dict[str, AxisScore]:
    """Axis -> score of a plan in the context of ``sample``, whose label is not looked at.

    Raises:
        GplanError: the context can't be read.
    """
    case = case_of(plan, situation_of(facts_of(sample)), library)
    findings = (flow_findings(case), logic_findings(case, library), spatiotemporal_findings(case))
    return {axis: score_of(found) for axis, found in zip(AXES, findings, strict=True)}


class RuleJudge:
    """The rules as a ``Judge``."""

    name, axes, at_once, caution = NAME, AXES, 1, CAUTION

    def __init__(self, library: IntentLibrary) -> None:
        """Raises GplanError where ``library`` has a tool that the rules know nothing of."""
        if unknown := [tool for tool in library.tools if tool not in TOOL_WORDS]:
            raise GplanError(
                f"The rule judge knows the shipped Amap library; library {library.name} also has "
                f"{', '.join(unknown)}. Judge its plans with a language model (--judge FILE)."
            )
        self._library = library

    @property
    def settings(self) -> Mapping[str, Any]:
        """The version of the rules."""
        return {"judge": NAME, "version": VERSION, "library": self._library.name}

    async def judge(self, sample: Sample, plan: Plan) -> Verdict:
        """Scores the plan; see ``Judge.judge``."""
        return Verdict(judge_by_rules(sample, plan, self._library))

    async def compare(self, sample: Sample, first: Plan, second: Plan) -> Preference:
        """Prefers the plan with the higher sum of scores, whichever comes first."""
        a, b = (
            sum(s.score for s in judge_by_rules(sample, plan, self._library).values())
            for plan in (first, second)
        )
        reason = f"sums of scores: {a} and {b}"
        return Preference("tie" if a == b else "first" if a > b else "second", reason)

    def note(self) -> str:
        """Rules cost nothing."""
        return ""

    async def close(self) -> None:
        """Nothing is held."""
