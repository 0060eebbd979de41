"""Does a rules.yaml fit its service, and itself? Every fault with its line."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gplan_jax.foundation.config import line_of, load_config
from gplan_jax.foundation.errors import GplanError, meant
from gplan_jax.gsisr import IntentLibrary, check_plan
from gplan_jax.gsisr.facts import Facts
from gplan_jax.gsisr.plans import canonical_plan
from gplan_jax.synthesis.rules.rule_file import (
    ABSENT,
    ANY,
    BOUNDS,
    COUNTS,
    HISTORY,
    OF_PLANS,
    Branch,
    Case,
    Condition,
    Drawn,
    RuleFile,
    reference,
)

FACTS = tuple(field.name for field in dataclasses.fields(Facts))
DERIVED = ("weekday", "minute", "ends_with_day", HISTORY)  # of the engine, beside the facts
Where = tuple[str | int, ...]
Faults = Iterator[tuple[Where, str]]


def load_rules(path: Path, library: IntentLibrary) -> RuleFile:
    """Reads and checks a rule file; GplanError names each fault with its line."""
    rules = load_config(RuleFile, path)
    faults = [
        f"line {line_of(path, *where)}: {'.'.join(map(str, where))}: {what}"
        for where, what in _Checks(rules, library).faults()
    ]
    if faults:
        raise GplanError(f"{path} does not fit the service:\n  " + "\n  ".join(faults))
    return rules


def _unknown(name: str, known: Iterable[object]) -> str:
    return f"{name} is not defined{meant(name, map(str, known))}"


class _Checks:
    """The checks of one file. ``values`` holds what has been defined so far: aspect -> values."""

    def __init__(self, rules: RuleFile, library: IntentLibrary) -> None:
        self.rules, self.library = rules, library
        self.columns = {name for name in library.form.columns if name != library.form.label}
        self.known: set[str] = {*FACTS, *DERIVED, *self.columns}
        self.values: dict[str, set[str]] = {}

    def faults(self) -> Faults:
        """All of them. Parts that hold for a row come first: they can't ask for a plan."""
        rules = self.rules
        yield from self.aspects("aspects", rules.aspects)
        for name in rules.context:
            if name not in rules.aspects:
                yield ("context",), _unknown(name, rules.aspects)
        yield from self.branches(("openings",), rules.openings)
        for part in ("reasons", "links", "phrases", "likings", "closings"):
            yield from self.matches((part,), getattr(rules, part))
        for number, link in enumerate(rules.links):
            yield from self.pattern(("links", number), link.after)
        for number, reason in enumerate(rules.reasons):
            for entry in reason.say:
                yield from self.condition(("reasons", number), entry)
                if not entry or next(iter(entry)) not in rules.aspects:
                    yield (
                        ("reasons", number),
                        f"{entry} begins with no aspect, so it says nothing",
                    )
        row = {**self.values}
        yield from self.planning()
        self.values, self.known = row, self.known - {*COUNTS}
        yield from self.judging()

    def planning(self) -> Faults:
        """What makes a plan that has its opening."""
        rules = self.rules
        for part, found in (("draws", rules.draws), ("course", rules.course)):
            for name in [
                n for n in found if n in rules.aspects or (n in rules.draws and n in rules.course)
            ]:
                yield (part, name), f"{name} is defined twice; call one of them otherwise"
        for name, weights in rules.draws.items():
            yield from self.weights(("draws", name), weights)
            self.values[name] = set(weights)
        self.known |= {*OF_PLANS, *COUNTS}
        yield from self.aspects("course", rules.course)
        for name in rules.intents:
            yield from self.intent(name)
        shortest, longest = self.library.plan_length.minimum, self.library.plan_length.maximum
        for number, lengths in enumerate(rules.lengths):
            where: Where = ("lengths", number)
            yield from self.condition(where, lengths.when)
            yield from self.weights(where, lengths.of)
            for length in lengths.of:
                if not shortest <= length <= longest:
                    yield where, f"{length} is no length of a plan: {shortest} to {longest}"
        for number, offer in enumerate(rules.offers):
            yield from self.condition(("offers", number), offer.when)
            yield from self.weights(("offers", number), offer.add)
            yield from self.names(("offers", number), offer.add)
        for number, middle in enumerate(rules.middle):
            yield from self.condition(("middle", number), middle.when)
            own = [name for name in middle.of if not isinstance(name, Drawn)]
            yield from self.names(("middle", number), own)
        for number, extra in enumerate(rules.extras):
            yield from self.condition(("extras", number), extra.when)
            yield from self.names(("extras", number), [extra.add])
        for number, last in enumerate(rules.last):
            yield from self.condition(("last", number), last.when)
            yield from self.names(("last", number), [last.add])
            yield from self.matches(("last", number, "ahead"), [last.ahead] if last.ahead else [])
        yield from self.names(("fill",), rules.fill)
        if rules.otherwise is not None:
            yield from self.opening(("otherwise",), rules.otherwise)

    def judging(self) -> Faults:
        """What the rule judge holds a whole plan to."""
        judge = self.rules.judge
        for name in judge.everywhere:
            if name not in self.rules.aspects:
                yield ("judge", "everywhere"), _unknown(name, self.rules.aspects)
        for pattern in judge.anytime:
            yield from self.pattern(("judge", "anytime"), pattern)
        for number, need in enumerate(judge.needs):
            yield from self.condition(("judge", "needs", number), need.when)
            for part in ("met", "fair"):
                yield from self.matches(("judge", "needs", number, part), getattr(need, part))
        for part in ("stages", "depends", "chains", "against", "ignored", "fits", "suits"):
            yield from self.matches(("judge", part), getattr(judge, part))
        for number, stage in enumerate(judge.stages):
            for name in filter(None, (stage.at, stage.until)):
                if name not in judge.trip:
                    yield ("judge", "stages", number), "no stage: " + _unknown(name, judge.trip)

    def matches(self, where: Where, found: Sequence[Any]) -> Faults:
        """Patterns under ``for``, and their conditions."""
        for number, one in enumerate(found):
            yield from self.pattern((*where, number), one.intents)
            yield from self.condition((*where, number), getattr(one, "when", {}))

    def aspects(self, part: str, found: Mapping[str, list[Case]]) -> Faults:
        for name, cases in found.items():
            for number, case in enumerate(cases):
                yield from self.condition((part, name, number), case.when)
            self.values[name] = {case.value for case in cases}

    def condition(self, where: Where, said: Condition) -> Faults:
        for part in said if isinstance(said, list) else [said]:
            for name, wanted in part.items():
                if name in self.columns and name in (*OF_PLANS, *COUNTS):
                    yield (
                        where,
                        f"{name} asks for the plan; call the column otherwise",
                    )
                elif name in OF_PLANS and name in self.known:
                    for pattern in wanted if isinstance(wanted, list) else [wanted]:
                        yield from self.pattern(where, pattern)
                elif name in self.known or name in self.values:
                    yield from self.wanted(where, name, wanted)
                else:
                    near = _unknown(name, {*self.values, *self.known})
                    yield where, f"no aspect, fact or column: {near}"

    def wanted(self, where: Where, name: str, wanted: Any) -> Faults:
        inner = wanted["not"] if isinstance(wanted, dict) and "not" in wanted else wanted
        if isinstance(inner, dict):
            words = inner.get("words", [])
            if not isinstance(words, list) or {type(word) for word in words} - {str}:
                yield where, f"{name}: words are a list of texts, not {words}"
            if "words" in inner and name not in {HISTORY, *self.columns}:
                yield where, f"{name} has no words; {HISTORY} and columns have"
            if odd := set(inner) - {*BOUNDS, "words"}:
                yield where, f"{name}: bounds are {', '.join(BOUNDS)}, not {', '.join(odd)}"
        elif name in self.values:
            for value in inner if isinstance(inner, list) else [inner]:
                if value is not None and value not in self.values[name]:
                    near = _unknown(value, self.values[name])
                    yield where, f"{name} is never {value}: {near}"

    def pattern(self, where: Where, said: Any) -> Faults:
        if not isinstance(said, dict):
            yield where, f"{said} is no pattern: give parameters and their values"
            return
        for key, wanted in said.items():
            if key not in self.library.keys:
                yield where, "no parameter: " + _unknown(key, self.library.keys)
                continue
            inner = wanted.get("not") if isinstance(wanted, dict) else wanted
            for value in inner if isinstance(inner, list) else [inner]:
                if value not in (ANY, ABSENT):
                    yield from self.value(where, key, str(value))

    def value(self, where: Where, key: str, value: str) -> Faults:
        library = self.library
        known: Mapping[str, Any] | None = library.tools
        if key != library.tool_key:
            known = library.parameters[key].values
        if known is not None and value not in known:
            yield where, f"{key}: " + _unknown(value, known)

    def intent(self, name: str) -> Faults:
        """The forms of an intent, with each value that a draw or an aspect may put in."""
        for number, form in enumerate(self.rules.forms[name]):
            several = isinstance(self.rules.intents[name], list)
            where: Where = ("intents", name, number) if several else ("intents", name)
            yield from self.condition(where, form.when)
            intent = dict(form.intent)
            for key, value in form.intent.items():
                asked = reference(value)
                if asked is None or key not in self.library.parameters:
                    continue
                if asked not in self.values:
                    yield where, "no draw or aspect: " + _unknown(asked, self.values)
                found = sorted(self.values.get(asked, set()))
                for one in found:
                    yield from self.value(where, key, one)
                intent[key] = found[0] if found else value
            for violation in check_plan(canonical_plan([intent], self.library), self.library):
                if violation.tier == "schema":
                    yield where, violation.message.removeprefix("Intent 1: ")

    def names(self, where: Where, names: Iterable[str]) -> Faults:
        for name in names:
            if name not in self.rules.intents:
                yield where, "no intent: " + _unknown(name, self.rules.intents)

    def weights(self, where: Where, weights: Mapping[Any, float]) -> Faults:
        for name, weight in weights.items():
            if not weight > 0:
                yield where, f"{name}: its weight is {weight}; give one above 0"
        if not weights:
            yield where, "it names nothing to choose from"

    def opening(self, where: Where, text: str) -> Faults:
        names = [name.strip() for name in text.split("+")]
        faults = list(self.names(where, names))
        yield from faults
        if faults:
            return
        for name in names:
            forms = self.rules.forms[name]
            values = (v for k, v in forms[0].intent.items() if k in self.library.parameters)
            if len(forms) > 1 or any(map(reference, values)):
                faults.append((where, f"{name} hangs on draws; a plan opens with fixed intents"))
        yield from faults
        if not faults:
            for violation in check_plan(
                canonical_plan(self.rules.plan(text), self.library), self.library
            ):
                if violation.tier == "logic" or violation.code == "too_long":
                    yield where, f"{text}: {violation.message}"

    def branches(self, where: Where, found: list[Branch]) -> Faults:
        for number, branch in enumerate(found):
            here = (*where, number)
            yield from self.condition(here, branch.when)
            for text in branch.open:
                yield from self.opening(here, text)
            if bool(branch.open) is bool(branch.then):
                yield here, "a branch has either open or then"
            elif branch.open:
                yield from self.weights(here, branch.open)
            yield from self.branches((*here, "then"), branch.then)
