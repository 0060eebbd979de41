"""What an expert may change of a candidate: its plan and its reasoning; and what is wrong there."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Plan, canonical_plan, check_plan, parse_plan
from gplan_jax.reasoning import (
    GSISR_LATENTS,
    ReasoningTrace,
    parse_trace,
    split_response,
    write_trace,
)
from gplan_jax.reasoning.traces import check_plain
from gplan_jax.synthesis.rules.service_rules import shipped_rules

CONTEXT_BLOCKS = GSISR_LATENTS.context_blocks
PLAN = "plan"
_LINE_BREAKS = re.compile(r"\s*[\r\n]\s*")
_INTENT = re.compile(r"Intent (\d+)\b")
ARROW = " → "


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan and its reasoning, right or not yet."""

    plan: Plan  # The intents, keys in the library's order.
    # Block name -> text, those without a text left out; it may have more or fewer steps than the
    # plan has intents.
    reasoning: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, plan: Plan, reasoning: Mapping[str, str], library: IntentLibrary) -> Draft:
        """A draft with keys in canonical order, and texts on one line without outer spaces."""
        texts = {name: _LINE_BREAKS.sub(" ", text.strip()) for name, text in reasoning.items()}
        intents = [library.canonical_intent(intent) for intent in plan]
        return cls(intents, {name: text for name, text in texts.items() if text})

    @classmethod
    def of_label(cls, label: str, library: IntentLibrary) -> Draft:
        """Reads a raw label tolerantly: the plan that was meant, and reasoning if it is whole."""
        plan = parse_plan(label, library)
        if not plan:
            raise GplanError("it holds no plan")
        try:
            thought, _ = split_response(label)
            trace = parse_trace(thought) if thought else None
        except GplanError:
            trace = None
        return cls.make(plan, dict(trace.blocks) if trace else {}, library)

    def label(self, library: IntentLibrary) -> str:
        """The raw label; GplanError where ``faults_of`` finds any in the reasoning."""
        names = block_names(len(self.plan))
        trace = ReasoningTrace(tuple((name, self.reasoning.get(name, "")) for name in names))
        return write_trace(trace) + canonical_plan(self.plan, library)


@dataclass(frozen=True, slots=True)
class DraftFault:
    """Why a draft is no seed yet."""

    column: str  # "plan", or the block of the reasoning.
    step: int | None  # The intent or STEP it is about, from 1; None where it is about the whole.
    tier: str  # The filter's tier, or "reasoning".
    code: str  # code, message: as a ``Violation`` has them.
    message: str


def block_names(steps: int) -> list[str]:
    """The blocks of a trace with so many steps."""
    return [*CONTEXT_BLOCKS, *(f"STEP_{i}" for i in range(1, steps + 1))]


def faults_of(draft: Draft, library: IntentLibrary) -> list[DraftFault]:
    """Everything wrong with a draft: the filter's three tiers, then its reasoning; [] for none."""
    faults = []
    for found in check_plan(canonical_plan(draft.plan, library), library):
        # The filter's message begins with the intent that it is about, where it is about one.
        intent = _INTENT.match(found.message)
        step = int(intent[1]) if intent else None
        faults.append(DraftFault(PLAN, step, found.tier, found.code, found.message))
    names = block_names(len(draft.plan))
    for name in (*names, *(name for name in draft.reasoning if name not in names)):
        step = int(name.removeprefix("STEP_")) if name.startswith("STEP_") else None
        text = draft.reasoning.get(name, "")
        if name not in names:
            message = f"{name} has no intent: the plan has {len(draft.plan)}"
            faults.append(DraftFault(name, step, "reasoning", "step_without_intent", message))
        elif not text:
            message = f"{name} is empty; say why"
            faults.append(DraftFault(name, step, "reasoning", "empty_text", message))
        try:
            check_plain(text, name)
        except GplanError as error:
            message = str(error).rstrip(".")
            faults.append(DraftFault(name, step, "reasoning", "markup", message))
    return faults


def plan_words(plan: Plan, library: IntentLibrary) -> str:
    """A plan in words, for example 打车到订单地 → 订单提醒; a broken one as far as it goes."""
    texts = []
    for intent in plan:
        name = intent.get(library.tool_key, "?")
        tool = library.tools.get(name)
        if tool and library.rows is None and all(key in intent for key in tool.parameters):
            texts.append(shipped_rules("amap").words_of(dict(intent)))
        else:
            values = [value for key, value in intent.items() if key != library.tool_key]
            texts.append(" ".join([(tool.meaning if tool else "") or name, *values]))
    return ARROW.join(texts)
