"""The three-tier rule filter: format, schema, logic (paper section 3.2).

For decoders the rules of plans are bitsets over a library's intents, numbered: bit i, intent i.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import strict_json
from gplan_jax.gsisr.library import IntentLibrary
from gplan_jax.gsisr.plans import Intent
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
    found: list[Violation] = []

    def broken(tier: Tier, code: str, message: str) -> None:
        found.append(Violation(tier, code, message))

    # Format: how many intents, and what each is.
    bounds = library.plan_length
    wanted = f"A plan has {bounds.minimum} to {bounds.maximum} intents, not {len(plan)}"
    if len(plan) < bounds.minimum:
        broken("format", "too_short", wanted)
    if len(plan) > bounds.maximum:
        broken("format", "too_long", wanted)
    for position, intent in enumerate(plan, start=1):
        if not isinstance(intent, dict):
            written = json.dumps(intent, ensure_ascii=False)[:40]
            broken("format", "not_an_object", f"Intent {position} is {written}, not an object")
    intents = [(i, intent) for i, intent in enumerate(plan, start=1) if isinstance(intent, dict)]

    for position, intent in intents:
        found += schema_violations(intent, library, position)

    # Logic: what an intent needs of the others.
    place_known = False
    first_seen: dict[str, int] = {}
    names = [intent.get(library.tool_key) for _, intent in intents]
    for (position, intent), name in zip(intents, names, strict=True):
        parameters = [value for key, value in intent.items() if key != library.tool_key]
        refers = library.previous_place is not None and library.previous_place in parameters
        if refers and not place_known:
            reference = f"Intent {position} refers to {library.previous_place}"
            message = f"{reference} but no earlier intent yields a place"
            broken("logic", "unresolved_reference", message)
        tool = library.tools.get(name) if isinstance(name, str) else None
        place_known = place_known or (tool is not None and tool.yields_place)
        same = first_seen.setdefault(json.dumps(intent, sort_keys=True), position)
        if same != position:
            broken("logic", "repeated_intent", f"Intent {position} repeats intent {same}")
    for group in library.exclusive_groups:
        used = [name for name in names if name in group]
        if len(used) > 1:
            message = f"Only one of {', '.join(group)} may occur but the plan has {', '.join(used)}"
            broken("logic", "exclusive_group", message)
    return found


def schema_violations(
    intent: Mapping[str, Any], library: IntentLibrary, position: int = 1
) -> Iterator[Violation]:
    """The rules of the schema tier, which look at an intent by itself, that it breaks."""
    if library.tool_key not in intent:
        message = f"Intent {position} has no {library.tool_key}"
        yield Violation("schema", "missing_tool", message)
        return
    name = intent[library.tool_key]
    tool = library.tools.get(name) if isinstance(name, str) else None
    if tool is None:
        known = ", ".join(library.tools)
        message = f"Intent {position}: {name!r} is not a tool; known are {known}"
        yield Violation("schema", "unknown_tool", message)
        return
    where = f"Intent {position}: {name}"
    for key in tool.parameters:
        if key not in intent:
            yield Violation("schema", "missing_parameter", f"{where} needs {key}")
    for key, value in intent.items():
        if key == library.tool_key:
            continue
        if key not in tool.parameters and key not in tool.optional:
            yield Violation("schema", "extra_parameter", f"{where} takes no {key}")
            continue
        values = library.parameters[key].values
        if not isinstance(value, str) or not value:
            message = f"{where}: {key} must be text, not {value!r}"
            yield Violation("schema", "inadmissible_value", message)
        elif values is not None and value not in values:
            message = f"{where}: {key} can't be {value!r}; admissible are {', '.join(values)}"
            yield Violation("schema", "inadmissible_value", message)


def admissible_intents(library: IntentLibrary) -> tuple[Intent, ...]:
    """Every intent that the library admits, canonical; GplanError where a tool takes free text."""
    intents: list[Intent] = []
    for name, tool in library.tools.items():
        keys = [key for key in library.parameters if key in (*tool.parameters, *tool.optional)]
        choices: list[list[str | None]] = []
        for key in keys:
            values = library.parameters[key].values
            if values is None:
                raise GplanError(
                    f"{name} takes any text as {key}, so the library's plans can't be listed; "
                    f"list the values of {key} in the library, or decode unconstrained."
                )
            absent: list[str | None] = [None] if key in tool.optional else []
            choices.append(absent + [value for value in values if value])
        for combination in itertools.product(*choices):
            given = {k: v for k, v in zip(keys, combination, strict=True) if v is not None}
            intents.append({library.tool_key: name, **given})
    if not intents:
        raise GplanError(f"The library {library.name} admits no intent; give parameters values.")
    return tuple(intents)


@dataclass(frozen=True)
class PlanRules:
    """What ``check_plan`` asks of a plan whose intents are admissible."""

    # bounds of the plan length
    minimum: int
    maximum: int
    all: int  # every intent
    free: int  # those that do not refer to the previous place
    yields: int  # those that yield a place
    # for each intent those that can't follow it: itself, and all of its groups' tools
    closes: tuple[int, ...]
    groups: tuple[int, ...]  # the intents of each exclusive group

    def within_reach(self, available: int) -> int:
        """How many of the intents ``available`` any plan can take up at least.

        Those that never close, and one for each cluster of groups that share a tool: until one of a
        cluster is taken, all that is available of it stays so.
        """
        grouped = 0
        clusters: list[int] = []
        for group in self.groups:
            apart = [cluster for cluster in clusters if not cluster & group]
            for cluster in clusters:
                group |= cluster if cluster & group else 0
            clusters = [*apart, group]
            grouped |= group
        return (available & ~grouped).bit_count() + sum(bool(c & available) for c in clusters)


def plan_rules(
    library: IntentLibrary, intents: Sequence[Intent], *, most_steps: int | None = None
) -> PlanRules:
    """The rules of a library; ``most_steps`` bounds plans whose length is announced beforehand.

    Whatever a plan holds, it can be brought to the minimum, else it is a GplanError; an announced
    length must be within reach whatever is taken, so the maximum is lowered to what always is.
    """
    of_tool: dict[str, int] = dict.fromkeys(library.tools, 0)
    free = yields = 0
    for i, intent in enumerate(intents):
        tool = intent[library.tool_key]
        of_tool[tool] |= 1 << i
        refers = any(
            v == library.previous_place for k, v in intent.items() if k != library.tool_key
        )
        free |= 0 if refers else 1 << i
        yields |= (1 << i) * library.tools[tool].yields_place
    groups = tuple(
        sum(of_tool[tool] for tool in dict.fromkeys(group)) for group in library.exclusive_groups
    )
    closes = []
    for i in range(len(intents)):
        together = 1 << i
        for group in groups:
            together |= group if group >> i & 1 else 0
        closes.append(together)
    minimum, maximum = library.plan_length.minimum, library.plan_length.maximum
    every = (1 << len(intents)) - 1
    rules = PlanRules(minimum, maximum, every, free, yields, tuple(closes), groups)
    reach = rules.within_reach(free)
    if reach < minimum:
        raise GplanError(
            f"A plan of the library {library.name} could get stuck after {reach} intents, but "
            f"plan_length.minimum is {minimum}: only {reach} are available whatever a plan holds "
            "already. Lower the minimum, or add intents without exclusive group or reference."
        )
    if most_steps is not None:
        maximum = min(maximum, most_steps, reach)
    if maximum < minimum:
        raise GplanError(
            f"The latent vocabulary has {most_steps} steps, but a plan of the library "
            f"{library.name} has at least {minimum} intents."
        )
    return replace(rules, maximum=maximum)
