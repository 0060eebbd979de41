"""Replies of language models, read strictly: what is not exactly a judgement is none."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from gplan_jax.chat.reading import UnreadableReply, check_shape, object_schema, read_object
from gplan_jax.evaluation.judge.judgement import HIGHEST, LOWEST, AxisScore, Choice

CHOICES: Mapping[str, Choice] = {"A": "first", "B": "second", "tie": "tie"}


def score_schema(axes: Sequence[str]) -> dict[str, Any]:
    """The JSON schema of a reply with scores: for each axis first the reason, then the score."""
    score = {"type": "integer", "enum": list(range(LOWEST, HIGHEST + 1))}
    axis = object_schema({"reason": {"type": "string"}, "score": score})
    return object_schema(dict.fromkeys(axes, axis))


def pair_schema() -> dict[str, Any]:
    return object_schema({"reason": {"type": "string"}, "winner": {"enum": list(CHOICES)}})


def read_scores(
    text: str, axes: Sequence[str], finish_reason: str = "stop"
) -> dict[str, AxisScore]:
    """Axis -> score of a reply, in the order of ``axes``.

    A reply is one JSON object (see ``chat.read_object``) with exactly these axes, each
    {"reason": text, "score": 1..5} in this order; UnreadableReply for anything else.
    """
    reply = read_object(text, finish_reason)
    check_shape("the reply", reply, dict.fromkeys(axes, dict))
    scores = {}
    for axis in axes:
        judged = reply[axis]
        check_shape(axis, judged, {"reason": str, "score": int})
        if list(judged) != ["reason", "score"]:
            raise UnreadableReply(f"{axis} gives its score before its reason")
        score = judged["score"]
        if type(score) is not int or not LOWEST <= score <= HIGHEST:
            raise UnreadableReply(f"the score of {axis} is not a whole number from 1 to 5")
        scores[axis] = AxisScore(score, _reason(axis, judged["reason"]))
    return scores


def read_choice(text: str, finish_reason: str = "stop") -> tuple[Choice, str]:
    """The preferred plan and the reason of a reply to a pair; errors as ``read_scores``."""
    reply = read_object(text, finish_reason)
    check_shape("the reply", reply, {"reason": str, "winner": str})
    if list(reply) != ["reason", "winner"]:
        raise UnreadableReply("the reply gives its winner before its reason")
    winner = reply["winner"]
    if winner not in CHOICES:
        raise UnreadableReply(f"the winner is none of {', '.join(CHOICES)}")
    return CHOICES[winner], _reason("the reply", reply["reason"])


def _reason(where: str, reason: str) -> str:
    if not reason.strip():
        raise UnreadableReply(f"{where} gives no reason")
    return reason.strip()
