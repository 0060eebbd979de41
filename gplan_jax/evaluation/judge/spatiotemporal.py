"""Spatiotemporal by rules: do destinations, starts, tags and ranges fit time, place and order?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from gplan_jax.evaluation.judge.case import DUE, Case, is_way
from gplan_jax.evaluation.judge.judgement import Findings
from gplan_jax.gsisr import Intent
from gplan_jax.synthesis.amap import intents as it
from gplan_jax.synthesis.amap.situation import (
    DONE,
    ELSEWHERE,
    VENUES,
    DayPart,
    Habitual,
    OrderPlace,
    Phase,
    Region,
    Surroundings,
)

NIGHT, MORNING, LUNCH = DayPart.NIGHT, DayPart.MORNING, DayPart.LUNCH
AFTERNOON, DINNER, EVENING = DayPart.AFTERNOON, DayPart.DINNER, DayPart.EVENING

# When a tag is what one would look for at that time of day, and where.
TIMES: Mapping[str, tuple[DayPart, ...]] = {
    "美食": (LUNCH, DINNER),
    "购物": (AFTERNOON, EVENING),
    "酒店": (EVENING, NIGHT),
    "景点": (MORNING, AFTERNOON),
    "休闲娱乐": (DINNER, EVENING),
    "运动健身": (MORNING, EVENING),
    "丽人": (AFTERNOON, EVENING),
}
PLACES: Mapping[str, tuple[Surroundings, ...]] = {
    "美食": (Surroundings.FOOD, Surroundings.SHOPPING, Surroundings.DISTRICT),
    "购物": (Surroundings.SHOPPING, Surroundings.DISTRICT, Surroundings.FUEL),
    "景点": (Surroundings.SIGHT,),
    "休闲娱乐": (Surroundings.CHARGING, Surroundings.SHOPPING, Surroundings.DISTRICT),
    "丽人": (Surroundings.SHOPPING, Surroundings.DISTRICT),
    "加油站": (Surroundings.ROAD,),
    "充电站": (Surroundings.ROAD,),
    "停车场": (Surroundings.SHOPPING, Surroundings.DISTRICT, Surroundings.SIGHT),
}
ORDERS: Mapping[str, str] = {"加油站": "加油", "充电站": "充电桩"}
# The ranges that a tag is usually looked for in; any other is no evidence, but no failure either.
RANGES: Mapping[str, tuple[str, ...]] = {
    "美食": (it.NEARBY, it.DISTRICT),
    "景点": (it.NEARBY, it.DISTRICT, it.CITY),
    "休闲娱乐": (it.NEARBY, it.DISTRICT),
    "购物": (it.NEARBY, it.DISTRICT),
}
GOING_TIMES: Mapping[str, tuple[DayPart, ...]] = {
    it.HOME: (DINNER, EVENING, NIGHT),
    it.WORK: (MORNING,),
}
CLOSED_AT_NIGHT = ("运动健身", "丽人")
REACHABLE = (OrderPlace.SAME_DISTRICT, OrderPlace.SAME_CITY)


def spatiotemporal_findings(case: Case) -> Findings:
    """Judges every intent's parameters against time, place and order, and what is left out."""
    s = case.situation
    failures = [f"{tool} can't be carried out as written" for tool in case.broken]
    failures += [
        f"{it.intent_words(intent)}: {why}"
        for intent in case.plan
        for why in _misfits(case, intent)
    ]
    # An order within reach is due, or the user stands at it, and no intent heeds it. (Without a
    # known end, an order that began hours ago may well have been used.)
    heeding = (it.REMINDER, it.ARRIVAL_CARD, it.REVIEW, it.LONG_DISTANCE)
    heeded = any(i[it.TOOL] in heeding or it.ORDER_PLACE in i.values() for i in case.plan)
    if s.phase in DUE and s.place is not None and not heeded:
        failures.append(f"ignores the order: {s.order_phrase}, {s.place}")
    if failures:
        return Findings(failures=failures)
    positive = []
    # One sign where a destination, start or card fits the order's place and state.
    if anchored := next(filter(None, (_anchored(case, intent) for intent in case.plan)), None):
        positive.append(anchored)
    # One sign where every offer of places fits this time of day or these surroundings.
    offers = [intent for intent in case.plan if it.TAG in intent]
    fits = [_offer_fit(case, intent) for intent in offers]
    if offers and all(fits):
        listed = ", ".join(
            f"{it.intent_words(o)} ({fit})" for o, fit in zip(offers, fits, strict=True)
        )
        positive.append(f"offers fit: {listed}")
    return Findings(positive=positive)


def _misfits(case: Case, intent: Intent) -> Iterator[str]:
    """Why an intent can't be meant in this situation."""
    s, tool = case.situation, intent[it.TOOL]
    if is_way(intent, it.ORDER_PLACE):
        if case.at_order_place:
            yield "the user is there already"
        elif s.phase is Phase.OVER:
            yield "the order is over"
    if is_way(intent, it.HOME):
        if s.habitual is Habitual.HOME:
            yield "the user is at home already"
        elif s.region is Region.AWAY:
            yield "home is in another city"
    if is_way(intent, it.WORK):
        if s.habitual is Habitual.WORK:
            yield "the user is at work already"
        elif s.day_off is not None:
            yield "it is a day off"
    if tool == it.REMINDER and s.phase is Phase.OVER:
        yield "the order is over"
    if tool == it.REVIEW and s.phase in (Phase.LATER, Phase.LATER_TODAY, Phase.SOON):
        yield "the order has not begun"
    arrives = case.at_order_place or s.surroundings in VENUES or case.goes_to_order
    if tool == it.ARRIVAL_CARD and not arrives:
        yield "the user is at no such place and does not get there"
    if tool == it.LONG_DISTANCE and s.region is Region.HOME_CITY and s.place in (None, *REACHABLE):
        yield "nothing calls the user out of the home city"
    if it.TAG not in intent:
        return
    tag = intent[it.TAG]
    if intent.get(it.START, it.HERE) == it.ORDER_PLACE and s.phase is Phase.OVER:
        yield "the order is over"
    if tag in CLOSED_AT_NIGHT and s.day_part is NIGHT:
        yield "not at this time of night"
    booked = s.order == "酒店" and s.phase is not None and s.phase not in (*DONE, Phase.LAST_DAY)
    if tag == "酒店" and booked:
        yield "a hotel is booked already"
    elif tag == "酒店" and s.region is Region.HOME_CITY:
        yield "the user is in the home city"


def _anchored(case: Case, intent: Intent) -> str | None:
    """Why an intent fits the order's place and state, or the way home or to work the hour."""
    s, tool = case.situation, intent[it.TOOL]
    due = s.phase in DUE
    fits = ""
    if is_way(intent, it.ORDER_PLACE) and s.place in REACHABLE and due:
        # What is offered must start where the plan's way ends, not where the user leaves.
        starts = {i.get(it.START, it.HERE) for i in case.plan if it.TAG in i}
        fits = "" if it.HERE in starts else f"{s.order_phrase}, {s.place}"
    elif tool == it.ARRIVAL_CARD and case.at_order_place and due:
        fits = f"{s.order_phrase}, {s.place}"
    elif tool == it.LONG_DISTANCE and s.place is OrderPlace.OTHER_CITY:
        fits = f"{s.place}"
    elif tool == it.REVIEW and s.phase in (*DONE, Phase.LAST_DAY):
        fits = s.order_phrase
    elif is_way(intent, it.HOME, it.WORK) and s.day_part in GOING_TIMES[intent[it.END]]:
        fits = f"{s.day_part}"
    elif intent.get(it.START) == it.ORDER_PLACE and s.place in ELSEWHERE and due:
        fits = f"{s.order_phrase}, {s.place}"
    return f"{it.intent_words(intent)} fits: {fits}" if fits else None


def _offer_fit(case: Case, intent: Intent) -> str | None:
    """The time, surroundings or order that an offer of places fits; None where none."""
    s, tag, start = case.situation, intent[it.TAG], intent.get(it.START, it.HERE)
    if intent.get(it.RANGE, it.NEARBY) not in RANGES.get(tag, (it.NEARBY, it.DISTRICT, it.CITY)):
        return None
    if start == it.HERE and case.goes_to_order and not case.at_order_place:
        return None  # Still around a place that the plan has left.
    if start == it.HERE and s.surroundings in PLACES.get(tag, ()):
        return str(s.surroundings)
    if s.day_part in TIMES.get(tag, ()):
        return str(s.day_part)
    if ORDERS.get(tag) == s.order and s.order:
        return s.order_phrase
    return "上一步地点" if start == it.PREVIOUS else None
