"""What a language model replies with, its JSON schema, and how strictly the reply is read.

    {"reasoning": {"context": str, "strategy": str, "steps": [str, ...]}, "plan": [intent, ...]}

The reasoning comes first, so that the plan follows from it; there is one step for each intent. A
reply to a request to explain a given plan has no "plan".
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from gplan_jax.gsisr import IntentLibrary, Violation, canonical_plan, check_plan
from gplan_jax.reasoning import GSISR_LATENTS, ReasoningTrace, write_trace

REASONING, STEPS, PLAN = "reasoning", "steps", "plan"
# Key of the reasoning -> block of the trace.
BLOCK_OF = {name.lower(): name for name in GSISR_LATENTS.context_blocks}
CUT_OFF = "length"  # The finish reason of a reply that ran into its limit of tokens.

_FENCED = re.compile(r"```(?:json|JSON)?\s*\n(.*?)\n?\s*```", re.DOTALL)
_LINE_BREAKS = re.compile(r"\s*[\t\n\r\v\f\x1c-\x1e\x85\u2028\u2029]\s*")
# Tags, control tokens of chat templates (<|im_end|>, </s>, <｜User｜>), control characters.
_MARKUP = re.compile(r"<[/|｜]?[A-Za-z_][^<>]*>|<\|[^<>]*\|>|[\x00-\x1f\x7f]")
_EXCERPT = 40

Faults = tuple[Violation, ...]


class _Unreadable(Exception):
    """A reply with nothing to go on: its one fault."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.violation = Violation("format", code, message)


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
        intents.append(_object(properties, [k for k in properties if k not in tool.optional]))
    plan = {"type": "array", "items": {"anyOf": intents}, **steps}
    return _object({REASONING: _reasoning_schema(steps), PLAN: plan})


def explanation_schema(steps: int) -> dict[str, Any]:
    """The JSON schema of a reply that explains a plan of ``steps`` intents."""
    return _object({REASONING: _reasoning_schema({"minItems": steps, "maxItems": steps})})


def _reasoning_schema(steps: dict[str, int]) -> dict[str, Any]:
    texts = {key: {"type": "string"} for key in BLOCK_OF}
    return _object({**texts, STEPS: {"type": "array", "items": {"type": "string"}, **steps}})


def _object(properties: dict[str, Any], required: Sequence[str] | None = None) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": properties,
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }


def read_answer(text: str, finish_reason: str, library: IntentLibrary) -> tuple[str, Faults]:
    """The raw label that a reply holds, and no fault; or the reply as it came, and its faults.

    A reply is one JSON object in the form above; only the thoughts of a thinking model, up to
    ``</think>``, and one code fence around the object are taken off. ``check_plan`` checks the
    library's rules; where a reply has other faults, broken rules are listed after them, so that one
    repair can mend all.

    Codes, all of the tier "format":
        truncated: the reply ran into its limit of tokens.
        not_json: no JSON, a number without a value (NaN), text that is no Unicode.
        extra_text: something stands before or after the object.
        two_plans: a second object after the first, a second plan in it, a list of plans.
        repeated_key: an object gives a key twice.
        wrong_shape: a key is missing or unknown, a value has the wrong type.
        empty_block: a text of the reasoning says nothing.
        steps_mismatch: not as many steps as intents.
        markup: a tag, control token or control character inside a text or the plan.
    """
    try:
        reply = _only_object(text, finish_reason)
        _check_shape("the reply", reply, {REASONING: dict, PLAN: list})
        plan = reply[PLAN]
        if len(plan) > 1 and all(isinstance(intent, list) for intent in plan):
            raise _Unreadable("two_plans", "plan is a list of plans; one plan is asked for")
        if not all(isinstance(intent, dict) for intent in plan):
            raise _Unreadable("wrong_shape", "Each intent of plan must be an object")
        blocks = _blocks(reply[REASONING])
    except _Unreadable as error:
        return text, (error.violation,)
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
        reply = _only_object(text, finish_reason)
        _check_shape("the reply", reply, {REASONING: dict})
        blocks = _blocks(reply[REASONING])
    except _Unreadable as error:
        return None, (error.violation,)
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


def _only_object(text: str, finish_reason: str) -> dict[str, Any]:
    if finish_reason == CUT_OFF:
        raise _Unreadable("truncated", "The reply ran into its limit of tokens and is cut off")
    # Without the thoughts of a thinking model and without one code fence. Some servers leave out
    # the tag that opens the thoughts. A reply that begins as JSON has no thoughts.
    thoughts, end_of_thoughts, rest = text.partition("</think>")
    body = rest if end_of_thoughts and thoughts.lstrip()[:1] not in ("{", "[", "`") else text
    body = body.strip()
    fenced = _FENCED.fullmatch(body)
    if fenced and "```" not in fenced[1]:
        body = fenced[1].strip()
    try:
        value, end = _DECODER.raw_decode(body)
        json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        if body[:1] not in ("{", "[") and "{" in body:
            message = f"The reply begins with {body[:_EXCERPT]!r}, not with its JSON object"
            raise _Unreadable("extra_text", message) from None
        raise _Unreadable("not_json", f"The reply is not valid JSON: {error}") from None
    if rest := body[end:].strip():
        with contextlib.suppress(ValueError, RecursionError):
            json.JSONDecoder().raw_decode(rest, rest.index("{"))
            message = "The reply holds a second JSON object; one plan is asked for"
            raise _Unreadable("two_plans", message)
        message = f"After its JSON object the reply goes on with {rest[:_EXCERPT]!r}"
        raise _Unreadable("extra_text", message)
    if isinstance(value, list) and sum(isinstance(v, dict) and PLAN in v for v in value) > 1:
        raise _Unreadable("two_plans", "The reply is a list of plans; one plan is asked for")
    if not isinstance(value, dict):
        raise _Unreadable("wrong_shape", "The reply must be a JSON object")
    return value


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    keys = [key for key, _ in pairs]
    if repeated := [key for key in dict.fromkeys(keys) if keys.count(key) > 1]:
        code = "two_plans" if repeated == [PLAN] else "repeated_key"
        raise _Unreadable(code, f"An object of the reply gives {', '.join(repeated)} twice")
    return dict(pairs)


def _no_number(word: str) -> NoReturn:
    raise ValueError(f"{word} is not JSON")


_DECODER = json.JSONDecoder(object_pairs_hook=_pairs, parse_constant=_no_number)


def _check_shape(what: str, value: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    names: dict[type, str] = {dict: "an object", list: "an array", str: "text"}
    problems = [f"lacks {key}" for key in kinds if key not in value]
    problems += [f"has an unknown key {key!r}" for key in value if key not in kinds]
    problems += [
        f"{key} must be {names[kind]}"
        for key, kind in kinds.items()
        if key in value and not isinstance(value[key], kind)
    ]
    if problems:
        raise _Unreadable("wrong_shape", f"In {what}: {'; '.join(problems)}")


def _blocks(reasoning: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    _check_shape(REASONING, reasoning, {**dict.fromkeys(BLOCK_OF, str), STEPS: list})
    steps = reasoning[STEPS]
    if not all(isinstance(step, str) for step in steps):
        raise _Unreadable("wrong_shape", f"Each of {STEPS} must be text")
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
