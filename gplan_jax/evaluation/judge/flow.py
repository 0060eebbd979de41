"""Flow by rules: does the first intent meet the most pressing need, and do the others extend it?"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import chain

from gplan_jax.evaluation.judge.case import DUE, LATER, Case, is_way, words
from gplan_jax.evaluation.judge.findings import Findings
from gplan_jax.gsisr import Intent
from gplan_jax.synthesis.amap.evidence import VENUES
from gplan_jax.synthesis.amap.intents import (
    ARRIVAL_CARD,
    GUESS,
    HOME,
    LONG_DISTANCE,
    ORDER_PLACE,
    REMINDER,
    REVIEW,
    SHORT_TERM,
    TOOL,
    TRANSIT,
    WEATHER,
    WORK,
)
from gplan_jax.synthesis.amap.situation import REFUEL_ORDERS, OrderPlace, Phase, Region, Situation

ELSEWHERE = (HOME, WORK, SHORT_TERM, GUESS)
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
        if intent[TOOL] in self.tools or is_way(intent, *(self.ends or ("",))):
            return True
        fair = intent[TOOL] in (WEATHER, *self.fair_tools)
        return None if self.open or fair or is_way(intent, *(self.fair_ends or ("",))) else False


def flow_findings(case: Case) -> Findings:
    """Judges the first intent against the most pressing need, then what follows it."""
    if not case.plan:
        return Findings()
    need = pressing_need(case.situation)
    met = need.met_by(case.plan[0])
    drift = [i for i in range(1, len(case.plan)) if not _extends(case, i)]
    failures = []
    if met is False:
        failures.append(f"missed anchor: {need.words}, but the plan opens with "
                        f"{words(case.plan[0])}")  # fmt: skip
    if len(drift) > 1 and 2 * len(drift) >= len(case.plan) - 1:
        listed = ", ".join(words(case.plan[i]) for i in drift)
        failures.append(f"topic drift: nothing in the context asks for {listed}")
    positive = []
    if met:
        positive.append(f"first intent meets the need: {need.words}")
        personal = [i for i in range(1, len(case.plan)) if case.reasons(i)]
        if len(personal) >= EXTENDING and not drift:
            reasons = dict.fromkeys(chain.from_iterable(case.reasons(i)[:1] for i in personal))
            positive.append(f"later intents extend it: {', '.join(reasons)}")
    return Findings(positive, failures)


def pressing_need(s: Situation) -> Need:
    """The need that the order's state, its distance and the surroundings make most pressing."""
    if s.phase is None or s.place is None:
        return Need("no order tells what is due", open=True)
    away = (LONG_DISTANCE,) if s.region is Region.AWAY else ()
    if s.place is OrderPlace.AT:
        return _at_order_place(s, away)
    if s.phase in (Phase.OVER, Phase.LONG_STARTED):
        # Only a known end is sure; without one the order may still be open.
        unsure = s.phase is Phase.LONG_STARTED
        return Need(
            "the order has been used, go on from here",
            (REVIEW, *away),
            ELSEWHERE,
            fair_tools=(REMINDER,) if unsure else (),
            fair_ends=(ORDER_PLACE,) if unsure else (),
        )
    if s.place is OrderPlace.OTHER_CITY:
        return Need(
            "the order is in another city",
            (REMINDER, LONG_DISTANCE),
            fair_tools=(TRANSIT,),
            fair_ends=(ORDER_PLACE,),
        )
    if s.phase in LATER:
        return Need("the order begins later", (REMINDER,), (ORDER_PLACE,), open=True)
    assert s.phase in DUE
    card = (ARRIVAL_CARD,) if s.surroundings in VENUES else ()
    return Need("the order is due, get to its place", (REMINDER,), (ORDER_PLACE,), fair_tools=card)


def _at_order_place(s: Situation, away: tuple[str, ...]) -> Need:
    if s.phase in (Phase.OVER, Phase.LONG_STARTED):
        return Need("the order is over, leave its place", (REVIEW, *away), ELSEWHERE)
    arrived = (ARRIVAL_CARD, REMINDER)
    if s.phase is Phase.LAST_DAY:
        return Need("the order ends today at this place", (*arrived, REVIEW, *away), ELSEWHERE)
    if s.order in REFUEL_ORDERS:
        # Filling up takes minutes: going on is as pressing as the stop itself.
        return Need("at the station that was ordered", arrived, ELSEWHERE)
    return Need("at the order's place while the order counts", arrived)


def _extends(case: Case, index: int) -> bool:
    """Whether a later intent follows from the context or from the intents before it."""
    return case.plan[index][TOOL] in (WEATHER, TRANSIT) or bool(case.reasons(index))
