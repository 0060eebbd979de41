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

MOST_REASONS = 2
HABITUAL = "惯常补充，兜底推荐"
BY_HABIT = "按惯常"
REBASED = "围绕订单地安排"


class Rules:
    """Plans with the Amap library and explains its plans by rules over ``facts_of``."""

    def __init__(self, library: IntentLibrary) -> None:
        """Raises GplanError where ``library`` has a tool that the rules know nothing of."""
        if unknown := [tool for tool in library.tools if tool not in TOOL_WORDS]:
            raise GplanError(
                f"The rules explain the shipped Amap library; library {library.name} also has "
                f"{', '.join(unknown)}. Give its rows reasoning of their own."
            )
        self._library = library

    def label(self, sample: Sample) -> str:
        """A raw label: reasoning and plan. GplanError where the context can't be read."""
        situation = situation_of(facts_of(sample))
        plan = plan_for(situation, taste_of(sample))
        return write_trace(_trace(plan, situation)) + canonical_plan(plan, self._library)

    def trace(self, sample: Sample, plan: Plan) -> ReasoningTrace:
        """The trace of ``plan`` in the context of ``sample``; GplanError where it has no intent."""
        if not plan:
            raise GplanError(f"Row {sample.id} has an empty plan; there is nothing to explain.")
        return _trace(plan, situation_of(facts_of(sample)))


def _trace(plan: Plan, situation: Situation) -> ReasoningTrace:
    # CONTEXT: facts of the row alone.
    context = "，".join(situation.phrases()) + "。"
    # STRATEGY: the facts behind the first intent, then the needs in the plan's order.
    reasons = "，".join(reasons_for(plan[0], situation)[:MOST_REASONS]) or BY_HABIT
    first, *others = dict.fromkeys(need_words(intent) for intent in plan)
    strategy = f"{reasons}：先{first}" + (f"，再{'、'.join(others)}" if others else "")
    strategy += f"，{REBASED}。" if rebases(plan) else "。"
    blocks = [("CONTEXT", context), ("STRATEGY", strategy)]
    # STEP_i: the i-th intent in words and up to two facts that support it; where none does, it
    # says that the intent is a habitual addition.
    for i, intent in enumerate(plan):
        link = links_to(intent, plan[:i])
        found = [*([link] if link else []), *reasons_for(intent, situation)]
        supported = "，".join(found[:MOST_REASONS]) or HABITUAL
        blocks.append((f"STEP_{i + 1}", f"{intent_words(intent)}：{supported}。"))
    return ReasoningTrace(tuple(blocks))
