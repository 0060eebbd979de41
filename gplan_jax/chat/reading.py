"""The one reader of replies, for teachers and judges: a reply is one JSON object, read strictly."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import parse_json

CUT_OFF = "length"  # The finish reason of a reply that ran into its limit of tokens.
NO_THINKING = (
    "raise max_tokens or turn thinking off (extra: "
    "{chat_template_kwargs: {enable_thinking: false}})"
)
# Where a reply's text may stand when its content has none -> what to change.
MENDS = {
    "tool_calls": "serve the model without its tool-call parser (vLLM: --tool-call-parser)",
    "reasoning": f"{NO_THINKING}, or serve the model without its reasoning parser",
}
# A repair can't help here: the reply would be cut off, or stand elsewhere, once more.
BEYOND_REPAIR = ("truncated", "no_text")

_TAG = r"(think|thought|reasoning|tool_calls)(?:\w*)>"
_OPENED, _CLOSED = re.compile(rf"\s*<{_TAG}"), re.compile(f"</{_TAG}")
_FENCED = re.compile(r"```(?:json|JSON)?\s*\n(.*?)\n?\s*```", re.DOTALL)
_EXCERPT = 40


class UnreadableReply(GplanError):
    """A reply that is not what was asked for; ``code`` names the fault in a word or two."""

    def __init__(self, message: str, code: str = "wrong_shape") -> None:
        super().__init__(message)
        self.code = code


def answer_text(text: str) -> str:
    """``text`` without the thoughts of a thinking model, up to ``</think>`` or the like.

    Some servers leave out the tag that opens them. A text that begins as JSON has none.
    """
    body = text.strip()
    while body[:1] not in ("{", "[", "`") and (end := _CLOSED.search(body)):
        body = body[end.end() :].strip()
    return body


def read_object(text: str, finish_reason: str) -> dict[str, Any]:
    """The JSON object that a reply is, beside thoughts and one code fence around it.

    UnreadableReply by its code: ``truncated`` (the reply ran into its limit of tokens), ``no_text``
    (its content is empty, or thoughts alone), ``not_json`` (also NaN, and text that is no Unicode),
    ``extra_text`` (before or after the object), ``two_plans`` (or other objects), ``repeated_key``,
    ``wrong_shape`` (no object).
    """
    body = answer_text(text)
    opened = _OPENED.match(body or text)
    if finish_reason == CUT_OFF:
        among = " among its thoughts" if opened or not body else ""
        said = f"The reply ran into its limit of tokens and is cut off{among}: {NO_THINKING}"
        raise UnreadableReply(said, "truncated")
    if opened or not body:
        where = f"stands in {opened[0].strip(' <>')}" if opened else "is nowhere"
        mend = MENDS.get(opened[1] if opened else "", NO_THINKING)
        raise UnreadableReply(f"The reply's content is empty, its text {where}: {mend}", "no_text")
    fenced = _FENCED.fullmatch(body)
    if fenced and "```" not in fenced[1]:
        body = fenced[1].strip()
    try:
        value = parse_json(body)
    except ValueError as error:
        if body[:1] not in ("{", "[") and "{" in body:
            said = f"The reply begins with {body[:_EXCERPT]!r}, not with its JSON object"
            raise UnreadableReply(said, "extra_text") from None
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            rest = body[error.pos :]
            with contextlib.suppress(ValueError, RecursionError):
                json.JSONDecoder().raw_decode(rest, rest.index("{"))
                said = "The reply holds a second JSON object"
                raise UnreadableReply(said, "two_plans") from None
            said = f"After its JSON object the reply goes on with {rest[:_EXCERPT]!r}"
            raise UnreadableReply(said, "extra_text") from None
        code = "repeated_key" if str(error).endswith(" twice") else "not_json"
        raise UnreadableReply(f"The reply is not valid JSON: {error}", code) from None
    if isinstance(value, list) and sum(isinstance(item, dict) for item in value) > 1:
        raise UnreadableReply("The reply is a list of objects; one is asked for", "two_plans")
    if not isinstance(value, dict):
        raise UnreadableReply("The reply must be a JSON object")
    return value


def check_shape(what: str, value: Mapping[str, Any], kinds: Mapping[str, type]) -> None:
    """Raises UnreadableReply where ``value`` hasn't exactly these keys, with these kinds."""
    names: dict[type, str] = {dict: "an object", list: "an array", str: "text", int: "a number"}
    problems = [f"lacks {key}" for key in kinds if key not in value]
    problems += [f"has an unknown key {key!r}" for key in value if key not in kinds]
    problems += [
        f"{key} must be {names[kind]}"
        for key, kind in kinds.items()
        if key in value and not isinstance(value[key], kind)
    ]
    if problems:
        raise UnreadableReply(f"In {what}: {'; '.join(problems)}")


def object_schema(
    properties: Mapping[str, Any], required: Sequence[str] | None = None
) -> dict[str, Any]:
    """The JSON schema of an object with these properties and no others."""
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties if required is None else required),
        "additionalProperties": False,
    }
