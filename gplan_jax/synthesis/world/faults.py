"""Faulty raw answers, as a teacher gives them: one rule of the filter broken, or the reasoning.

The mix is a guess at what language models get wrong; only the whole share, 28.9%, is the paper's
(section 3.2). A fault of every code of ``check_plan`` can be planted on purpose, so that the filter
can be shown to find it.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Mapping
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
    """A code of ``check_plan`` or BROKEN_REASONING, in proportion to its weight."""
    weights = {**CODES, BROKEN_REASONING: REASONING_WEIGHT}
    return generator.choices(list(weights), weights=list(weights.values()))[0]


def plant_fault(label: str, code: str, library: IntentLibrary, generator: random.Random) -> str:
    """A valid raw label with one fault: ``check_plan`` finds ``code``, one of CODES, and no other.

    BROKEN_REASONING leaves the plan as it is and takes a step out of the reasoning. GplanError
    where the code is unknown, ``label`` has no plan, or the library rules the fault out.
    """
    thought, text = split_response(label)
    reasoning, tool_key, lengths = thought or "", library.tool_key, library.plan_length
    if code == BROKEN_REASONING:
        steps = re.findall(r"<(STEP_\d+)>", reasoning)
        if not steps:
            problem = "there is no reasoning step to leave out; give a label with reasoning."
            raise GplanError(problem)
        name = generator.choice(steps)
        head, rest = reasoning.split(f"<{name}>", 1)
        return head + rest.split(f"</{name}>", 1)[1] + text
    intents: Intents = [dict(intent) for intent in parse_plan(text, library)]
    if not intents:
        raise GplanError("there is no plan to plant a fault in; give a label that has one.")
    plan: list[Any] = list(intents)
    match code:
        case "not_json":
            # Cut short, a key without quotes, a comma too many, or words behind the plan.
            broken = (
                text[: generator.randrange(1, len(text))],
                text.replace('"', "", 1),
                text[:-1] + ",]",
                text + "以上为推荐计划。",
                text.replace(":", "：", 1),
            )
            return reasoning + generator.choice(broken)
        case "not_a_list":
            # The plan wrapped in an object, or its first intent alone.
            return reasoning + generator.choice((_dumps({"plan": intents}), _dumps(intents[0])))
        case "not_an_object":
            # An intent that is only the name of its tool; one that no later intent refers to.
            i = generator.choice(_spared(intents, library))
            plan[i] = str(intents[i][tool_key])
        case "too_short":
            plan = intents[: generator.randrange(1, max(lengths.minimum, 2))]
        case "too_long":
            wanted = lengths.maximum + generator.randint(1, 2) - len(intents)
            plan += _free_intents(intents, library, generator)[:wanted]
        case "missing_tool":
            del plan[generator.choice(_spared(intents, library))][tool_key]
        case "unknown_tool":
            # A tool that does not exist; the number after the last, or a word.
            i = generator.choice(_spared(intents, library))
            number = len(library.tools) + generator.randint(1, 5)
            name = generator.choice((f"tool_{number}", "search_poi"))
            while name in library.tools:
                name += "_x"
            plan[i][tool_key] = name
        case "missing_parameter":
            plan, places = _with_parameters(intents, library, generator)
            i = generator.choice(places)
            del plan[i][generator.choice(library.tools[plan[i][tool_key]].parameters)]
        case "extra_parameter":
            # A parameter that the tool does not take: another tool's, or an unknown one.
            i = generator.randrange(len(plan))
            tool = library.tools[plan[i][tool_key]]
            strange = {
                key: next(v for v in parameter.values or ("x",) if v != library.previous_place)
                for key, parameter in library.parameters.items()
                if key not in (*tool.parameters, *tool.optional)
            }
            key, value = generator.choice([*strange.items(), ("时间", "现在")])
            plan[i][key] = value
        case "inadmissible_value":
            # A value that is not on its list, a number, or nothing.
            plan, places = _with_parameters(intents, library, generator, listed=True)
            i = generator.choice(places)
            keys = [
                key
                for key in library.tools[plan[i][tool_key]].parameters
                if library.parameters[key].values is not None
            ]
            wrong = generator.choice(("人民广场", "附近的地方", "", 1))
            plan[i][generator.choice(keys)] = wrong
        case "unresolved_reference":
            # The plan begins with an intent that refers to the place of one before it.
            word = library.previous_place
            keys = [key for key, p in library.parameters.items() if word in (p.values or {})]
            able = [
                referring
                for intent in _free_intents(intents, library, generator)
                for key in keys
                if key in intent and (referring := {**intent, key: word}) not in intents
            ]
            if not able:
                raise GplanError(
                    f"no intent of library {library.name} can refer to an earlier one."
                )
            plan = [generator.choice(able), *intents[: lengths.maximum - 1]]
        case "exclusive_group":
            # Two tools of a group of which only one may occur, at the end.
            if not library.exclusive_groups:
                raise GplanError(f"library {library.name} has no tools that exclude each other.")
            group = generator.choice(library.exclusive_groups)
            plan = intents[: lengths.maximum - 2]
            others = [
                intent
                for intent in _all_intents(library, generator)
                if intent[tool_key] in group and intent not in intents
            ]
            used = any(intent[tool_key] in group for intent in plan)
            plan += others[: 1 if used else 2]
        case "repeated_intent":
            # An intent that comes twice; none of a group of which only one may occur.
            plan = intents[: lengths.maximum - 1]
            plan.append(
                generator.choice([intent for intent in plan if not _in_group(intent, library)])
            )
        case _:
            known = ", ".join((*CODES, BROKEN_REASONING))
            raise GplanError(f"{code} is no code of the filter; known are {known}.")
    return reasoning + _dumps(plan)


def _dumps(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


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


def _free_intents(intents: Intents, library: IntentLibrary, generator: random.Random) -> Intents:
    """The intents, in random order, that may be added to a plan: of no group, no references."""
    return [
        intent
        for intent in _all_intents(library, generator)
        if intent not in intents and not _in_group(intent, library)
    ]


def _in_group(intent: Mapping[str, Any], library: IntentLibrary) -> bool:
    return any(intent[library.tool_key] in group for group in library.exclusive_groups)


def _spared(intents: Intents, library: IntentLibrary) -> list[int]:
    """The intents without which every reference still has an earlier intent that yields a place."""

    def resolves(plan: Intents) -> bool:
        known = False
        for intent in plan:
            if library.previous_place in intent.values() and not known:
                return False
            known = known or library.tools[intent[library.tool_key]].yields_place
        return True

    spared = [i for i in range(len(intents)) if resolves([*intents[:i], *intents[i + 1 :]])]
    return spared or [len(intents) - 1]


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
