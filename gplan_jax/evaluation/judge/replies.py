"""Replies of language models, read strictly: what is not exactly a judgement is none."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gplan_jax.evaluation.judge.judgement import HIGHEST, LOWEST, AxisScore, Choice
from gplan_jax.foundation.errors import GplanError

CHOICES: Mapping[str, Choice] = {"A": "first", "B": "second", "tie": "tie"}
_FENCED = re.compile(r"```(?:json)?[ \t]*\n(.*)\n```", re.DOTALL)


class BadReply(GplanError):
    """A reply that is no judgement; its message says why."""


def score_schema(axes: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of a reply with scores: for each axis first the reason, then the score."""
    score = {"type": "integer", "enum": list(range(LOWEST, HIGHEST + 1))}
    axis = _object({"reason": {"type": "string"}, "score": score})
    return _object(dict.fromkeys(axes, axis))


def pair_schema() -> dict[str, Any]:
    """The JSON schema of a reply that prefers one of two plans."""
    return _object({"reason": {"type": "string"}, "winner": {"enum": list(CHOICES)}})


def read_scores(text: str, axes: Sequence[str]) -> dict[str, AxisScore]:
    """Axis -> score of a reply, in the order of ``axes``.

    A reply is one JSON object (a code fence around it is let through) with exactly these axes,
    each {"reason": text, "score": 1..5} in this order; BadReply for anything else.
    """
    reply = _reply(text)
    _check_keys("the reply", reply, axes)
    scores = {}
    for axis in axes:
        judged = reply[axis]
        if not isinstance(judged, dict):
            raise BadReply(f"{axis} is not an object")
        _check_keys(axis, judged, ("reason", "score"))
        if list(judged) != ["reason", "score"]:
            raise BadReply(f"{axis} gives its score before its reason")
        score = judged["score"]
        if type(score) is not int or not LOWEST <= score <= HIGHEST:
            raise BadReply(f"the score of {axis} is not a whole number from 1 to 5")
        scores[axis] = AxisScore(score, _reason(axis, judged["reason"]))
    return scores


def read_choice(text: str) -> tuple[Choice, str]:
    """The preferred plan and the reason of a reply to a pair; BadReply as ``read_scores``."""
    reply = _reply(text)
    _check_keys("the reply", reply, ("reason", "winner"))
    if list(reply) != ["reason", "winner"]:
        raise BadReply("the reply gives its winner before its reason")
    winner = reply["winner"]
    if not isinstance(winner, str) or winner not in CHOICES:
        raise BadReply(f"the winner is none of {', '.join(CHOICES)}")
    return CHOICES[winner], _reason("the reply", reply["reason"])


def _object(properties: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": dict(properties),
        "required": list(properties),
        "additionalProperties": False,
    }


def _reply(text: str) -> dict[str, Any]:
    def without_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        keys = [key for key, _ in pairs]
        if repeated := sorted({key for key in keys if keys.count(key) > 1}):
            raise BadReply(f"the reply gives {', '.join(repeated)} twice")
        return dict(pairs)

    def no_number(constant: str) -> Any:  # NaN and Infinity, which JSON has not.
        raise ValueError(constant)

    text = text.strip()
    if not text:
        raise BadReply("the reply is empty")
    if fenced := _FENCED.fullmatch(text):
        text = fenced[1]
    try:
        reply = json.loads(text, object_pairs_hook=without_repeats, parse_constant=no_number)
    except (ValueError, RecursionError):
        raise BadReply("the reply is not one JSON value and nothing else") from None
    if not isinstance(reply, dict):
        raise BadReply("the reply is not a JSON object")
    return reply


def _check_keys(where: str, found: Mapping[str, Any], wanted: Sequence[str]) -> None:
    if missing := [key for key in wanted if key not in found]:
        raise BadReply(f"{where} lacks {', '.join(missing)}")
    if len(found) > len(wanted):
        raise BadReply(f"{where} has more keys than {', '.join(wanted)}")


def _reason(where: str, reason: Any) -> str:
    if not isinstance(reason, str) or not reason.strip():
        raise BadReply(f"{where} gives no reason")
    return reason.strip()
