"""The rules: a plan for every context, and why each of its intents follows from the facts.

The blocks follow the paper's "Chain of Thought Structure" (section 4.1.1).
"""

from __future__ import annotations

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Plan, Sample, canonical_plan, facts_of
from gplan_jax.reasoning import ReasoningTrace, write_trace
from gplan_jax.synthesis.amap.evidence import links_to, reasons_for
from gplan_jax.synthesis.amap.intents import TOOL_WORDS, intent_words, need_words, rebases
from gplan_jax.synthesis.amap.planning import plan_for
from gplan_jax.synthesis.amap.situation import Situation, situation_of
from gplan_jax.synthesis.amap.taste import taste_of
from gplan_jax.synthesis.teachers.protocol import Answer

MOST_REASONS = 2
HABITUAL = "惯常补充，兜底推荐"
BY_HABIT = "按惯常"
REBASED = "围绕订单地安排"


class Rules:
    """Plans with the Amap library and explains its plans by rules over ``facts_of``.

    The same input gives the same answer. Plans are those of the simulated world (``plan_for``).

    CONTEXT holds facts of the row alone. STRATEGY names the facts behind the first intent and the
    needs in the plan's order. STEP_i says the i-th intent in words and up to two facts that
    support it; where none does, it says that the intent is a habitual addition.
    """

    def __init__(self, library: IntentLibrary) -> None:
        """Raises GplanError where ``library`` has a tool that the rules know nothing of."""
        if unknown := [tool for tool in library.tools if tool not in TOOL_WORDS]:
            raise GplanError(
                f"The rules explain the shipped Amap library; library {library.name} also has "
                f"{', '.join(unknown)}. Give its rows reasoning of their own."
            )
        self._library = library

    def label(self, sample: Sample) -> str:
        """The rules' plan for the context of ``sample``, after its reasoning: a raw label.

        Raises:
            GplanError: the context can't be read.
        """
        situation = situation_of(facts_of(sample))
        plan = plan_for(situation, taste_of(sample))
        return write_trace(_trace(plan, situation)) + canonical_plan(plan, self._library)

    def trace(self, sample: Sample, plan: Plan) -> ReasoningTrace:
        """The trace of ``plan`` in the context of ``sample``; GplanError where it has no intent."""
        if not plan:
            raise GplanError(f"Row {sample.id} has an empty plan; there is nothing to explain.")
        return _trace(plan, situation_of(facts_of(sample)))


class RuleTeacher:
    """The rules as a ``Teacher``."""

    name = "rules"
    at_once = 1

    def __init__(self, library: IntentLibrary) -> None:
        """Raises GplanError where ``library`` has a tool that the rules know nothing of."""
        self._rules = Rules(library)

    async def answer(self, sample: Sample) -> Answer:
        """The rules' plan for the context of ``sample``; see ``Teacher.answer``."""
        return Answer(self._rules.label(sample))

    async def explain(self, sample: Sample, plan: Plan) -> ReasoningTrace:
        """The trace of ``plan`` in the context of ``sample``; see ``Teacher.explain``."""
        return self._rules.trace(sample, plan)

    async def close(self) -> None:
        """Nothing is held."""


def _trace(plan: Plan, situation: Situation) -> ReasoningTrace:
    steps = [(f"STEP_{i + 1}", _step(plan, i, situation)) for i in range(len(plan))]
    context, strategy = _context(situation), _strategy(plan, situation)
    return ReasoningTrace((("CONTEXT", context), ("STRATEGY", strategy), *steps))


def _context(situation: Situation) -> str:
    return "，".join(situation.phrases()) + "。"


def _strategy(plan: Plan, situation: Situation) -> str:
    reasons = "，".join(reasons_for(plan[0], situation)[:MOST_REASONS]) or BY_HABIT
    first, *others = dict.fromkeys(need_words(intent) for intent in plan)
    order = f"先{first}" + (f"，再{'、'.join(others)}" if others else "")
    return f"{reasons}：{order}" + (f"，{REBASED}。" if rebases(plan) else "。")


def _step(plan: Plan, index: int, situation: Situation) -> str:
    link = links_to(plan[index], plan[:index])
    reasons = [*([link] if link else []), *reasons_for(plan[index], situation)]
    supported = "，".join(reasons[:MOST_REASONS]) or HABITUAL
    return f"{intent_words(plan[index])}：{supported}。"
