"""Faulty raw answers, as a teacher gives them: one rule of the filter broken, or the reasoning.

The mix is a guess at what language models get wrong; only the whole share, 28.9%, is the paper's
(section 3.2). A fault of every code of ``check_plan`` can be planted on purpose, so that the filter
can be shown to find it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Callable, Mapping
from typing import Any

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, parse_plan
from gplan_jax.reasoning import split_response

Intents = list[dict[str, Any]]

FAULTY_SHARE = 0.289  # Of raw answers, as the paper's filter removed.

# Code -> how often it is planted, relative to the others.
CODES: Mapping[str, float] = {
    "not_json": 14,
    "not_a_list": 5,
    "not_an_object": 2,
    "too_short": 9,
    "too_long": 5,
    "missing_tool": 3,
    "unknown_tool": 9,
    "missing_parameter": 8,
    "extra_parameter": 7,
    "inadmissible_value": 14,
    "unresolved_reference": 6,
    "exclusive_group": 8,
    "repeated_intent": 6,
}
BROKEN_REASONING = "broken_reasoning"
REASONING_WEIGHT = 4.0


def draw_code(generator: random.Random) -> str:
    """A code of ``check_plan``, or BROKEN_REASONING, as often as teachers are thought to err."""
    weights = {**CODES, BROKEN_REASONING: REASONING_WEIGHT}
    return generator.choices(list(weights), weights=list(weights.values()))[0]


def plant_fault(label: str, code: str, library: IntentLibrary, generator: random.Random) -> str:
    """A valid raw label with one fault; ``check_plan`` finds ``code`` in it and nothing else.

    BROKEN_REASONING leaves the plan as it is and takes a step out of the reasoning, so that steps
    and intents don't match. Intents are left out at the end where a plan has no room for the fault.

    Args:
        label: reasoning, where there is one, and a plan that passes the filter.
        code: one of CODES, or BROKEN_REASONING.
        generator: draws which intent, value or place is hit.

    Raises:
        GplanError: the code is unknown, ``label`` has no plan, or the library rules the fault out
            (no parameter, no group, no reference to break).
    """
    thought, text = split_response(label)
    reasoning = thought or ""
    if code == BROKEN_REASONING:
        return _without_step(reasoning, generator) + text
    intents: Intents = [dict(intent) for intent in parse_plan(text, library)]
    if not intents:
        raise GplanError("there is no plan to plant a fault in; give a label that has one.")
    if code in _TEXT_FAULTS:
        return reasoning + _TEXT_FAULTS[code](text, intents, generator)
    if code not in _FAULTS:
        known = ", ".join((*CODES, BROKEN_REASONING))
        raise GplanError(f"{code} is no code of the filter; known are {known}.")
    return reasoning + _dumps(_FAULTS[code](intents, library, generator))


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


def _without_step(reasoning: str, generator: random.Random) -> str:
    """The reasoning without one of its steps."""
    steps = re.findall(r"<(STEP_\d+)>", reasoning)
    if not steps:
        raise GplanError("there is no reasoning step to leave out; give a label with reasoning.")
    name = generator.choice(steps)
    head, rest = reasoning.split(f"<{name}>", 1)
    return head + rest.split(f"</{name}>", 1)[1]


def _not_json(text: str, intents: Intents, generator: random.Random) -> str:
    """Cut short, a key without quotes, a comma too many, or words behind the plan."""
    return generator.choice(
        (
            text[: generator.randrange(1, len(text))],
            text.replace('"', "", 1),
            text[:-1] + ",]",
            text + "以上为推荐计划。",
            text.replace(":", "：", 1),
        )
    )


def _not_a_list(text: str, intents: Intents, generator: random.Random) -> str:
    """The plan wrapped in an object, or its first intent alone."""
    return generator.choice((_dumps({"plan": intents}), _dumps(intents[0])))


_TEXT_FAULTS: Mapping[str, Callable[[str, Intents, random.Random], str]] = {
    "not_json": _not_json,
    "not_a_list": _not_a_list,
}


def _not_an_object(intents: Intents, library: IntentLibrary, generator: random.Random) -> list[Any]:
    """An intent that is only the name of its tool; one that no later intent refers to."""
    plan: list[Any] = list(intents)
    place = generator.choice(_spared(intents, library))
    plan[place] = str(intents[place][library.tool_key])
    return plan


def _too_short(intents: Intents, library: IntentLibrary, generator: random.Random) -> Intents:
    return intents[: generator.randrange(1, max(library.plan_length.minimum, 2))]


def _too_long(intents: Intents, library: IntentLibrary, generator: random.Random) -> Intents:
    wanted = library.plan_length.maximum + generator.randint(1, 2) - len(intents)
    return [*intents, *_free_intents(intents, library, generator)[:wanted]]


def _free_intents(intents: Intents, library: IntentLibrary, generator: random.Random) -> Intents:
    """The intents, in random order, that may be added to a plan: of no group, no references."""
    return [
        intent
        for intent in _all_intents(library, generator)
        if intent not in intents and not _in_group(intent, library)
    ]


def _in_group(intent: Mapping[str, Any], library: IntentLibrary) -> bool:
    return any(intent[library.tool_key] in group for group in library.exclusive_groups)


def _all_intents(library: IntentLibrary, generator: random.Random) -> Intents:
    """Every intent whose values are listed, in a random order, without references."""
    found: Intents = []
    for name, tool in library.tools.items():
        intents: Intents = [{library.tool_key: name}]
        for key in tool.parameters:
            values = library.parameters[key].values or ("x",)
            own = [value for value in values if value != library.previous_place]
            intents = [{**intent, key: value} for intent in intents for value in own]
        found += intents
    generator.shuffle(found)
    return found


def _missing_tool(intents: Intents, library: IntentLibrary, generator: random.Random) -> Intents:
    return _without(intents, _spared(intents, library), library.tool_key, generator)


def _unknown_tool(intents: Intents, library: IntentLibrary, generator: random.Random) -> Intents:
    """A tool that does not exist; the number after the last, or a word."""
    place = generator.choice(_spared(intents, library))
    name = generator.choice((f"tool_{len(library.tools) + generator.randint(1, 5)}", "search_poi"))
    while name in library.tools:
        name += "_x"
    return _replaced(intents, place, {**intents[place], library.tool_key: name})


def _missing_parameter(
    intents: Intents, library: IntentLibrary, generator: random.Random
) -> Intents:
    intents, places = _with_parameters(intents, library, generator)
    place = generator.choice(places)
    key = generator.choice(library.tools[intents[place][library.tool_key]].parameters)
    return _without(intents, [place], key, generator)


def _extra_parameter(intents: Intents, library: IntentLibrary, generator: random.Random) -> Intents:
    """A parameter that the tool does not take: another tool's, or one that nobody knows."""
    place = generator.randrange(len(intents))
    tool = library.tools[intents[place][library.tool_key]]
    strange = {
        key: next(v for v in parameter.values or ("x",) if v != library.previous_place)
        for key, parameter in library.parameters.items()
        if key not in (*tool.parameters, *tool.optional)
    }
    key, value = generator.choice([*strange.items(), ("时间", "现在")])
    return _replaced(intents, place, {**intents[place], key: value})


def _inadmissible_value(
    intents: Intents, library: IntentLibrary, generator: random.Random
) -> Intents:
    """A value that is not on its list, a number, or nothing."""
    intents, places = _with_parameters(intents, library, generator, listed=True)
    place = generator.choice(places)
    keys = [
        key
        for key in library.tools[intents[place][library.tool_key]].parameters
        if library.parameters[key].values is not None
    ]
    value = generator.choice(("人民广场", "附近的地方", "", 1))
    return _replaced(intents, place, {**intents[place], generator.choice(keys): value})


def _unresolved_reference(
    intents: Intents, library: IntentLibrary, generator: random.Random
) -> Intents:
    """The plan begins with an intent that refers to the place of one before it."""
    word = library.previous_place
    keys = [
        key for key, parameter in library.parameters.items() if word in (parameter.values or {})
    ]
    able = [
        referring
        for intent in _free_intents(intents, library, generator)
        for key in keys
        if key in intent and (referring := {**intent, key: word}) not in intents
    ]
    if not able:
        raise GplanError(f"no intent of library {library.name} can refer to an earlier one.")
    return [generator.choice(able), *intents[: library.plan_length.maximum - 1]]


def _exclusive_group(intents: Intents, library: IntentLibrary, generator: random.Random) -> Intents:
    """Two tools of a group of which only one may occur, at the end."""
    if not library.exclusive_groups:
        raise GplanError(f"library {library.name} has no tools that exclude each other.")
    group = generator.choice(library.exclusive_groups)
    plan = intents[: library.plan_length.maximum - 2]
    others = [
        intent
        for intent in _all_intents(library, generator)
        if intent[library.tool_key] in group and intent not in intents
    ]
    used = any(intent[library.tool_key] in group for intent in plan)
    return [*plan, *others[: 1 if used else 2]]


def _repeated_intent(intents: Intents, library: IntentLibrary, generator: random.Random) -> Intents:
    """An intent that comes twice; none of a group of which only one may occur."""
    plan = intents[: library.plan_length.maximum - 1]
    free = [intent for intent in plan if not _in_group(intent, library)]
    return [*plan, dict(generator.choice(free))]


_FAULTS: Mapping[str, Callable[[Intents, IntentLibrary, random.Random], list[Any]]] = {
    "not_an_object": _not_an_object,
    "too_short": _too_short,
    "too_long": _too_long,
    "missing_tool": _missing_tool,
    "unknown_tool": _unknown_tool,
    "missing_parameter": _missing_parameter,
    "extra_parameter": _extra_parameter,
    "inadmissible_value": _inadmissible_value,
    "unresolved_reference": _unresolved_reference,
    "exclusive_group": _exclusive_group,
    "repeated_intent": _repeated_intent,
}


def _spared(intents: Intents, library: IntentLibrary) -> list[int]:
    """The intents without which every reference still has an earlier intent that yields a place."""
    return [
        i for i in range(len(intents)) if _resolves([*intents[:i], *intents[i + 1 :]], library)
    ] or [len(intents) - 1]


def _resolves(intents: Intents, library: IntentLibrary) -> bool:
    known = False
    for intent in intents:
        refers = library.previous_place is not None and library.previous_place in intent.values()
        if refers and not known:
            return False
        known = known or library.tools[intent[library.tool_key]].yields_place
    return True


def _with_parameters(
    intents: Intents, library: IntentLibrary, generator: random.Random, *, listed: bool = False
) -> tuple[Intents, list[int]]:
    """The intents that have a parameter; one more is put at the end where none has."""

    def has(intent: Mapping[str, Any]) -> bool:
        keys = library.tools[intent[library.tool_key]].parameters
        return any(not listed or library.parameters[key].values is not None for key in keys)

    places = [i for i, intent in enumerate(intents) if has(intent)]
    if places:
        return intents, places
    for intent in _free_intents(intents, library, generator):
        if has(intent):
            plan = [*intents[: library.plan_length.maximum - 1], intent]
            return plan, [len(plan) - 1]
    raise GplanError(f"no tool of library {library.name} has a parameter to break.")


def _replaced(intents: Intents, place: int, intent: dict[str, Any]) -> Intents:
    return [*intents[:place], intent, *intents[place + 1 :]]


def _without(intents: Intents, places: list[int], key: str, generator: random.Random) -> Intents:
    place = generator.choice(places)
    return _replaced(intents, place, {k: v for k, v in intents[place].items() if k != key})
