"""rules.yaml: what a context calls for, as data; docs/services.md explains every key.

A condition is a mapping, all of which must hold, or a list of such, of which one must. Its keys are
aspects of the same file, facts (``Facts``) or the service's columns; its values one value, a list
of them, null for none, {not: ...}, bounds: {above, least, most, below}, or {words: [...]} with
bounds on how often these words occur. Where a plan is at hand, keys ask for its intents too:
``has`` (patterns each of which one matches), ``lacks`` (patterns that none matches), ``first``.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from typing import Any

from pydantic import Field

from gplan_jax.foundation.config import Config
from gplan_jax.gsisr import Intent, Plan
from gplan_jax.gsisr.row_form import Group

Condition = dict[str, Any] | list[dict[str, Any]]
BOUNDS = ("above", "least", "most", "below")
ANY, ABSENT = "any", "absent"  # in patterns of intents: whatever it says, and nothing
# Beside aspects, facts and columns: the text of both histories, and what a plan in the making tells
HISTORY = "history"
OF_PLANS = ("has", "lacks", "first")
COUNTS = ("steps", "length", "middle", "slot")


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


class Liking(Config):
    """What a user likes: openings and offers with an intent of a pattern weigh so much more."""

    intents: dict[str, Any] = Field(alias="for")
    when: Condition
    times: float


class Form(Config):
    """How an intent is written where the condition holds; {names} are draws and aspects."""

    when: Condition = Field(default_factory=dict)
    intent: Intent = Field(alias="is")


class Drawn(Config):
    """One of the offers that none has drawn yet, by the user's taste for this question."""

    offer: str


class Middle(Config):
    """What the middle of a plan is made of, in order: intents by name, and drawn offers."""

    when: Condition = Field(default_factory=dict)
    of: list[str | Drawn]


class Extra(Config):
    """What else the middle has at this index, 0 the first, where the condition holds."""

    add: str
    at: int
    when: Condition


class Match(Config):
    """Intents of a pattern, where the condition holds."""

    intents: dict[str, Any] = Field(alias="for", default_factory=dict)
    when: Condition = Field(default_factory=dict)


class Last(Config):
    """What comes last where the condition holds, or ahead of a last intent of a pattern."""

    add: str
    when: Condition = Field(default_factory=dict)
    ahead: Match | None = None


class Lengths(Config):
    """Length of a plan -> weight."""

    when: Condition = Field(default_factory=dict)
    of: dict[int, float]


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


class Remark(Match):
    """What is said of intents of a pattern where the condition holds."""

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
    # How values of parameters are called, the others as they are written; where this is left out,
    # all as the library says what they mean.
    values: dict[str, str] = Field(default_factory=dict)


class Need(Config):
    """A need that is the most pressing where the condition holds: what meets it as a plan's first
    intent, and what may stand there all the same."""

    when: Condition = Field(default_factory=dict)
    say: str
    met: list[Match] = Field(default_factory=list)
    fair: list[Match] = Field(default_factory=list)


class Stage(Match):
    """The stage of a trip that intents belong to, or the first and the last such stage."""

    at: str
    until: str | None = None


class JudgeRules(Config):
    """What the rule judge holds a plan to; conditions may ask for its intents."""

    # Flow. Where there are no needs, a plan should begin as ``openings`` say.
    needs: list[Need] = Field(default_factory=list)  # the first that holds
    everywhere: list[str] = Field(default_factory=list)  # aspects that are no reason of this trip
    anytime: list[dict[str, Any]] = Field(default_factory=list)  # patterns that need no reason
    # Logic. Where there are no chains, links speak for a plan.
    filter: bool = True  # whether what the rule filter's logic finds counts, too
    trip: list[str] = Field(default_factory=list)  # stages in their order
    stages: list[Stage] = Field(default_factory=list)  # the first that fits
    depends: list[Remark] = Field(default_factory=list)  # what is lacking before an intent
    chains: list[Remark] = Field(default_factory=list)  # what builds upon what, the first counts
    # Fit. Where nothing is said to fit, reasons speak for a plan.
    against: list[Remark] = Field(default_factory=list)
    ignored: list[Remark] = Field(default_factory=list)  # what a plan passes over
    fits: list[Remark] = Field(default_factory=list)  # why an intent fits, the first counts
    suits: list[Remark] = Field(default_factory=list)  # the same of offers; "" for doesn't


class RuleFile(Config):
    """A rule file as its YAML says it."""

    # Groups of columns whose texts make a user's taste.
    taste: list[Group] = Field(default=["profile", "history"], min_length=1)
    aspects: dict[str, list[Case]] = Field(min_length=1)
    context: list[str] = Field(default_factory=list)  # aspects that are said; all where empty
    intents: dict[str, Intent | list[Form]] = Field(min_length=1)
    openings: list[Branch] = Field(min_length=1)
    otherwise: str | None = None  # the opening where no fact supports any; the first where None
    likings: list[Liking] = Field(default_factory=list)
    draws: dict[str, dict[str, float]] = Field(default_factory=dict)  # name -> value -> weight
    # Aspects of a plan that has its opening, for each slot of its middle.
    course: dict[str, list[Case]] = Field(default_factory=dict)
    lengths: list[Lengths] = Field(default_factory=list)  # the first that holds
    offers: list[Offer] = Field(default_factory=list)
    middle: list[Middle] = Field(default_factory=list)  # the first that holds; else all offers
    extras: list[Extra] = Field(default_factory=list)
    last: list[Last] = Field(default_factory=list)
    fill: list[str] = Field(default_factory=list)  # where too few intents are supported
    reasons: list[Reason] = Field(default_factory=list)
    here: Here | None = None
    links: list[Link] = Field(default_factory=list)
    phrases: list[Phrase] = Field(default_factory=list)
    closings: list[Remark] = Field(default_factory=list)  # of strategies of plans with such intents
    words: Words = Words()
    judge: JudgeRules = JudgeRules()

    @cached_property
    def forms(self) -> Mapping[str, list[Form]]:
        """Name -> how the intent is written, of which the first that holds counts."""
        return {
            name: said if isinstance(said, list) else [Form.model_validate({"is": said})]
            for name, said in self.intents.items()
        }

    def plan(self, names: str) -> Plan:
        """The intents of "a + b"."""
        return [self.forms[name.strip()][0].intent for name in names.split("+")]


def reference(value: str) -> str | None:
    """The draw or aspect whose value stands in place of {name}; None for a value as it is."""
    return value[1:-1] if len(value) > 2 and value[0] == "{" and value[-1] == "}" else None


def matches(pattern: Mapping[str, Any], intent: Mapping[str, str]) -> bool:
    """Whether an intent has what a pattern says: a value, one of a list, "any", "absent", or
    {not: ...} of these."""
    return all(_fits(wanted, intent.get(key)) for key, wanted in pattern.items())


def _fits(wanted: Any, value: str | None) -> bool:
    if isinstance(wanted, list):
        return value in wanted or (value is None and ABSENT in wanted)
    if isinstance(wanted, dict):
        return not _fits(wanted["not"], value)
    if value is None or wanted == ABSENT:
        return value is None and wanted == ABSENT
    return value == wanted or wanted == ANY


def holds(condition: Condition, known: Mapping[str, Any]) -> bool:
    """Whether a condition holds for the values of aspects, facts and columns, and of a plan.

    The intents that ``has``, ``lacks`` and ``first`` ask for stand under "plan".
    """
    if isinstance(condition, list):
        return any(holds(one, known) for one in condition)
    return all(
        _of_plan(name, wanted, known["plan"]) if name in OF_PLANS else _test(wanted, known[name])
        for name, wanted in condition.items()
    )


def _of_plan(name: str, wanted: Any, plan: Plan) -> bool:
    if name == "first":
        return bool(plan) and matches(wanted, plan[0])
    patterns = wanted if isinstance(wanted, list) else [wanted]
    found = [any(matches(pattern, intent) for intent in plan) for pattern in patterns]
    return all(found) if name == "has" else not any(found)


def _test(wanted: Any, value: Any) -> bool:
    if isinstance(wanted, dict):
        if "not" in wanted:
            return not _test(wanted["not"], value)
        if value is None:
            return False
        if "words" in wanted:
            value = sum(value.count(word) for word in wanted["words"])
            wanted = {"least": 1, **wanted}
        return (
            ("above" not in wanted or value > wanted["above"])
            and ("least" not in wanted or value >= wanted["least"])
            and ("most" not in wanted or value <= wanted["most"])
            and ("below" not in wanted or value < wanted["below"])
        )
    return value in wanted if isinstance(wanted, list) else bool(value == wanted)
