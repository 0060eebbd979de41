"""The three-tier rule filter: format, schema, logic (paper section 3.2)."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Literal

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import strict_json
from gplan_jax.gsisr.library import IntentLibrary, Tool
from gplan_jax.reasoning import split_response

Tier = Literal["format", "schema", "logic"]


@dataclass(frozen=True)
class Violation:
    """One broken rule: its tier, a code to count by and a message that names the intent."""

    tier: Tier
    code: str
    message: str


def check_plan(text: str, library: IntentLibrary) -> list[Violation]:
    """Every rule that a response breaks; an empty list means that the plan may be carried out.

    The reasoning in front is skipped; what follows it must be the plan and nothing else.
    Codes by tier:

        format: not_json, not_a_list, not_an_object, too_short, too_long
        schema: missing_tool, unknown_tool, missing_parameter, extra_parameter, inadmissible_value
        logic: unresolved_reference, exclusive_group, repeated_intent
    """
    try:
        plan = strict_json(split_response(text)[1], "The plan")
    except GplanError as error:
        return [Violation("format", "not_json", str(error))]
    if not isinstance(plan, list):
        return [Violation("format", "not_a_list", "The plan must be a JSON array of objects")]
    intents = [(i, intent) for i, intent in enumerate(plan, start=1) if isinstance(intent, dict)]
    violations = list(_format(plan, library))
    for position, intent in intents:
        violations += _schema(position, intent, library)
    return violations + list(_logic(intents, library))


def _format(plan: list[Any], library: IntentLibrary) -> Iterator[Violation]:
    bounds = library.plan_length
    wanted = f"{bounds.minimum} to {bounds.maximum} intents, not {len(plan)}"
    if len(plan) < bounds.minimum:
        yield Violation("format", "too_short", f"A plan has {wanted}")
    if len(plan) > bounds.maximum:
        yield Violation("format", "too_long", f"A plan has {wanted}")
    for position, intent in enumerate(plan, start=1):
        if not isinstance(intent, dict):
            message = (
                f"Intent {position} is {json.dumps(intent, ensure_ascii=False)[:40]}, not an object"
            )
            yield Violation("format", "not_an_object", message)


def _schema(position: int, intent: dict[str, Any], library: IntentLibrary) -> Iterator[Violation]:
    if library.tool_key not in intent:
        message = f"Intent {position} has no {library.tool_key}"
        yield Violation("schema", "missing_tool", message)
        return
    name = intent[library.tool_key]
    tool = library.tools.get(name) if isinstance(name, str) else None
    if tool is None:
        message = f"Intent {position}: {name!r} is not a tool; known are {', '.join(library.tools)}"
        yield Violation("schema", "unknown_tool", message)
        return
    for key in tool.parameters:
        if key not in intent:
            message = f"Intent {position}: {name} needs {key}"
            yield Violation("schema", "missing_parameter", message)
    for key, value in intent.items():
        if key != library.tool_key:
            yield from _parameter(f"Intent {position}: {name}", tool, key, value, library)


def _parameter(
    where: str, tool: Tool, key: str, value: Any, library: IntentLibrary
) -> Iterator[Violation]:
    if key not in tool.parameters and key not in tool.optional:
        yield Violation("schema", "extra_parameter", f"{where} takes no {key}")
        return
    values = library.parameters[key].values
    if not isinstance(value, str) or not value:
        problem = f"{where}: {key} must be text, not {value!r}"
    elif values is not None and value not in values:
        problem = f"{where}: {key} can't be {value!r}; admissible are {', '.join(values)}"
    else:
        return
    yield Violation("schema", "inadmissible_value", problem)


def _logic(
    intents: list[tuple[int, dict[str, Any]]], library: IntentLibrary
) -> Iterator[Violation]:
    place_known = False
    first_seen: dict[str, int] = {}
    tools = [intent.get(library.tool_key) for _, intent in intents]
    for (position, intent), name in zip(intents, tools, strict=True):
        parameters = [value for key, value in intent.items() if key != library.tool_key]
        refers = library.previous_place is not None and library.previous_place in parameters
        if refers and not place_known:
            reference = f"Intent {position} refers to {library.previous_place}"
            message = f"{reference} but no earlier intent yields a place"
            yield Violation("logic", "unresolved_reference", message)
        tool = library.tools.get(name) if isinstance(name, str) else None
        place_known = place_known or (tool is not None and tool.yields_place)
        same = first_seen.setdefault(json.dumps(intent, sort_keys=True), position)
        if same != position:
            message = f"Intent {position} repeats intent {same}"
            yield Violation("logic", "repeated_intent", message)
    for group in library.exclusive_groups:
        used = [name for name in tools if name in group]
        if len(used) > 1:
            message = f"Only one of {', '.join(group)} may occur but the plan has {', '.join(used)}"
            yield Violation("logic", "exclusive_group", message)
