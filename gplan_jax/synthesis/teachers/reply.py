"""What a language model replies with, its JSON schema, and how strictly the reply is read.

    {"reasoning": {"context": str, "strategy": str, "steps": [str, ...]}, "plan": [intent, ...]}

The reasoning comes first, so that the plan follows from it; there is one step for each intent. A
reply to a request to explain a given plan has no "plan".
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gplan_jax.chat.reading import UnreadableReply, check_shape, object_schema, read_object
from gplan_jax.gsisr import IntentLibrary, Violation, canonical_plan, check_plan
from gplan_jax.reasoning import GSISR_LATENTS, ReasoningTrace, write_trace

REASONING, STEPS, PLAN = "reasoning", "steps", "plan"
# Key of the reasoning -> block of the trace.
BLOCK_OF = {name.lower(): name for name in GSISR_LATENTS.context_blocks}

_LINE_BREAKS = re.compile(r"\s*[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
# Tags, control tokens of chat templates (<|im_end|>, </s>, <｜User｜>), control characters.
_MARKUP = re.compile(r"<[/|｜]?[A-Za-z_][^<>]*>|<\|[^<>]*\|>|[\x00-\x1f\x7f]")
_EXCERPT = 40

Faults = tuple[Violation, ...]


def answer_schema(library: IntentLibrary) -> dict[str, Any]:
    """The JSON schema of a reply with a plan: tools, parameters and values are the library's."""
    steps = {"minItems": library.plan_length.minimum, "maxItems": library.plan_length.maximum}
    intents = []
    for name, tool in library.tools.items():
        properties: dict[str, Any] = {library.tool_key: {"type": "string", "enum": [name]}}
        for key, parameter in library.parameters.items():  # As a plan object orders them.
            if key in (*tool.parameters, *tool.optional):
                listed = {"enum": list(parameter.values)} if parameter.values else {}
                properties[key] = {"type": "string"} | listed
        intents.append(object_schema(properties, [k for k in properties if k not in tool.optional]))
    plan = {"type": "array", "items": {"anyOf": intents}, **steps}
    return object_schema({REASONING: _reasoning_schema(steps), PLAN: plan})


def explanation_schema(steps: int) -> dict[str, Any]:
    """The JSON schema of a reply that explains a plan of ``steps`` intents."""
    return object_schema({REASONING: _reasoning_schema({"minItems": steps, "maxItems": steps})})


def _reasoning_schema(steps: dict[str, int]) -> dict[str, Any]:
    texts = {key: {"type": "string"} for key in BLOCK_OF}
    return object_schema({**texts, STEPS: {"type": "array", "items": {"type": "string"}, **steps}})


def read_answer(text: str, finish_reason: str, library: IntentLibrary) -> tuple[str, Faults]:
    """The raw label that a reply holds, and no fault; or the reply as it came, and its faults.

    A reply is one JSON object in the form above, see ``chat.read_object``. ``check_plan`` checks
    the library's rules; where a reply has other faults, broken rules are listed after them, so that
    one repair can mend all.

    Codes, all of the tier "format", beside those of ``chat.read_object``:
        two_plans: also a plan that is a list of plans.
        wrong_shape: also a key that is missing or unknown, a value of the wrong type.
        empty_block: a text of the reasoning says nothing.
        steps_mismatch: not as many steps as intents.
        markup: a tag, control token or control character inside a text or the plan.
    """
    try:
        reply = read_object(text, finish_reason)
        check_shape("the reply", reply, {REASONING: dict, PLAN: list})
        plan = reply[PLAN]
        if len(plan) > 1 and all(isinstance(intent, list) for intent in plan):
            raise UnreadableReply("plan is a list of plans; one plan is asked for", "two_plans")
        if not all(isinstance(intent, dict) for intent in plan):
            raise UnreadableReply("Each intent of plan must be an object")
        blocks = _blocks(reply[REASONING])
    except UnreadableReply as error:
        return text, (Violation("format", error.code, str(error)),)
    plan_text = canonical_plan(plan, library)
    faults = [*_block_faults(blocks, len(plan)), *_markup_faults("The plan", plan_text)]
    if faults or not plan:
        return text, (*faults, *check_plan(plan_text, library))
    return write_trace(ReasoningTrace(blocks)) + plan_text, ()


def read_explanation(
    text: str, finish_reason: str, steps: int
) -> tuple[ReasoningTrace | None, Faults]:
    """The trace of a plan of ``steps`` intents that a reply holds, or None and the faults."""
    try:
        reply = read_object(text, finish_reason)
        check_shape("the reply", reply, {REASONING: dict})
        blocks = _blocks(reply[REASONING])
    except UnreadableReply as error:
        return None, (Violation("format", error.code, str(error)),)
    faults = tuple(_block_faults(blocks, steps))
    return (None, faults) if faults else (ReasoningTrace(blocks), ())


def write_reply(trace: ReasoningTrace, plan: Sequence[Mapping[str, Any]] | None) -> str:
    """The reply that ``read_answer`` reads as this trace and plan, for examples in a prompt."""
    context = [(name, text) for name, text in trace.blocks if not name.startswith("STEP_")]
    steps = [text for name, text in trace.blocks if name.startswith("STEP_")]
    reply: dict[str, Any] = {REASONING: {n.lower(): text for n, text in context} | {STEPS: steps}}
    if plan is not None:
        reply[PLAN] = list(plan)
    return json.dumps(reply, ensure_ascii=False)


def _blocks(reasoning: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    check_shape(REASONING, reasoning, {**dict.fromkeys(BLOCK_OF, str), STEPS: list})
    steps = reasoning[STEPS]
    if not all(isinstance(step, str) for step in steps):
        raise UnreadableReply(f"Each of {STEPS} must be text")
    texts = [(name, reasoning[key]) for key, name in BLOCK_OF.items()]
    texts += [(f"STEP_{i}", step) for i, step in enumerate(steps, start=1)]
    return tuple((name, _LINE_BREAKS.sub(" ", text.strip())) for name, text in texts)


def _block_faults(blocks: Sequence[tuple[str, str]], intents: int) -> list[Violation]:
    faults = []
    for name, text in blocks:
        if not text:
            faults.append(Violation("format", "empty_block", f"{name} is empty"))
        faults += _markup_faults(name, text)
    if (steps := len(blocks) - len(BLOCK_OF)) != intents:
        message = f"The reasoning has {steps} steps but the plan has {intents} intents"
        faults.append(Violation("format", "steps_mismatch", message))
    return faults


def _markup_faults(what: str, text: str) -> list[Violation]:
    if found := _MARKUP.search(text):
        shown = found.group()[:_EXCERPT]
        return [Violation("format", "markup", f"{what} contains {shown!r}; write plain words")]
    return []
