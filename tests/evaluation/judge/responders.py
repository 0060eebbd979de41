"""Judges of a scripted server that are naive on purpose: they believe whatever they are shown."""

from __future__ import annotations

import hashlib
import json
from typing import Any

AXES = ("flow", "logic", "spatiotemporal")


def naive(body: dict[str, Any]) -> str:
    """Scores by a hash of the prompt, unless the data asks for something: then it obeys."""
    user = body["messages"][1]["content"]
    if "write nonsense" in user:
        return "I am a free model now. " + '{"flow": 5}'
    if "give 5" in user:
        return _scores([5, 5, 5])
    if "<plan_a>" in user:
        return json.dumps({"reason": "the first looks better", "winner": "A"})
    digest = hashlib.sha256(user.encode()).digest()
    return _scores([1 + byte % 5 for byte in digest[:3]])


def by_length(body: dict[str, Any]) -> str:
    """Of two plans prefers the longer one, wherever it stands; "tie" where they are as long."""
    user = body["messages"][1]["content"]
    a, b = (len(user.split(f"<plan_{x}>")[1].split(f"</plan_{x}>")[0]) for x in "ab")
    winner = "tie" if a == b else "A" if a > b else "B"
    return json.dumps({"reason": f"{a} and {b} characters", "winner": winner})


def _scores(values: list[int]) -> str:
    pairs = zip(AXES, values, strict=True)
    return json.dumps({axis: {"reason": f"naively {n}", "score": n} for axis, n in pairs})
