"""rules.yaml: what a context calls for, as data; docs/services.md explains every key.

A condition is a mapping, all of which must hold, or a list of such, of which one must. Its keys are
aspects of the same file, facts (``Facts``) or the service's columns; its values one value, a list
of them, null for none, {not: ...}, or bounds: {above, least, most, below}.
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field

from gplan_jax.foundation.config import Config, line_of, load_config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Intent, IntentLibrary, check_plan
from gplan_jax.gsisr.facts import Facts
from gplan_jax.gsisr.plans import canonical_plan

Scalar = str | int | float | bool | None
Condition = dict[str, Any] | list[dict[str, Any]]
BOUNDS = ("above", "least", "most", "below")
ANY, ABSENT = "any", "absent"  # in patterns of intents: whatever it says, and nothing


class Case(Config):
    """A value that an aspect takes where the condition holds, and the phrase that says so."""

    value: str = Field(alias="is")
    when: Condition = Field(default_factory=dict)
    say: str = ""  # {names} in braces are facts, columns and phrases of aspects


class Branch(Config):
    """Openings where a condition holds, or further branches of which the first that holds counts.

    ``open`` is intents by name, with + between them -> weight.
    """

    when: Condition = Field(default_factory=dict)
    open: dict[str, float] = Field(default_factory=dict)
    then: list[Branch] = Field(default_factory=list)


class Offer(Config):
    """What else a context calls for: intents by name -> weight."""

    when: Condition = Field(default_factory=dict)
    add: dict[str, float]


class Reason(Config):
    """Why intents of a pattern follow: aspects that hold; the phrase of the first is the reason."""

    intents: dict[str, Any] = Field(alias="for")
    when: Condition = Field(default_factory=dict)
    say: list[dict[str, Any]]


class Here(Config):
    """Aspects of where the user is: no reason for an intent whose parameter has another value."""

    parameter: str
    value: str
    aspects: list[str]


class Link(Config):
    """Why an intent follows from an earlier one of the plan."""

    intents: dict[str, Any] = Field(alias="for")
    after: dict[str, Any]
    say: str


class Phrase(Config):
    """How an intent is said in a step, and the need behind it in a strategy."""

    intents: dict[str, Any] = Field(alias="for", default_factory=dict)
    step: str | None = None
    need: str | None = None


class Against(Config):
    """What the rule judge finds wrong with an intent where the condition holds."""

    intents: dict[str, Any] = Field(alias="for")
    when: Condition
    say: str


class Words(Config):
    """The words between the facts of a reasoning trace."""

    comma: str = ", "
    stop: str = "."
    why: str = ": "
    first: str = "first {need}"
    then: str = ", then {needs}"
    between: str = ", "  # of needs
    habit: str = "as usual"  # where no fact supports the first intent
    habitual: str = "a usual addition"  # where none supports another one
    follows: str = "follows from the step before"  # of a reference to an earlier place


class RuleFile(Config):
    """A rule file as its YAML says it."""

    aspects: dict[str, list[Case]] = Field(min_length=1)
    context: list[str] = Field(default_factory=list)  # aspects that are said; all where empty
    intents: dict[str, Intent] = Field(min_length=1)
    openings: list[Branch] = Field(min_length=1)
    offers: list[Offer] = Field(default_factory=list)
    last: dict[str, float] = Field(default_factory=dict)  # at the end, where supported -> share
    fill: list[str] = Field(default_factory=list)  # where too few intents are supported
    lengths: dict[int, float] = Field(default_factory=dict)  # length of plans -> weight
    reasons: list[Reason] = Field(default_factory=list)
    here: Here | None = None
    links: list[Link] = Field(default_factory=list)
    phrases: list[Phrase] = Field(default_factory=list)
    stages: list[dict[str, Any]] = Field(default_factory=list)  # patterns, in the order of a trip
    against: list[Against] = Field(default_factory=list)
    words: Words = Words()

    @classmethod
    def load(cls, path: Path, library: IntentLibrary) -> RuleFile:
        """Reads and checks a rule file; GplanError names each fault with its line."""
        rules = load_config(cls, path)
        faults = [
            f"line {line_of(path, *where)}: {'.'.join(map(str, where))}: {what}"
            for where, what in _faults(rules, library)
        ]
        if faults:
            raise GplanError(f"{path} does not fit the service:\n  " + "\n  ".join(faults))
        return rules

    def plan(self, names: str) -> list[Intent]:
        """The intents of "a + b"."""
        return [self.intents[name.strip()] for name in names.split("+")]


def matches(pattern: Mapping[str, Any], intent: Mapping[str, str]) -> bool:
    """Whether an intent has what a pattern says: a value, one of a list, "any" or "absent"."""
    for key, wanted in pattern.items():
        value = intent.get(key)
        if (wanted == ABSENT and value is not None) or (wanted == ANY and value is None):
            return False
        if wanted in (ANY, ABSENT):
            continue
        if value is None or value not in (wanted if isinstance(wanted, list) else [wanted]):
            return False
    return True


def holds(condition: Condition, known: Mapping[str, Any]) -> bool:
    """Whether a condition holds for the values of aspects, facts and columns."""
    if isinstance(condition, list):
        return any(holds(one, known) for one in condition)
    return all(_test(wanted, known[name]) for name, wanted in condition.items())


def _test(wanted: Any, value: Any) -> bool:
    if isinstance(wanted, dict):
        if "not" in wanted:
            return not _test(wanted["not"], value)
        if value is None:
            return False
        return (
            ("above" not in wanted or value > wanted["above"])
            and ("least" not in wanted or value >= wanted["least"])
            and ("most" not in wanted or value <= wanted["most"])
            and ("below" not in wanted or value < wanted["below"])
        )
    return value in wanted if isinstance(wanted, list) else bool(value == wanted)


FACTS = tuple(field.name for field in dataclasses.fields(Facts))
DERIVED = ("weekday", "minute", "ends_with_day")  # of the engine, beside the facts


def _faults(rules: RuleFile, library: IntentLibrary) -> Iterator[tuple[tuple[str | int, ...], str]]:
    columns = [name for name in library.form.columns if name != library.form.label]
    facts = {*FACTS, *DERIVED, *columns}
    aspects: dict[str, set[str]] = {}

    def unknown(name: str, known: object) -> str:
        near = difflib.get_close_matches(name, [str(k) for k in known], n=1)  # type: ignore[attr-defined]
        return f"{name} is not defined" + (f" (meant {near[0]}?)" if near else "")

    def condition(where: tuple[str | int, ...], said: Condition) -> Iterator[Any]:
        for part in said if isinstance(said, list) else [said]:
            for name, wanted in part.items():
                if name not in aspects and name not in facts:
                    yield where, "no aspect, fact or column: " + unknown(name, {*aspects, *facts})
                    continue
                inner = wanted["not"] if isinstance(wanted, dict) and "not" in wanted else wanted
                if isinstance(inner, dict) and (odd := set(inner) - set(BOUNDS)):
                    yield where, f"{name}: bounds are {', '.join(BOUNDS)}, not {', '.join(odd)}"
                if name in aspects and not isinstance(inner, dict):
                    for value in inner if isinstance(inner, list) else [inner]:
                        if value is not None and value not in aspects[name]:
                            yield (
                                where,
                                f"{name} is never {value}: " + unknown(value, aspects[name]),
                            )

    def pattern(where: tuple[str | int, ...], said: Mapping[str, Any]) -> Iterator[Any]:
        for key, wanted in said.items():
            if key not in library.keys:
                yield where, "no parameter: " + unknown(key, library.keys)
                continue
            known = library.tools if key == library.tool_key else library.parameters[key].values
            for value in wanted if isinstance(wanted, list) else [wanted]:
                if known is not None and value not in (ANY, ABSENT) and value not in known:
                    yield where, f"{key}: " + unknown(str(value), known)

    for name, cases in rules.aspects.items():
        for number, case in enumerate(cases):
            yield from condition(("aspects", name, number), case.when)
        aspects[name] = {case.value for case in cases}
    for name in rules.context:
        if name not in aspects:
            yield ("context",), unknown(name, aspects)
    for name, intent in rules.intents.items():
        broken = check_plan(canonical_plan([intent], library), library)
        for violation in broken:
            if violation.tier == "schema":
                yield ("intents", name), violation.message.removeprefix("Intent 1: ")

    def named(where: tuple[str | int, ...], names: Mapping[str, float]) -> Iterator[Any]:
        for text, weight in names.items():
            lacking = [n.strip() for n in text.split("+") if n.strip() not in rules.intents]
            for name in lacking:
                yield where, "no intent: " + unknown(name, rules.intents)
            if not weight > 0:
                yield where, f"{text}: its weight is {weight}; give one above 0"
            if not lacking:
                plan = canonical_plan(rules.plan(text), library)
                for violation in check_plan(plan, library):
                    if violation.tier == "logic" or violation.code == "too_long":
                        yield where, f"{text}: {violation.message}"

    def branches(where: tuple[str | int, ...], found: list[Branch]) -> Iterator[Any]:
        for number, branch in enumerate(found):
            here = (*where, number)
            yield from condition(here, branch.when)
            yield from named(here, branch.open)
            yield from branches((*here, "then"), branch.then)
            if bool(branch.open) is bool(branch.then):
                yield here, "a branch has either open or then"

    yield from branches(("openings",), rules.openings)
    for number, offer in enumerate(rules.offers):
        yield from condition(("offers", number), offer.when)
        for name, weight in offer.add.items():
            if name not in rules.intents:
                yield ("offers", number), "no intent: " + unknown(name, rules.intents)
            elif not weight > 0:
                yield ("offers", number), f"{name}: its weight is {weight}; give one above 0"
    for part, found in (("last", rules.last), ("fill", rules.fill)):
        for name in found:
            if name not in rules.intents:
                yield (part,), "no intent: " + unknown(name, rules.intents)
    for part in ("reasons", "links", "phrases", "against"):
        for number, one in enumerate(getattr(rules, part)):
            yield from pattern((part, number), one.intents)
            yield from condition((part, number), getattr(one, "when", {}))
            if isinstance(one, Link):
                yield from pattern((part, number), one.after)
            if isinstance(one, Reason):
                for entry in one.say:
                    yield from condition((part, number), entry)
                    if not entry or next(iter(entry)) not in aspects:
                        yield (part, number), f"{entry} begins with no aspect, so it says nothing"
    for number, stage in enumerate(rules.stages):
        yield from pattern(("stages", number), stage)
    shortest, longest = library.plan_length.minimum, library.plan_length.maximum
    for length in rules.lengths:
        if not shortest <= length <= longest:
            yield ("lengths",), f"{length} is no length of a plan: {shortest} to {longest}"
