"""Plans as text: read tolerantly from what a model wrote, written canonically."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping, Sequence
from typing import Any

from gplan_jax.foundation.files import whole
from gplan_jax.gsisr.library import IntentLibrary
from gplan_jax.reasoning.traces import THOUGHT_CLOSE

Intent = dict[str, str]
Plan = list[Intent]

_DECODER = json.JSONDecoder()


def parse_plan(text: str, library: IntentLibrary | None = None) -> Plan:
    """Reads the plan that a model meant, as the public evaluator does; [] where there is none.

    What follows the reasoning counts. The first JSON array with an object that names a tool is
    the plan, whatever stands around it (code fences, prose, a repetition); where no array is
    complete, the complete objects before the cut are; a single object is a plan of one. Keys come
    in the library's order, values that are not text become JSON text.
    """
    library = library or IntentLibrary.load()
    found = _first_objects(text.split(THOUGHT_CLOSE, 1)[-1], library.tool_key)
    return [
        {_as_text(key): _as_text(value) for key, value in library.canonical_intent(intent).items()}
        for intent in found
    ]


def canonical_plan(plan: Sequence[Mapping[str, Any]], library: IntentLibrary | None = None) -> str:
    """Writes a plan as compact JSON, keys in the library's order; ``parse_plan`` reverses it."""
    library = library or IntentLibrary.load()
    intents = [library.canonical_intent(intent) for intent in plan]
    return json.dumps(intents, ensure_ascii=False, separators=(",", ":"))


def _first_objects(text: str, tool_key: str) -> list[dict[str, Any]]:
    """Scans left to right for an array of intents, else gathers single ones up to a ``]``."""
    gathered: list[dict[str, Any]] = []
    position = 0
    while position < len(text):
        character = text[position]
        if character == "]" and gathered:
            break
        value, end = None, position + 1
        if character in "[{":
            with contextlib.suppress(json.JSONDecodeError, RecursionError):
                value, end = _DECODER.raw_decode(text, position)
        if isinstance(value, list):
            objects = [item for item in value if isinstance(item, dict)]
            if any(tool_key in item for item in objects):
                return gathered or objects
        elif isinstance(value, dict):
            if tool_key in value:
                gathered.append(value)
            else:
                end = position + 1  # A wrapper such as {"plan": [...]}: look inside.
        position = end
    return gathered


def _as_text(value: Any) -> str:
    return whole(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
