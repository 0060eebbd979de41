"""The rules of a service at work: a plan for every context, and why each of its intents follows.

A plan is an opening of the first branch that holds (the most pressing need), then a middle of what
else the context calls for, then what comes last. Only intents that a fact supports are planned;
among those that are supported alike the user's taste decides, so that most users get the
weightiest. What the facts leave too short is filled up. Whatever the rules say, the plan passes the
filter. The blocks of the reasoning follow the paper's "Chain of Thought Structure" (section 4.1.1).
"""

from __future__ import annotations

import math
import string
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
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
from gplan_jax.gsisr.service import RULES
from gplan_jax.reasoning import ReasoningTrace, write_trace
from gplan_jax.synthesis.rules.rule_checks import FACTS, load_rules
from gplan_jax.synthesis.rules.rule_file import (
    HISTORY,
    Branch,
    Case,
    Drawn,
    Liking,
    Reason,
    holds,
    matches,
    reference,
)
from gplan_jax.synthesis.rules.taste import Draws, digest_of

MOST_REASONS = 2  # that a step or a strategy gives
MOST_KEPT = 4096  # intents whose reasons are remembered


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
        service = Service.load(library.folder)
        if unknown := [tool for tool in library.tools if tool not in service.library.tools]:
            raise GplanError(
                f"The rules of {service.name} know its own tools; library {library.name} also has "
                f"{', '.join(unknown)}. Add them to the service's library and rules."
            )
        path = service.part(RULES)
        self.file, self.library = load_rules(path, library), library
        self._possible = list(_possible_intents(library))
        # Intent -> the reasons of its pattern: asked for twenty times a plan.
        self._reasons: dict[tuple[tuple[str, str], ...], list[Reason]] = {}

    def tell(self, sample: Sample) -> Told:
        """The aspects of a row; GplanError where a time of it can't be read."""
        facts = facts_of(sample)
        known: dict[str, Any] = {name: getattr(facts, name) for name in FACTS} | sample.context()
        known |= {"weekday": facts.now.strftime("%A").lower(), "minute": facts.now.minute}
        known[HISTORY] = sample.short_term_behavior_seq + sample.long_term_behavior
        known["ends_with_day"] = False
        if facts.hours_to_end is not None:
            # Hours are fractions: back to whole seconds, so that a midnight stays a midnight.
            end = facts.now + timedelta(seconds=round(facts.hours_to_end * 3600))
            at_end = f"{end:%H:%M:%S}" in ("00:00:00", "23:59:59")
            known["ends_with_day"] = at_end and end.date() == facts.now.date()
        return self.complete(known)

    def complete(self, known: dict[str, Any]) -> Told:
        """What is known with all aspects."""
        phrases: dict[str, str] = {}
        told = Told(known, phrases)
        for name, cases in self.file.aspects.items():
            case = _case(cases, known)
            known[name] = case.value if case else None
            if case:
                phrases[name] = self.say(case.say, told)
        return told

    def label(self, sample: Sample) -> str:
        """A raw label: reasoning and plan. GplanError where the context can't be read."""
        told = self.tell(sample)
        plan = self.plan(told, self.taste(sample))
        return write_trace(self._trace(plan, told)) + canonical_plan(plan, self.library)

    def trace(self, sample: Sample, plan: Plan) -> ReasoningTrace:
        """The trace of ``plan`` in the context of ``sample``; GplanError where it has no intent."""
        if not plan:
            raise GplanError(f"Row {sample.id} has an empty plan; there is nothing to explain.")
        return self._trace(plan, self.tell(sample))

    def taste(self, sample: Sample) -> Draws:
        """The taste of a row's user."""
        return Draws(digest_of(sample, self.file.taste))

    def plan(self, told: Told, taste: Draws) -> Plan:
        """The plan that the rules derive for a context and a taste."""
        file, bounds = self.file, self.library.plan_length
        openings = self.openings(told)
        opening = taste.choose("opening", openings) if openings else []
        found = [*opening]  # which the filter passed when the rules were read

        def add(intents: Sequence[Intent], most: int) -> None:
            for intent in intents:
                if len(found) < most and self._sound([*found, intent]):
                    found.append(intent)

        # What is known of the plan now that it has its opening.
        known: dict[str, Any] = dict(told.known)
        known |= {n: taste.choose(n, list(weights.items())) for n, weights in file.draws.items()}
        known |= {"plan": opening, "steps": len(opening), "slot": 0}
        lengths = next((one for one in file.lengths if holds(one.when, known)), None)
        wanted = taste.choose("length", list(lengths.of.items())) if lengths else bounds.minimum
        known |= {"length": wanted, "middle": 0}
        known = self._course(known)
        # The middle, the most wanted first, each intent for its slot.
        middle: Plan = []
        for slot, name in enumerate(self._slots(known, taste)):
            intent = self._intent(name, self._course({**known, "slot": slot}))
            if intent not in (*opening, *middle) and self.reasons(intent, told):
                middle.append(intent)
        known["middle"] = len(middle)
        for extra in file.extras:
            if holds(extra.when, known):
                intent = self._intent(extra.add, known)
                if intent not in (*opening, *middle) and self.reasons(intent, told):
                    middle.insert(extra.at, intent)
        last = [
            (one, intent)
            for one in file.last
            if holds(one.when, known) and self.reasons(intent := self._intent(one.add, known), told)
        ]
        add(middle, wanted - len(last))
        add([self._intent(name, known) for name in file.fill], wanted - len(last))
        # What comes last has its place even in a plan that its opening has filled.
        most = max(wanted, len(found) + 1)
        for one, intent in last:
            known["middle"] = len(found) - len(opening)
            ahead = one.ahead and found and matches(one.ahead.intents, found[-1])
            at = len(found) - bool(ahead and one.ahead and holds(one.ahead.when, known))
            if len(found) < most and self._sound([*found[:at], intent, *found[at:]]):
                found.insert(at, intent)
        add(self._possible, bounds.minimum)
        if len(found) < bounds.minimum:
            raise GplanError(
                f"The rules of {self.library.name} find {len(found)} intents for a plan of at "
                f"least {bounds.minimum}; add some to fill in {RULES}, or lower the minimum."
            )
        return found

    def _course(self, known: Mapping[str, Any]) -> dict[str, Any]:
        """What is known with the aspects of a plan's course."""
        found = dict(known)
        for name, cases in self.file.course.items():
            case = _case(cases, found)
            found[name] = case.value if case else None
        return found

    def _slots(self, known: Mapping[str, Any], taste: Draws) -> list[str]:
        """The intents of the middle by name, drawn offers among them."""
        offers: dict[str, float] = {}
        for offer in self.file.offers:
            if holds(offer.when, known):
                for name, weight in offer.add.items():
                    offers[name] = offers.get(name, 0.0) + weight
        likings = self._likings(known)
        for name in offers:
            offers[name] *= _times([form.intent for form in self.file.forms[name]], likings)
        every: list[str | Drawn] = [Drawn(offer=f"offer {n + 1}") for n in range(len(offers))]
        middle = next((one.of for one in self.file.middle if holds(one.when, known)), every)
        names: dict[str, None] = {}
        for slot in middle:
            if not isinstance(slot, Drawn):
                names[slot] = None
            elif offers:
                name = taste.choose(slot.offer, list(offers.items()))
                del offers[name]
                names[name] = None
        return list(names)

    def _intent(self, name: str, known: Mapping[str, Any]) -> Intent:
        """An intent as the first of its forms that holds writes it."""
        forms = self.file.forms[name]
        form = next((one for one in forms if holds(one.when, known)), forms[-1])
        intent = dict(form.intent)
        for key in self.library.parameters.keys() & intent:
            if (asked := reference(intent[key])) is not None:
                intent[key] = known[asked]
        return intent

    def _likings(self, known: Mapping[str, Any]) -> list[Liking]:
        """Those that hold for this user."""
        return [liking for liking in self.file.likings if holds(liking.when, known)]

    def openings(self, told: Told) -> list[tuple[Plan, float]]:
        """The openings of the first branch that holds, those that the facts support, and their
        weights; where they support none, the one for that."""
        branch = self.branch(self.file.openings, told)
        plans = [(self.file.plan(n), weight) for n, weight in branch.open.items()] if branch else []
        likings = self._likings(told.known)
        supported = [
            (plan, weight * _times(plan, likings))
            for plan, weight in plans
            if all(self._supported(intent, plan[:i], told) for i, intent in enumerate(plan))
        ]
        if supported or self.file.otherwise is None:
            return supported or plans[:1]
        return [(self.file.plan(self.file.otherwise), 1.0)]

    def reasons(self, intent: Intent, told: Told) -> tuple[str, ...]:
        """The phrases of the row that support an intent, the strongest first; may be empty."""
        found = []
        key = tuple(intent.items())
        of_intent = self._reasons.get(key)
        if of_intent is None:
            of_intent = [r for r in self.file.reasons if matches(r.intents, intent)]
            if len(self._reasons) < MOST_KEPT:
                self._reasons[key] = of_intent
        for reason in of_intent:
            if holds(reason.when, told.known):
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

    def context(self, told: Told) -> tuple[str, ...]:
        """The phrases that a CONTEXT says, in its order."""
        names = self.file.context or list(self.file.aspects)
        return tuple(phrase for name in names if (phrase := told.phrases.get(name)))

    def link(self, intent: Intent, earlier: Plan) -> str | None:
        """How an intent follows from those before it, None where it stands by itself."""
        if self.refers(intent):
            return self.file.words.follows
        for link in self.file.links:
            if matches(link.intents, intent) and any(matches(link.after, i) for i in earlier):
                return link.say
        return None

    def words_of(self, intent: Intent) -> str:
        """The intent in words, as a step says it."""
        return self._phrase(intent, "step")

    def say(self, text: str, told: Told) -> str:
        """A text with the facts, columns and phrases that it names in braces."""
        if "{" in text:
            words = {name: "" if value is None else value for name, value in told.known.items()}
            text = _filled(text, {**words, **told.phrases})
        return " ".join(text.split("\n"))

    def branch(self, branches: Sequence[Branch], told: Told) -> Branch | None:
        """The branch that holds for a row, the first at every level; None where none does."""
        branch = next((one for one in branches if holds(one.when, told.known)), None)
        return self.branch(branch.then, told) if branch and branch.then else branch

    def _supported(self, intent: Intent, earlier: Plan, told: Told) -> bool:
        return bool(self.reasons(intent, told) or self.link(intent, earlier))

    def refers(self, intent: Intent) -> bool:
        """Whether an intent refers to the place of an earlier one."""
        library = self.library
        values = [value for key, value in intent.items() if key != library.tool_key]
        return library.previous_place is not None and library.previous_place in values

    def _sound(self, plan: Plan) -> bool:
        """Whether the filter passes a plan that may go on."""
        text = canonical_plan(plan, self.library)
        return {v.code for v in check_plan(text, self.library)} <= {"too_short"}

    def _phrase(self, intent: Intent, kind: str) -> str:
        library, tool = self.library, self.library.tools[intent[self.library.tool_key]]
        name = tool.meaning or intent[library.tool_key]
        called = self.file.words.values
        values = {
            key: called.get(value, value)
            if called
            else (library.parameters[key].values or {}).get(value) or value
            for key, value in intent.items()
            if key in library.parameters
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
        context = words.comma.join(self.context(told))
        # STRATEGY: the facts behind the first intent, then the needs in the plan's order.
        why = words.comma.join(self.reasons(plan[0], told)[:MOST_REASONS]) or words.habit
        first, *others = dict.fromkeys(self._phrase(intent, "need") for intent in plan)
        strategy = why + words.why + _filled(words.first, {"need": first})
        if others:
            strategy += _filled(words.then, {"needs": words.between.join(others)})
        for closing in self.file.closings:
            if any(matches(closing.intents, intent) for intent in plan):
                strategy += closing.say
        said = {"CONTEXT": context or words.habit, "STRATEGY": strategy}
        # STEP_i: the i-th intent in words and up to two facts that support it.
        for i, intent in enumerate(plan):
            link = self.link(intent, plan[:i])
            found = [*([link] if link else []), *self.reasons(intent, told)]
            supported = words.comma.join(found[:MOST_REASONS]) or words.habitual
            said[f"STEP_{i + 1}"] = f"{self.words_of(intent)}{words.why}{supported}"
        return ReasoningTrace(tuple((n, plain(text) + words.stop) for n, text in said.items()))


@cache
def shipped_rules(name: str) -> ServiceRules:
    """The rules of a shipped service."""
    return ServiceRules(Service.load(name).library)


def _times(intents: Sequence[Intent], likings: Sequence[Liking]) -> float:
    """How many times the weight of these intents counts."""
    liked = (one.times for one in likings if any(matches(one.intents, i) for i in intents))
    return math.prod(liked, start=1.0)


def _case(cases: Sequence[Case], known: Mapping[str, Any]) -> Case | None:
    """The first case that holds."""
    return next((case for case in cases if holds(case.when, known)), None)


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
