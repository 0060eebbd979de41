"""The rule judge: the rubric's three axes by the service's rules. No language model judges here.

It checks properties of a plan (stage order, time fit, place fit, order state), not its likeness to
any plan, so that different good plans do well. What it can't see: taste, tone, anything in the
history beyond ``facts_of``. Its evidence is shared with the rules that plan and explain, so it
favours their plans; it is a check, no substitute for a judge. What it holds a plan to is said by
the service's rules.yaml under ``judge`` (docs/services.md).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import combinations, islice
from typing import Any

from gplan_jax.evaluation.judge.judgement import (
    AxisScore,
    Findings,
    Judgement,
    Preference,
    score_of,
)
from gplan_jax.gsisr import IntentLibrary, Plan, Sample, canonical_plan, check_plan
from gplan_jax.gsisr.filter import schema_violations
from gplan_jax.synthesis.rules.rule_file import Match, Remark, holds, matches
from gplan_jax.synthesis.rules.service_rules import ServiceRules, Told

AXES: tuple[str, ...] = ("flow", "logic", "spatiotemporal")
EXTENDING = 2  # later intents with a reason of this very context that extend the first one
STAGED = 3  # intents with a stage of their own that a progression needs


@dataclass(frozen=True)
class Case:
    """A plan in its context: the intents that the library admits, and the tools of the others."""

    rules: ServiceRules
    told: Told
    plan: Plan
    broken: tuple[str, ...]

    @cached_property
    def known(self) -> Mapping[str, Any]:
        """What conditions may ask for."""
        return {**self.told.known, "plan": self.plan}

    def words(self, index: int) -> str:
        """An intent in words."""
        return self.rules.words_of(self.plan[index])

    def reasons(self, index: int) -> tuple[str, ...]:
        """What in this very context supports an intent; what holds on every trip is left out."""
        intent = self.plan[index]
        everywhere = [self.told.phrases.get(a) for a in self.rules.file.judge.everywhere]
        found = [r for r in self.rules.reasons(intent, self.told) if r not in everywhere]
        link = self.rules.link(intent, self.plan[:index])
        return (*([link] if link else []), *found)

    def said(self, remarks: Sequence[Remark], index: int) -> list[str]:
        """What the remarks say of an intent."""
        return [
            self.rules.say(one.say, self.told)
            for one in remarks
            if matches(one.intents, self.plan[index]) and holds(one.when, self.known)
        ]

    def of_plan(self, remarks: Sequence[Remark]) -> list[str]:
        """What they say of the whole plan."""
        return [self.rules.say(r.say, self.told) for r in remarks if holds(r.when, self.known)]


def case_of(sample: Sample, plan: Plan, rules: ServiceRules) -> Case:
    """Sorts out the intents that the library does not admit, which the rules can't speak of."""
    library, told = rules.library, rules.tell(sample)
    broken = [intent for intent in plan if any(schema_violations(intent, library))]
    sound = [intent for intent in plan if intent not in broken]
    return Case(rules, told, sound, tuple(str(i.get(library.tool_key, "no tool")) for i in broken))


def flow_findings(case: Case) -> Findings:
    """Judges the first intent against the most pressing need, then what follows it."""
    if not case.plan:
        return Findings()
    words, met = _need(case)
    # A later intent follows from the context or from the intents before it.
    reasons = {i: case.reasons(i) for i in range(1, len(case.plan))}
    anytime = case.rules.file.judge.anytime
    drift = [
        i
        for i, found in reasons.items()
        if not found and not any(matches(one, case.plan[i]) for one in anytime)
    ]
    failures = []
    if met is False:
        failures.append(f"missed anchor: {words}, but the plan opens with {case.words(0)}")
    if len(drift) > 1 and 2 * len(drift) >= len(case.plan) - 1:
        listed = ", ".join(case.words(i) for i in drift)
        failures.append(f"topic drift: nothing in the context asks for {listed}")
    positive = []
    if met:
        positive.append(f"first intent meets the need: {words}")
        personal = [found[0] for found in reasons.values() if found]
        if len(personal) >= EXTENDING and not drift:
            positive.append(f"later intents extend it: {', '.join(dict.fromkeys(personal))}")
    return Findings(positive, failures)


def _need(case: Case) -> tuple[str, bool | None]:
    """The most pressing need in words, and whether the first intent meets it (True), does nothing
    either way (None) or passes it over (False)."""

    def among(found: Sequence[Match]) -> bool:
        first = case.plan[0]
        return any(matches(one.intents, first) and holds(one.when, case.known) for one in found)

    for need in case.rules.file.judge.needs:
        if holds(need.when, case.known):
            return need.say, among(need.met) or (None if among(need.fair) else False)
    openings = [plan[0] for plan, _ in case.rules.openings(case.told)]
    words = ", ".join(dict.fromkeys(map(case.rules.words_of, openings)))
    fair = None if case.rules.reasons(case.plan[0], case.told) else False
    return f"the context calls for {words or 'something else'}", case.plan[0] in openings or fair


def logic_findings(case: Case) -> Findings:
    """Are the stages of the trip in order, and is what an intent builds upon there before it?

    Counts inversions and unmet dependencies; names progressions and chains where there is none.
    """
    rules, judge, plan = case.rules, case.rules.file.judge, case.plan
    stages = [stages_of(case, i) for i in range(len(plan))]
    inverted = inversions(stages)
    failures = []
    if inverted:
        i, j = inverted[0]
        failures.append(f"stage inversion: {case.words(i)} stands before {case.words(j)}")
    # References to an earlier place that no earlier intent yields, and what is lacking before.
    tools = [rules.library.tools[intent[rules.library.tool_key]] for intent in plan]
    consumers = [i for i, intent in enumerate(plan) if rules.refers(intent)]
    lost = [i for i in consumers if not any(tool.yields_place for tool in tools[:i])]
    unmet = [f"{case.words(i)} before any place is given" for i in lost]
    lacking = (
        f"{case.words(i)} {one}" for i in range(len(plan)) for one in case.said(judge.depends, i)
    )
    unmet += islice(lacking, 1)
    if judge.filter:
        violations = check_plan(canonical_plan(plan, rules.library), rules.library)
        unmet += [
            v.message for v in violations if v.tier == "logic" and v.code != "unresolved_reference"
        ]
    if unmet:
        failures.append(f"unmet dependency: {unmet[0]}")
    if failures:
        # Failures count one by one, whatever their kind, so that curing one by causing another
        # is no gain.
        faults = len(inverted) + len(unmet)
        systemic = faults > 1 and 2 * faults > _required(stages) + len(consumers)
        return Findings(failures=["; ".join(failures)], systemic=systemic)
    positive = []
    own = [stage for stage in stages if stage is not None]
    if len(own) >= STAGED and _required(own):
        names = [judge.trip[stage[0]] for stage in sorted(set(own))]
        positive.append(f"clean progression: {' -> '.join(dict.fromkeys(names))}")
    links = filter(None, (rules.link(intent, plan[:i]) for i, intent in enumerate(plan)))
    chains = case.of_plan(judge.chains) if judge.chains else list(links)
    return Findings(positive=[*positive, *chains[:1]])


Stages = tuple[int, int]


def stages_of(case: Case, index: int) -> Stages | None:
    """The first and last stage that an intent may belong to, None for any; it does not look at the
    intent's position."""
    judge = case.rules.file.judge
    for stage in judge.stages:
        if matches(stage.intents, case.plan[index]) and holds(stage.when, case.known):
            return judge.trip.index(stage.at), judge.trip.index(stage.until or stage.at)
    return None


def inversions(stages: Sequence[Stages | None]) -> list[tuple[int, int]]:
    """The pairs (i, j), i < j, of which j should come before i."""
    staged = [(i, stage) for i, stage in enumerate(stages) if stage is not None]
    return [(i, j) for (i, a), (j, b) in combinations(staged, 2) if b[1] < a[0]]


def _required(stages: Sequence[Stages | None]) -> int:
    """How many pairs have a right order at all."""
    pairs = combinations([stage for stage in stages if stage is not None], 2)
    return sum(a[1] < b[0] or b[1] < a[0] for a, b in pairs)


def fit_findings(case: Case) -> Findings:
    """Judges every intent's parameters against time, place and order, and what is left out."""
    judge, every = case.rules.file.judge, range(len(case.plan))
    failures = [f"{tool} can't be carried out as written" for tool in case.broken]
    failures += [f"{case.words(i)}: {why}" for i in every for why in case.said(judge.against, i)]
    failures += case.of_plan(judge.ignored)
    if failures:
        return Findings(failures=failures)
    if not judge.fits and not judge.suits:
        reasons = (case.rules.reasons(intent, case.told)[:1] for intent in case.plan)
        return Findings(positive=list(dict.fromkeys(one for found in reasons for one in found)))
    # One sign where an intent fits the order's place and state.
    fits = (f"{case.words(i)} fits: {why}" for i in every for why in case.said(judge.fits, i))
    positive = list(islice(fits, 1))
    # One sign where every offer of places suits this time of day or these surroundings.
    offers = [i for i in every if any(matches(one.intents, case.plan[i]) for one in judge.suits)]
    suits = [next(iter(case.said(judge.suits, i)), "") for i in offers]
    if offers and all(suits):
        listed = ", ".join(f"{case.words(i)} ({why})" for i, why in zip(offers, suits, strict=True))
        positive.append(f"offers fit: {listed}")
    return Findings(positive=positive)


def judge_by_rules(sample: Sample, plan: Plan, rules: ServiceRules) -> dict[str, AxisScore]:
    """Axis -> score of a plan in the context of ``sample``, whose label is not looked at."""
    case = case_of(sample, plan, rules)
    if plan and not case.plan and rules.file.judge.filter:
        findings = (Findings(failures=["no intent can be carried out"]),) * len(AXES)
    else:
        findings = (flow_findings(case), logic_findings(case), fit_findings(case))
    return {axis: score_of(found) for axis, found in zip(AXES, findings, strict=True)}


class RuleJudge:
    """The rules as a ``Judge``."""

    name, axes, at_once = "rules", AXES, 1
    caution = (
        "rules is no language model: "
        "it checks stage order, time fit, place fit and order state only"
    )

    def __init__(self, library: IntentLibrary) -> None:
        """Raises GplanError where the library's service has no rules, or they don't fit it."""
        self._rules = ServiceRules(library)
        # The version is that of the rules.
        self.settings: Mapping[str, Any] = {
            "judge": self.name,
            "version": 1,
            "library": library.name,
        }

    async def judge(self, sample: Sample, plan: Plan) -> Judgement:
        return Judgement(judge_by_rules(sample, plan, self._rules))

    async def compare(self, sample: Sample, first: Plan, second: Plan) -> Preference:
        """Prefers the plan with the higher sum of scores, whichever comes first."""
        a, b = (
            sum(s.score for s in judge_by_rules(sample, plan, self._rules).values())
            for plan in (first, second)
        )
        reason = f"sums of scores: {a} and {b}"
        return Preference("tie" if a == b else "first" if a > b else "second", reason)

    def note(self) -> str:
        """Rules cost nothing."""
        return ""

    async def close(self) -> None:
        """Nothing is held."""
