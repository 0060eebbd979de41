"""Which facts of a situation support an intent: the reasons a STEP may give.

Every reason is a phrase of the situation, so it is true of the row.
"""

from __future__ import annotations

from enum import StrEnum

from gplan_jax.gsisr import Intent, Plan
from gplan_jax.synthesis.amap import intents as it
from gplan_jax.synthesis.amap.situation import (
    DARK_TIMES,
    DONE,
    ELSEWHERE,
    REFUEL_ORDERS,
    SHOPS,
    VENUES,
    DayPart,
    Focus,
    Habitual,
    OrderPlace,
    Phase,
    Region,
    Situation,
    Surroundings,
)

FOLLOWS_STEP = "承接上一步"
AFTER_ARRIVING = "到订单地之后"


def reasons_for(intent: Intent, situation: Situation) -> tuple[str, ...]:
    """The phrases of ``situation`` that support ``intent``, the strongest first; may be empty."""
    s, tool = situation, intent[it.TOOL]
    if tool in (it.RIDE, it.TRAVEL):
        reasons = _of_way(intent, s)
    elif it.TAG in intent:
        reasons = _of_tag(intent[it.TAG], s)
    else:
        reasons = _of_service(tool, s)
    if intent.get(it.START, it.HERE) != it.HERE:
        # The user's surroundings are no reason for another place.
        reasons = [reason for reason in reasons if reason != s.surroundings]
    if it.TAG in intent and intent.get(it.START) == it.ORDER_PLACE:
        reasons.insert(0, _if_in(s.place, *ELSEWHERE))
    return tuple(dict.fromkeys(reason for reason in reasons if reason))


def links_to(intent: Intent, earlier: Plan) -> str | None:
    """How an intent follows from the intents before it, None where it stands by itself."""
    if it.PREVIOUS in (intent.get(it.START), intent.get(it.END)):
        return FOLLOWS_STEP
    if intent[it.TOOL] == it.ARRIVAL_CARD and any(
        it.leads_to(other, it.ORDER_PLACE) for other in earlier
    ):
        return AFTER_ARRIVING
    return None


def _of_way(intent: Intent, s: Situation) -> list[str | None]:
    end, away = intent[it.END], _if_in(s.region, Region.AWAY)
    if end == it.ORDER_PLACE and s.place is not OrderPlace.AT:
        reasons = [_if_in(s.place, *ELSEWHERE), _pending(s)]
        if intent[it.TOOL] == it.RIDE:
            hub = _if_in(s.surroundings, Surroundings.HUB)
            reasons += [hub, away, _if_in(s.day_part, *DARK_TIMES)]
        return [*reasons, _if_in(s.focus, Focus.ORDER_PLACE)]
    home_city = _if_in(s.region, Region.HOME_CITY)
    if end == it.HOME and s.habitual is not Habitual.HOME:
        late = _if_in(s.day_part, DayPart.DINNER, *DARK_TIMES)
        return [late, _if_in(s.habitual, Habitual.WORK), home_city]
    works_today = s.day_off is None and s.region is not Region.AWAY
    if end == it.WORK and s.habitual is not Habitual.WORK and works_today:
        early = _if_in(s.day_part, DayPart.MORNING)
        return [early, _if_in(s.habitual, Habitual.HOME), home_city]
    if end in (it.SHORT_TERM, it.GUESS):
        hint = _if_in(s.focus, Focus.OTHER_PLACE)
        stop = _if_in(s.surroundings, Surroundings.HUB, Surroundings.ROAD, Surroundings.FUEL)
        at_order = _if_in(s.place, OrderPlace.AT)
        return [hint, _used(s), at_order, stop, _if_in(s.habitual, *Habitual), away]
    return []


def _of_service(tool: str, s: Situation) -> list[str | None]:
    pending, away = _pending(s), _if_in(s.region, Region.AWAY)
    elsewhere, at_order = _if_in(s.place, *ELSEWHERE), _if_in(s.place, OrderPlace.AT)
    hub = _if_in(s.surroundings, Surroundings.HUB)
    if tool == it.LONG_DISTANCE:
        ahead = pending and _if_in(s.place, OrderPlace.OTHER_CITY)
        return [ahead, away and _used(s), hub, away]
    if tool == it.TRANSIT:
        return [hub, away]
    if tool == it.ARRIVAL_CARD:
        return [at_order, at_order and pending, _if_in(s.surroundings, *VENUES)]
    if tool == it.REMINDER:
        # What still counts; refuelling that was paid for long ago, where the user is not there.
        waiting = s.phase is Phase.LONG_STARTED and s.place in ELSEWHERE
        phrase = s.order_phrase if waiting else pending
        return [phrase, phrase and elsewhere]
    if tool == it.WEATHER:
        return [away, pending and elsewhere, s.day_off]
    if tool == it.REVIEW:
        return [_used(s), at_order]
    return []


def _of_tag(tag: str, s: Situation) -> list[str | None]:
    def around(*kinds: Surroundings) -> str | None:
        return _if_in(s.surroundings, *kinds)

    def at_time(*parts: DayPart) -> str | None:
        return _if_in(s.day_part, *parts)

    away = _if_in(s.region, Region.AWAY)
    afternoon, dinner, evening = DayPart.AFTERNOON, DayPart.DINNER, DayPart.EVENING
    match tag:
        case "美食":
            meal = at_time(DayPart.MORNING, DayPart.LUNCH, dinner, evening)
            return [meal, around(Surroundings.FOOD, *SHOPS), away]
        case "购物":
            wait = around(*SHOPS, Surroundings.CHARGING, Surroundings.FUEL)
            return [wait, s.day_off, at_time(afternoon, dinner, evening)]
        case "酒店":
            return [away, at_time(dinner, *DARK_TIMES)] if away else []
        case "景点":
            daylight = at_time(DayPart.MORNING, DayPart.LUNCH, afternoon)
            return [away, around(Surroundings.SIGHT), s.day_off, daylight]
        case "休闲娱乐":
            wait = around(Surroundings.CHARGING, *SHOPS)
            return [wait, at_time(afternoon, dinner, *DARK_TIMES), s.day_off]
        case "运动健身":
            return [s.day_off, at_time(DayPart.MORNING, afternoon, evening)]
        case "丽人":
            return [around(*SHOPS), s.day_off, at_time(afternoon, evening)]
        case "加油站" | "充电站" | "停车场":
            refuels = s.order_phrase if s.order in REFUEL_ORDERS else None
            stop = around(Surroundings.ROAD, Surroundings.FUEL, Surroundings.CHARGING)
            if tag != "停车场":
                return [refuels, stop]
            return [refuels, stop, around(*SHOPS, Surroundings.SIGHT, Surroundings.LODGING)]
    return []


def _if_in(value: StrEnum | None, *admitted: StrEnum) -> str | None:
    return str(value) if value is not None and value in admitted else None


def _pending(s: Situation) -> str | None:
    """The order's phrase while the order still counts."""
    return s.order_phrase if s.phase is not None and s.phase not in DONE else None


def _used(s: Situation) -> str | None:
    """The order's phrase once it has been used, or may have been on its last day."""
    return s.order_phrase if s.phase in (*DONE, Phase.LAST_DAY) else None
