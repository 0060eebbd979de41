"""The rules of a service at work: a plan for every context, and why each of its intents follows.

A plan is an opening of the first branch that holds, then what else the context calls for, then what
comes last. Only intents that a fact supports are planned; among those that are supported alike the
user's taste decides, so that most users get the weightiest. What the facts leave too short is
filled up. Whatever the rules say, the plan passes the filter.
"""

from __future__ import annotations

import string
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import (
    Intent,
    IntentLibrary,
    Plan,
    Sample,
    Service,
    canonical_plan,
    check_plan,
    facts_of,
)
from gplan_jax.gsisr.facts import Facts
from gplan_jax.gsisr.service import RULES
from gplan_jax.reasoning import ReasoningTrace, write_trace
from gplan_jax.synthesis.rules.rule_file import FACTS, Branch, RuleFile, holds, matches
from gplan_jax.synthesis.rules.taste import Draws, digest_of

MOST_REASONS = 2


@dataclass(frozen=True)
class Told:
    """What the rules know of a row: facts, columns, and aspects with their phrases."""

    known: Mapping[str, Any]  # fact, column or aspect -> value; an aspect that does not hold: None
    phrases: Mapping[str, str]  # aspect that holds -> its phrase; "" where it says nothing


class ServiceRules:
    """Plans with a service's library and explains its plans by its rules.yaml."""

    def __init__(self, library: IntentLibrary) -> None:
        """Raises GplanError where the service has no rules, or they don't fit it."""
        if library.folder is None:
            raise GplanError(f"The library {library.name} is of no service, so it has no rules.")
        path = Service.load(library.folder).part(RULES)
        self.file, self.library = RuleFile.load(path, library), library
        self._possible = list(_possible_intents(library))

    def tell(self, sample: Sample) -> Told:
        """The aspects of a row; GplanError where a time of it can't be read."""
        return self.tell_facts(facts_of(sample), sample.context())

    def tell_facts(self, facts: Facts, columns: Mapping[str, str]) -> Told:
        """The same from a row's facts and columns."""
        known: dict[str, Any] = {name: getattr(facts, name) for name in FACTS} | dict(columns)
        known |= {"weekday": facts.now.strftime("%A").lower(), "minute": facts.now.minute}
        known["ends_with_day"] = False
        if facts.hours_to_end is not None:
            # Hours are fractions: back to whole seconds, so that a midnight stays a midnight.
            end = facts.now + timedelta(seconds=round(facts.hours_to_end * 3600))
            at_end = f"{end:%H:%M:%S}" in ("00:00:00", "23:59:59")
            known["ends_with_day"] = at_end and end.date() == facts.now.date()
        return self.complete(known, {})

    def complete(
        self, known: dict[str, Any], phrases: dict[str, str], given: Collection[str] = ()
    ) -> Told:
        """What is known with all aspects but the ``given`` ones, which are among it."""
        for name, cases in self.file.aspects.items():
            if name in given:
                continue
            case = next((case for case in cases if holds(case.when, known)), None)
            known[name] = case.value if case else None
            if case:
                words = {n: "" if v is None else v for n, v in known.items()} | phrases
                phrases[name] = " ".join(_filled(case.say, words).split("\n"))
        return Told(known, phrases)

    def label(self, sample: Sample) -> str:
        """A raw label: reasoning and plan. GplanError where the context can't be read."""
        told = self.tell(sample)
        plan = self.plan(told, Draws(digest_of(sample)))
        return write_trace(self._trace(plan, told)) + canonical_plan(plan, self.library)

    def trace(self, sample: Sample, plan: Plan) -> ReasoningTrace:
        """The trace of ``plan`` in the context of ``sample``; GplanError where it has no intent."""
        if not plan:
            raise GplanError(f"Row {sample.id} has an empty plan; there is nothing to explain.")
        return self._trace(plan, self.tell(sample))

    def plan(self, told: Told, taste: Draws) -> Plan:
        """The plan that the rules derive for a context and a taste."""
        file, lengths = self.file, self.library.plan_length
        found: Plan = []

        def add(intents: Sequence[Intent], most: int) -> None:
            for intent in intents:
                if len(found) < most and self._may_follow(found, intent):
                    found.append(intent)

        openings = self.openings(told)
        if openings:
            add(taste.choose("opening", openings), lengths.maximum)
        wanted = lengths.minimum
        if file.lengths:
            wanted = taste.choose("length", list(file.lengths.items()))
        last = [
            file.intents[name]
            for name, share in file.last.items()
            if self.reasons(file.intents[name], told) and taste.level(f"last {name}") < share
        ]
        offers: dict[str, float] = {}
        for offer in file.offers:
            if holds(offer.when, told.known):
                for name, weight in offer.add.items():
                    offers[name] = offers.get(name, 0.0) + weight
        # The larger of level^(1/w) comes first: a weighted draw without replacement.
        order = sorted(offers, key=lambda n: -(taste.level(f"offer {n}") ** (1 / offers[n])))
        add([i for i in map(file.intents.__getitem__, order) if self._supported(i, found, told)],
            wanted - len(last))  # fmt: skip
        add([file.intents[name] for name in file.fill], wanted - len(last))
        add(last, max(wanted, len(found) + 1))
        add(self._possible, lengths.minimum)
        if len(found) < lengths.minimum:
            raise GplanError(
                f"The rules of {self.library.name} find {len(found)} intents for a plan of at "
                f"least {lengths.minimum}; add some to fill in {RULES}, or lower the minimum."
            )
        return found

    def all_openings(self, told: Told) -> list[tuple[Plan, float]]:
        """The openings of the first branch that holds, and their weights."""
        branch = self._branch(self.file.openings, told)
        return [(self.file.plan(n), w) for n, w in branch.open.items()] if branch else []

    def openings(self, told: Told) -> list[tuple[Plan, float]]:
        """Those of them that the facts support; the first where they support none."""
        found = self.all_openings(told)
        supported = [
            (plan, weight)
            for plan, weight in found
            if all(self._supported(intent, plan[:i], told) for i, intent in enumerate(plan))
        ]
        return supported or found[:1]

    def reasons(self, intent: Intent, told: Told) -> tuple[str, ...]:
        """The phrases of the row that support an intent, the strongest first; may be empty."""
        found = []
        for reason in self.file.reasons:
            if matches(reason.intents, intent) and holds(reason.when, told.known):
                for entry in reason.say:
                    aspect = next(iter(entry))
                    if self._speaks(aspect, intent) and holds(entry, told.known):
                        found.append(told.phrases.get(aspect, ""))
        return tuple(dict.fromkeys(phrase for phrase in found if phrase))

    def _speaks(self, aspect: str, intent: Intent) -> bool:
        """Whether an aspect may be a reason for an intent: not of where it does not start."""
        here = self.file.here
        if here is None or aspect not in here.aspects:
            return True
        return intent.get(here.parameter, here.value) == here.value

    def link(self, intent: Intent, earlier: Plan) -> str | None:
        """How an intent follows from those before it, None where it stands by itself."""
        if self._refers(intent):
            return self.file.words.follows
        for link in self.file.links:
            if matches(link.intents, intent) and any(matches(link.after, i) for i in earlier):
                return link.say
        return None

    def words_of(self, intent: Intent) -> str:
        """The intent in words, as a step says it."""
        return self._phrase(intent, "step")

    def stage(self, intent: Intent) -> int | None:
        """The stage of a trip that an intent belongs to, None for any."""
        found = (i for i, pattern in enumerate(self.file.stages) if matches(pattern, intent))
        return next(found, None)

    def objections(self, intent: Intent, told: Told) -> list[str]:
        """What speaks against an intent in this context."""
        return [
            one.say
            for one in self.file.against
            if matches(one.intents, intent) and holds(one.when, told.known)
        ]

    def _branch(self, branches: Sequence[Branch], told: Told) -> Branch | None:
        branch = next((one for one in branches if holds(one.when, told.known)), None)
        return self._branch(branch.then, told) if branch and branch.then else branch

    def _supported(self, intent: Intent, earlier: Plan, told: Told) -> bool:
        return bool(self.reasons(intent, told) or self.link(intent, earlier))

    def _refers(self, intent: Intent) -> bool:
        library = self.library
        values = [value for key, value in intent.items() if key != library.tool_key]
        return library.previous_place is not None and library.previous_place in values

    def _may_follow(self, plan: Plan, intent: Intent) -> bool:
        """Whether the filter still passes a plan that goes on with an intent."""
        text = canonical_plan([*plan, intent], self.library)
        return {v.code for v in check_plan(text, self.library)} <= {"too_short"}

    def _phrase(self, intent: Intent, kind: str) -> str:
        library, tool = self.library, self.library.tools[intent[self.library.tool_key]]
        name = tool.meaning or intent[library.tool_key]
        values = {
            key: (library.parameters[key].values or {}).get(value) or value
            for key, value in intent.items()
            if key != library.tool_key
        }
        for phrase in self.file.phrases:
            said = getattr(phrase, kind)
            if said is not None and matches(phrase.intents, intent):
                return _filled(
                    said, {**dict.fromkeys(library.parameters, ""), **values, "tool": name}
                )
        return name if kind == "need" or not values else f"{name} ({', '.join(values.values())})"

    def _trace(self, plan: Plan, told: Told) -> ReasoningTrace:
        # CONTEXT: facts of the row alone.
        words = self.file.words
        names = self.file.context or list(self.file.aspects)
        context = words.comma.join(p for name in names if (p := told.phrases.get(name)))
        # STRATEGY: the facts behind the first intent, then the needs in the plan's order.
        why = words.comma.join(self.reasons(plan[0], told)[:MOST_REASONS]) or words.habit
        first, *others = dict.fromkeys(self._phrase(intent, "need") for intent in plan)
        strategy = why + words.why + _filled(words.first, {"need": first})
        if others:
            strategy += _filled(words.then, {"needs": words.between.join(others)})
        said = {"CONTEXT": context or words.habit, "STRATEGY": strategy}
        # STEP_i: the i-th intent in words and up to two facts that support it.
        for i, intent in enumerate(plan):
            link = self.link(intent, plan[:i])
            found = [*([link] if link else []), *self.reasons(intent, told)]
            supported = words.comma.join(found[:MOST_REASONS]) or words.habitual
            said[f"STEP_{i + 1}"] = f"{self.words_of(intent)}{words.why}{supported}"
        return ReasoningTrace(tuple((n, plain(text) + words.stop) for n, text in said.items()))


def plain(text: str) -> str:
    """The text on one line and without what tags and plans are told by."""
    return " ".join(text.translate({ord(c): " " for c in "<>"}).split()) or "-"


class _Lenient(string.Formatter):
    def get_field(self, name: str, args: Any, kwargs: Any) -> Any:
        return kwargs[name], name  # The name as it stands: columns may hold dots and brackets.


def _filled(text: str, values: Mapping[str, Any]) -> str:
    try:
        return _Lenient().vformat(text, (), values)
    except (KeyError, ValueError, IndexError) as error:
        raise GplanError(f"{RULES}: {text!r} can't be filled in: no {error}.") from None


def _possible_intents(library: IntentLibrary) -> Iterator[Intent]:
    """An intent a tool, without a reference to an earlier place: what fills up any plan."""
    for name, tool in library.tools.items():
        intent = {library.tool_key: name}
        for key in tool.parameters:
            values = [v for v in library.parameters[key].values or ("-",) if v]
            own = [value for value in values if value != library.previous_place]
            if not own:
                break
            intent[key] = own[0]
        else:
            yield library.canonical_intent(intent)
    for name, tool in library.tools.items():
        for key in tool.parameters:
            base = {
                k: next(iter([v for v in library.parameters[k].values or ("-",)
                              if v and v != library.previous_place]), "-")
                for k in tool.parameters
            }  # fmt: skip
            for value in library.parameters[key].values or ("-", "--"):
                if value and value != library.previous_place:
                    yield library.canonical_intent({library.tool_key: name, **base, key: value})
