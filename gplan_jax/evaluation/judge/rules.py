"""The rule judge: the rubric's three axes by fixed rules over facts. No language model judges here.

It checks properties of a plan (stage order, time fit, place fit, order state), not its likeness to
any plan, so that different good plans do well. What it can't see: taste, tone, anything in the
history beyond ``facts_of``. Its evidence is shared with the rules that explain the simulated
world's plans, so it favours that world's plans; it is a check, no substitute for a judge.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, combinations
from typing import Any

from gplan_jax.evaluation.judge.case import DUE, LATER, Case, case_of, is_way
from gplan_jax.evaluation.judge.judgement import (
    AxisScore,
    Findings,
    Judgement,
    Preference,
    score_of,
)
from gplan_jax.evaluation.judge.service_findings import judge_by_service
from gplan_jax.evaluation.judge.spatiotemporal import spatiotemporal_findings
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Intent, IntentLibrary, Plan, Sample, facts_of
from gplan_jax.synthesis.amap import intents as it
from gplan_jax.synthesis.amap.situation import (
    DONE,
    REFUEL_ORDERS,
    VENUES,
    OrderPlace,
    Phase,
    Region,
    Situation,
    situation_of,
)
from gplan_jax.synthesis.rules.service_rules import ServiceRules

# Flow: does the first intent meet the most pressing need, and does the rest extend it?
ELSEWHERE = (it.HOME, it.WORK, it.SHORT_TERM, it.GUESS)
EXTENDING = 2  # Later intents that must have a reason of this very context.


@dataclass(frozen=True, slots=True)
class Need:
    """The most pressing need: in words, and whether an intent meets it (True), does nothing
    either way (None) or passes it over (False)."""

    words: str
    tools: tuple[str, ...] = ()
    ends: tuple[str, ...] = ()
    fair_tools: tuple[str, ...] = ()
    fair_ends: tuple[str, ...] = ()
    open: bool = False

    def met_by(self, intent: Intent) -> bool | None:
        """True where the intent meets the need, None where it may stand, False where it misses."""
        if intent[it.TOOL] in self.tools or is_way(intent, *(self.ends or ("",))):
            return True
        fair = intent[it.TOOL] in (it.WEATHER, *self.fair_tools)
        return None if self.open or fair or is_way(intent, *(self.fair_ends or ("",))) else False


def flow_findings(case: Case) -> Findings:
    """Judges the first intent against the most pressing need, then what follows it."""
    if not case.plan:
        return Findings()
    need = pressing_need(case.situation)
    met = need.met_by(case.plan[0])
    # A later intent follows from the context or from the intents before it.
    later = range(1, len(case.plan))
    always = (it.WEATHER, it.TRANSIT)
    drift = [i for i in later if case.plan[i][it.TOOL] not in always and not case.reasons(i)]
    failures = []
    if met is False:
        failures.append(f"missed anchor: {need.words}, but the plan opens with "
                        f"{it.intent_words(case.plan[0])}")  # fmt: skip
    if len(drift) > 1 and 2 * len(drift) >= len(case.plan) - 1:
        listed = ", ".join(it.intent_words(case.plan[i]) for i in drift)
        failures.append(f"topic drift: nothing in the context asks for {listed}")
    positive = []
    if met:
        positive.append(f"first intent meets the need: {need.words}")
        personal = [i for i in later if case.reasons(i)]
        if len(personal) >= EXTENDING and not drift:
            reasons = dict.fromkeys(chain.from_iterable(case.reasons(i)[:1] for i in personal))
            positive.append(f"later intents extend it: {', '.join(reasons)}")
    return Findings(positive, failures)


def pressing_need(s: Situation) -> Need:
    """The need that the order's state, its distance and the surroundings make most pressing."""
    if s.phase is None or s.place is None:
        return Need("no order tells what is due", open=True)
    away = (it.LONG_DISTANCE,) if s.region is Region.AWAY else ()
    if s.place is OrderPlace.AT:
        return _at_order_place(s, away)
    if s.phase in (Phase.OVER, Phase.LONG_STARTED):
        # Only a known end is sure; without one the order may still be open.
        unsure = s.phase is Phase.LONG_STARTED
        return Need(
            "the order has been used, go on from here",
            (it.REVIEW, *away),
            ELSEWHERE,
            fair_tools=(it.REMINDER,) if unsure else (),
            fair_ends=(it.ORDER_PLACE,) if unsure else (),
        )
    if s.place is OrderPlace.OTHER_CITY:
        return Need(
            "the order is in another city",
            (it.REMINDER, it.LONG_DISTANCE),
            fair_tools=(it.TRANSIT,),
            fair_ends=(it.ORDER_PLACE,),
        )
    if s.phase in LATER:
        return Need("the order begins later", (it.REMINDER,), (it.ORDER_PLACE,), open=True)
    assert s.phase in DUE
    card = (it.ARRIVAL_CARD,) if s.surroundings in VENUES else ()
    return Need(
        "the order is due, get to its place", (it.REMINDER,), (it.ORDER_PLACE,), fair_tools=card
    )


def _at_order_place(s: Situation, away: tuple[str, ...]) -> Need:
    if s.phase in (Phase.OVER, Phase.LONG_STARTED):
        return Need("the order is over, leave its place", (it.REVIEW, *away), ELSEWHERE)
    arrived = (it.ARRIVAL_CARD, it.REMINDER)
    if s.phase is Phase.LAST_DAY:
        return Need("the order ends today at this place", (*arrived, it.REVIEW, *away), ELSEWHERE)
    if s.order in REFUEL_ORDERS:
        # Filling up takes minutes: going on is as pressing as the stop itself.
        return Need("at the station that was ordered", arrived, ELSEWHERE)
    return Need("at the order's place while the order counts", arrived)


# Logic: are the stages of the trip in order, and is what an intent builds upon there before it?
ON_THE_WAY, ARRIVAL, ON_SITE, AFTERWARDS = range(4)
ANY_TIME = (ON_THE_WAY, AFTERWARDS)
STAGE_NAMES = ("on the way", "arrival", "on site", "afterwards")
STAGED = 3  # Intents with a stage of their own that a progression needs.


def logic_findings(case: Case, library: IntentLibrary) -> Findings:
    """Counts inversions and unmet dependencies; names progressions and chains where none is."""
    stages = [stages_of(intent, case.situation) for intent in case.plan]
    inverted = inversions(stages)
    failures = []
    if inverted:
        i, j = inverted[0]
        failures.append(f"stage inversion: {it.intent_words(case.plan[i])} stands before "
                        f"{it.intent_words(case.plan[j])}")  # fmt: skip
    # References to an earlier place that no earlier intent yields.
    yields = [library.tools[intent[it.TOOL]].yields_place for intent in case.plan]
    lost = [i for i in _consumers(case) if not any(yields[:i])]
    unmet = [f"{it.intent_words(case.plan[i])} before any place is given" for i in lost]
    based = [i for i in case.plan if it.TAG in i and i.get(it.START) == it.ORDER_PLACE]
    if based and not case.at_order_place and not case.goes_to_order:
        unmet.append(f"{it.intent_words(based[0])} although nothing leads to the order's place")
    if unmet:
        failures.append(f"unmet dependency: {unmet[0]}")
    if failures:
        # Failures count one by one, whatever their kind, so that curing one by causing another
        # is no gain.
        faults = len(inverted) + len(unmet)
        systemic = faults > 1 and 2 * faults > _required(stages) + len(_consumers(case))
        return Findings(failures=["; ".join(failures)], systemic=systemic)
    positive = []
    own = [stage for stage in stages if stage != ANY_TIME]
    if len(own) >= STAGED and _required(own):
        names = [STAGE_NAMES[stage[0]] for stage in sorted(set(own))]
        positive.append(f"clean progression: {' -> '.join(dict.fromkeys(names))}")
    return Findings(positive=[*positive, *_chain(case)])


def stages_of(intent: Intent, s: Situation) -> tuple[int, int]:
    """The first and last stage that an intent may belong to; it does not look at its position."""
    if it.PREVIOUS in (intent.get(it.START), intent.get(it.END)) or (
        it.TAG in intent and not _parks(intent)
    ):
        return ON_SITE, ON_SITE
    tool = intent[it.TOOL]
    if is_way(intent, it.ORDER_PLACE):
        return ON_THE_WAY, ON_THE_WAY
    if tool == it.LONG_DISTANCE and s.place is OrderPlace.OTHER_CITY and s.phase not in DONE:
        return ON_THE_WAY, ARRIVAL
    if tool == it.REMINDER:
        return ON_THE_WAY, ARRIVAL
    if tool == it.ARRIVAL_CARD or _parks(intent):
        return ARRIVAL, ARRIVAL
    if tool == it.REVIEW:
        # The review of an order that is over may come at once; what follows is another service.
        over = s.phase in (*DONE, Phase.LAST_DAY)
        return (ON_THE_WAY if over else AFTERWARDS), AFTERWARDS
    return ANY_TIME


def inversions(stages: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The pairs (i, j), i < j, of which j should come before i."""
    pairs = combinations(range(len(stages)), 2)
    return [(i, j) for i, j in pairs if stages[j][1] < stages[i][0]]


def _required(stages: Sequence[tuple[int, int]]) -> int:
    """How many pairs have a right order at all."""
    return sum(a[1] < b[0] or b[1] < a[0] for a, b in combinations(stages, 2))


def _parks(intent: Intent) -> bool:
    return intent.get(it.TAG) == "停车场"


def _consumers(case: Case) -> list[int]:
    return [
        i
        for i, intent in enumerate(case.plan)
        if it.PREVIOUS in (intent.get(it.START), intent.get(it.END))
    ]


def _chain(case: Case) -> list[str]:
    """Evidence that later intents build upon where earlier ones lead."""
    tools = [intent[it.TOOL] for intent in case.plan]
    starts = {intent[it.START] for intent in case.plan if it.TAG in intent and it.START in intent}
    s = case.situation
    if it.PREVIOUS in starts:
        return ["an intent builds on the place of an earlier one"]
    if it.ORDER_PLACE in starts and case.goes_to_order:
        return ["what is offered starts from the order's place, after the way there"]
    if (
        case.at_order_place
        and it.ARRIVAL_CARD in tools
        and s.phase not in DONE
        and it.HERE in starts
    ):
        return ["what is offered follows the arrival at the order's place"]
    return []


# The judge: these two axes and the third, fit to time and place, from spatiotemporal.py.
AXES: tuple[str, ...] = ("flow", "logic", "spatiotemporal")


def judge_by_rules(sample: Sample, plan: Plan, library: IntentLibrary) -> dict[str, AxisScore]:
    """Axis -> score of a plan in the context of ``sample``, whose label is not looked at."""
    case = case_of(plan, situation_of(facts_of(sample)), library)
    findings = (flow_findings(case), logic_findings(case, library), spatiotemporal_findings(case))
    return {axis: score_of(found) for axis, found in zip(AXES, findings, strict=True)}


class RuleJudge:
    """The rules as a ``Judge``."""

    name, axes, at_once = "rules", AXES, 1
    caution = (
        "rules is no language model: "
        "it checks stage order, time fit, place fit and order state only"
    )

    def __init__(self, library: IntentLibrary) -> None:
        """Raises GplanError where ``library`` has a tool that the rules know nothing of."""
        self._rules = ServiceRules(library) if library.rows else None
        unknown = [tool for tool in library.tools if tool not in it.TOOL_WORDS]
        if unknown and self._rules is None:
            raise GplanError(
                f"The rule judge knows the shipped Amap library; library {library.name} also has "
                f"{', '.join(unknown)}. Judge its plans with a language model (--judge FILE)."
            )
        self._library = library
        # The version is that of the rules.
        self.settings: Mapping[str, Any] = {
            "judge": self.name,
            "version": 1,
            "library": library.name,
        }

    def _scores(self, sample: Sample, plan: Plan) -> dict[str, AxisScore]:
        if self._rules is None:
            return judge_by_rules(sample, plan, self._library)
        found = judge_by_service(sample, plan, self._rules)
        return {axis: score_of(one) for axis, one in zip(AXES, found, strict=True)}

    async def judge(self, sample: Sample, plan: Plan) -> Judgement:
        return Judgement(self._scores(sample, plan))

    async def compare(self, sample: Sample, first: Plan, second: Plan) -> Preference:
        """Prefers the plan with the higher sum of scores, whichever comes first."""
        a, b = (
            sum(s.score for s in self._scores(sample, plan).values()) for plan in (first, second)
        )
        reason = f"sums of scores: {a} and {b}"
        return Preference("tie" if a == b else "first" if a > b else "second", reason)

    def note(self) -> str:
        """Rules cost nothing."""
        return ""

    async def close(self) -> None:
        """Nothing is held."""
