"""Which facts of a situation support an intent: the reasons a STEP may give.

Every reason is a phrase of the situation, so it holds by construction. An intent without any
reason here is a habitual suggestion, and the trace says so.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import StrEnum

from gplan_jax.gsisr import Intent, Plan
from gplan_jax.synthesis.amap.intents import (
    ARRIVAL_CARD,
    END,
    GUESS,
    HERE,
    HOME,
    LONG_DISTANCE,
    ORDER_PLACE,
    PREVIOUS,
    REMINDER,
    REVIEW,
    RIDE,
    SHORT_TERM,
    START,
    TAG,
    TOOL,
    TRANSIT,
    TRAVEL,
    WEATHER,
    WORK,
    leads_to,
)
from gplan_jax.synthesis.amap.situation import (
    Attention,
    DayOff,
    DayPart,
    Habitual,
    OrderPlace,
    Phase,
    Region,
    Situation,
    Surroundings,
)

Reasons = list[str | None]

FOLLOWS_STEP = "承接上一步"
AFTER_ARRIVING = "到订单地之后"

ELSEWHERE = (OrderPlace.SAME_DISTRICT, OrderPlace.SAME_CITY, OrderPlace.OTHER_CITY)
DONE = (Phase.OVER, Phase.LONG_STARTED)
DARK = (DayPart.EVENING, DayPart.NIGHT)
DAYLIGHT = (DayPart.MORNING, DayPart.LUNCH, DayPart.AFTERNOON)
SHOPS = (Surroundings.SHOPPING, Surroundings.DISTRICT)
# Places that one visits, with a card to show on arrival.
VENUES = (
    *SHOPS,
    Surroundings.LODGING,
    Surroundings.SIGHT,
    Surroundings.FOOD,
    Surroundings.HUB,
    Surroundings.FUEL,
    Surroundings.CHARGING,
    Surroundings.ROAD,
)
FREE_DAYS = (DayOff.WEEKEND, DayOff.HOLIDAY)


def reasons_for(intent: Intent, situation: Situation) -> tuple[str, ...]:
    """The phrases of ``situation`` that support ``intent``, the strongest first; may be empty."""
    reasons = (_own_reasons(intent) or _no_reasons)(situation, intent)
    if intent.get(START, HERE) != HERE:
        # What surrounds the user now tells nothing about the place that is asked for.
        reasons = [reason for reason in reasons if reason != situation.surroundings]
    if TAG in intent and intent.get(START) == ORDER_PLACE:
        reasons.insert(0, _if_in(situation.place, *ELSEWHERE))
    return tuple(dict.fromkeys(reason for reason in reasons if reason))


def links_to(intent: Intent, earlier: Plan) -> str | None:
    """How an intent follows from the intents before it, None where it stands by itself."""
    if PREVIOUS in (intent.get(START), intent.get(END)):
        return FOLLOWS_STEP
    if intent[TOOL] == ARRIVAL_CARD and any(leads_to(other, ORDER_PLACE) for other in earlier):
        return AFTER_ARRIVING
    return None


def _own_reasons(intent: Intent) -> Callable[[Situation, Intent], Reasons] | None:
    if intent[TOOL] in (RIDE, TRAVEL):
        return BY_DESTINATION.get(intent[END])
    return BY_TAG.get(intent[TAG]) if TAG in intent else BY_TOOL.get(intent[TOOL])


def _no_reasons(s: Situation, intent: Intent) -> Reasons:
    return []


def _if_in(value: StrEnum | None, *admitted: StrEnum) -> str | None:
    return str(value) if value is not None and value in admitted else None


def _pending(s: Situation) -> str | None:
    """The order's phrase while the order still counts."""
    return s.order_phrase if s.phase is not None and s.phase not in DONE else None


def _done(s: Situation) -> str | None:
    """The order's phrase once it has been used, or may have been on its last day."""
    return s.order_phrase if s.phase in (*DONE, Phase.LAST_DAY) else None


def _to_order(s: Situation, intent: Intent) -> Reasons:
    if s.place is OrderPlace.AT:
        return []
    reasons: Reasons = [_if_in(s.place, *ELSEWHERE), _pending(s)]
    if intent[TOOL] == RIDE:
        reasons += [_if_in(s.surroundings, Surroundings.HUB), _if_in(s.region, Region.AWAY)]
        reasons.append(_if_in(s.day_part, *DARK))
    return [*reasons, _if_in(s.attention, Attention.ORDER_PLACE)]


def _to_home(s: Situation, intent: Intent) -> Reasons:
    if s.habitual is Habitual.HOME:
        return []
    late = _if_in(s.day_part, DayPart.DINNER, *DARK)
    return [late, _if_in(s.habitual, Habitual.WORK), _if_in(s.region, Region.HOME_CITY)]


def _to_work(s: Situation, intent: Intent) -> Reasons:
    if s.habitual is Habitual.WORK or s.day_off is not None or s.region is Region.AWAY:
        return []
    early = _if_in(s.day_part, DayPart.MORNING)
    return [early, _if_in(s.habitual, Habitual.HOME), _if_in(s.region, Region.HOME_CITY)]


def _to_next_place(s: Situation, intent: Intent) -> Reasons:
    hint = _if_in(s.attention, Attention.OTHER_PLACE)
    stop = _if_in(s.surroundings, Surroundings.HUB, Surroundings.ROAD, Surroundings.FUEL)
    away = _if_in(s.region, Region.AWAY)
    return [
        hint,
        _done(s),
        _if_in(s.place, OrderPlace.AT),
        stop,
        _if_in(s.habitual, *Habitual),
        away,
    ]


def _long_distance(s: Situation, intent: Intent) -> Reasons:
    ahead = _pending(s) and _if_in(s.place, OrderPlace.OTHER_CITY)
    back = _if_in(s.region, Region.AWAY)
    return [ahead, back and _done(s), _if_in(s.surroundings, Surroundings.HUB), back]


def _transit(s: Situation, intent: Intent) -> Reasons:
    return [_if_in(s.surroundings, Surroundings.HUB), _if_in(s.region, Region.AWAY)]


def _arrival_card(s: Situation, intent: Intent) -> Reasons:
    at = _if_in(s.place, OrderPlace.AT)
    return [at, at and _pending(s), _if_in(s.surroundings, *VENUES)]


def _reminder(s: Situation, intent: Intent) -> Reasons:
    """What still counts; refuelling that was paid for long ago, where the user is not there."""
    waiting = s.phase is Phase.LONG_STARTED and s.place in ELSEWHERE
    phrase = s.order_phrase if waiting else _pending(s)
    return [phrase, phrase and _if_in(s.place, *ELSEWHERE)]


def _weather(s: Situation, intent: Intent) -> Reasons:
    trip = _pending(s) and _if_in(s.place, *ELSEWHERE)
    return [_if_in(s.region, Region.AWAY), trip, _if_in(s.day_off, *FREE_DAYS)]


def _review(s: Situation, intent: Intent) -> Reasons:
    return [_done(s), _if_in(s.place, OrderPlace.AT)]


def _food(s: Situation, intent: Intent) -> Reasons:
    meal = _if_in(s.day_part, DayPart.MORNING, DayPart.LUNCH, DayPart.DINNER, DayPart.EVENING)
    near = _if_in(s.surroundings, Surroundings.FOOD, *SHOPS)
    return [meal, near, _if_in(s.region, Region.AWAY)]


def _shopping(s: Situation, intent: Intent) -> Reasons:
    wait = _if_in(s.surroundings, *SHOPS, Surroundings.CHARGING, Surroundings.FUEL)
    time = _if_in(s.day_part, DayPart.AFTERNOON, DayPart.DINNER, DayPart.EVENING)
    return [wait, _if_in(s.day_off, *FREE_DAYS), time]


def _lodging(s: Situation, intent: Intent) -> Reasons:
    if s.region is not Region.AWAY:
        return []
    return [str(s.region), _if_in(s.day_part, DayPart.DINNER, *DARK)]


def _sights(s: Situation, intent: Intent) -> Reasons:
    time = _if_in(s.day_part, *DAYLIGHT)
    near = _if_in(s.surroundings, Surroundings.SIGHT)
    return [_if_in(s.region, Region.AWAY), near, _if_in(s.day_off, *FREE_DAYS), time]


def _leisure(s: Situation, intent: Intent) -> Reasons:
    time = _if_in(s.day_part, DayPart.AFTERNOON, DayPart.DINNER, *DARK)
    wait = _if_in(s.surroundings, Surroundings.CHARGING, *SHOPS)
    return [wait, time, _if_in(s.day_off, *FREE_DAYS)]


def _sports(s: Situation, intent: Intent) -> Reasons:
    time = _if_in(s.day_part, DayPart.MORNING, DayPart.AFTERNOON, DayPart.EVENING)
    return [_if_in(s.day_off, *FREE_DAYS), time]


def _beauty(s: Situation, intent: Intent) -> Reasons:
    time = _if_in(s.day_part, DayPart.AFTERNOON, DayPart.EVENING)
    return [_if_in(s.surroundings, *SHOPS), _if_in(s.day_off, *FREE_DAYS), time]


def _driver_stop(s: Situation, intent: Intent) -> Reasons:
    return [
        s.order_phrase if s.order in ("加油", "充电桩") else None,
        _if_in(s.surroundings, Surroundings.ROAD, Surroundings.FUEL, Surroundings.CHARGING),
    ]


def _parking(s: Situation, intent: Intent) -> Reasons:
    crowded = _if_in(s.surroundings, *SHOPS, Surroundings.SIGHT, Surroundings.LODGING)
    return [*_driver_stop(s, intent), crowded]


BY_DESTINATION: Mapping[str, Callable[[Situation, Intent], Reasons]] = {
    ORDER_PLACE: _to_order,
    HOME: _to_home,
    WORK: _to_work,
    SHORT_TERM: _to_next_place,
    GUESS: _to_next_place,
}
BY_TOOL: Mapping[str, Callable[[Situation, Intent], Reasons]] = {
    LONG_DISTANCE: _long_distance,
    TRANSIT: _transit,
    ARRIVAL_CARD: _arrival_card,
    REMINDER: _reminder,
    WEATHER: _weather,
    REVIEW: _review,
}
BY_TAG: Mapping[str, Callable[[Situation, Intent], Reasons]] = {
    "美食": _food,
    "购物": _shopping,
    "酒店": _lodging,
    "景点": _sights,
    "休闲娱乐": _leisure,
    "运动健身": _sports,
    "丽人": _beauty,
    "加油站": _driver_stop,
    "充电站": _driver_stop,
    "停车场": _parking,
}
