"""How the simulated world plans: rules from a situation to an ordered list of intents.

The opening answers the most pressing need (arrive, be reminded, set out, go home), the middle
serves the place where the user then is, and a look at the weather ends the plan. Where the opening
leads to the order's place, the middle starts from there instead of the current position.
"""

from __future__ import annotations

from gplan_jax.gsisr import Intent, Plan
from gplan_jax.synthesis.intents import (
    ARRIVAL_CARD,
    CITY,
    DISTRICT,
    GUESS,
    HERE,
    HOME,
    LONG_DISTANCE,
    NEARBY,
    ORDER_PLACE,
    PREVIOUS,
    REMINDER,
    REVIEW,
    SHORT_TERM,
    TRANSIT,
    WEATHER,
    WORK,
    interest,
    leads_to,
    one_place,
    ride,
    simple,
    travel,
)
from gplan_jax.synthesis.situation import (
    DayPart,
    Habitual,
    OrderPlace,
    Phase,
    Region,
    Situation,
    Surroundings,
)

FEW_INTENTS = 4
REFUEL_ORDERS = ("加油", "充电桩")
MEAL_TIMES = (DayPart.LUNCH, DayPart.DINNER)
OUTING_TIMES = (DayPart.MORNING, DayPart.AFTERNOON)
EVENING_TIMES = (DayPart.DINNER, DayPart.EVENING)
LATE_TIMES = (*EVENING_TIMES, DayPart.NIGHT)
DARK_TIMES = (DayPart.EVENING, DayPart.NIGHT)


def plan_for(situation: Situation) -> Plan:
    """The plan that the world's rules derive from a situation: 3 to 6 different intents."""
    opening = _opening(situation)
    base = _base(opening, situation)
    plan = _without_repeats([*opening, *_middle(situation, base), simple(WEATHER)])
    food = interest(base, NEARBY, "美食")
    if len(plan) < FEW_INTENTS and food not in plan:
        plan.insert(-1, food)
    return plan


def _opening(s: Situation) -> Plan:
    if s.place is OrderPlace.AT:
        return _departure(s) if _is_over(s) else _arrival(s)
    if _is_over(s):
        return _onward(s)
    if s.phase in (Phase.LATER, Phase.LATER_TODAY):
        return _waiting(s)
    return _journey(s)


def _is_over(s: Situation) -> bool:
    """Done with the order; on its last day a guest still sleeps until the morning."""
    guest_at_night = s.order == "酒店" and s.day_part is DayPart.NIGHT
    left = s.phase is Phase.LAST_DAY and not guest_at_night
    return left or s.phase in (Phase.OVER, Phase.LONG_STARTED)


def _arrival(s: Situation) -> Plan:
    """At the order's place while it counts: the card of the place, and what the order is for."""
    card = simple(ARRIVAL_CARD)
    if s.order == "门票":
        return [simple(REMINDER), card] if s.phase is Phase.THIS_DAY else [card]
    if s.order == "充电桩":
        return [card, interest(HERE, NEARBY, "休闲娱乐")]
    if s.order == "加油":
        return [card, one_place("购物")]
    return [card] if s.phase is Phase.ACTIVE else [card, simple(REMINDER)]


def _departure(s: Situation) -> Plan:
    """At the order's place when it is over: leave it, and say how it was."""
    review = simple(REVIEW)
    if s.order == "酒店":
        return (
            [simple(LONG_DISTANCE), review] if s.region is Region.AWAY else [travel(HOME), review]
        )
    return [review, ride(GUESS)]


def _onward(s: Situation) -> Plan:
    """Elsewhere when the order is over: the next way first; a traveller at a hub goes home."""
    if s.region is Region.AWAY and s.surroundings is Surroundings.HUB:
        return [simple(LONG_DISTANCE), simple(TRANSIT)]
    return [_next_way(s), simple(REVIEW)]


def _next_way(s: Situation) -> Intent:
    local = s.region is Region.HOME_CITY
    if local and s.day_part is DayPart.MORNING and not (s.day_off or s.habitual is Habitual.WORK):
        return travel(WORK)
    if local and s.habitual is not Habitual.HOME and s.day_part in LATE_TIMES:
        return travel(HOME)
    return travel(SHORT_TERM) if local else ride(GUESS)


def _waiting(s: Situation) -> Plan:
    """The order starts later: what is due before it comes first."""
    reminder = simple(REMINDER)
    if s.place is OrderPlace.OTHER_CITY:
        return [reminder, simple(LONG_DISTANCE)]
    if s.phase is Phase.LATER:
        return [reminder]
    if s.day_part in MEAL_TIMES:
        return [interest(HERE, NEARBY, "美食"), reminder, _way_to_order(s)]
    return [reminder, _way_to_order(s)]


def _journey(s: Situation) -> Plan:
    """The order's time has come and the user is elsewhere: go there."""
    reminder = simple(REMINDER)
    if s.place is OrderPlace.OTHER_CITY:
        if s.surroundings is Surroundings.HUB:
            return [simple(LONG_DISTANCE), reminder]
        return [reminder, simple(LONG_DISTANCE)]
    out_for_the_day = s.order == "酒店" and s.phase is Phase.ACTIVE and s.day_part in OUTING_TIMES
    if out_for_the_day:
        return [interest(HERE, CITY, "景点"), interest(PREVIOUS, NEARBY, "美食"), _way_to_order(s)]
    return [_way_to_order(s), reminder]


def _way_to_order(s: Situation) -> Intent:
    if s.order in REFUEL_ORDERS:
        return travel(ORDER_PLACE)
    without_car = s.region is Region.AWAY or s.surroundings is Surroundings.HUB
    near_by_day = s.place is OrderPlace.SAME_DISTRICT and s.day_part not in DARK_TIMES
    return ride(ORDER_PLACE) if without_car and not near_by_day else travel(ORDER_PLACE)


def _base(opening: Plan, s: Situation) -> str:
    """Where the middle of the plan starts from."""
    to_other_city = s.place is OrderPlace.OTHER_CITY and simple(REMINDER) in opening
    going = any(leads_to(intent, ORDER_PLACE) for intent in opening[:2])
    return ORDER_PLACE if going or (to_other_city and s.phase is not Phase.LATER) else HERE


def _middle(s: Situation, base: str) -> Plan:
    """What the place where the user is going to be has to offer at this time of day."""
    if s.day_part is DayPart.NIGHT:
        return []
    if s.day_part in (*MEAL_TIMES, DayPart.EVENING):
        return [interest(base, NEARBY, "美食"), *_outing(s, base)]
    return _outing(s, base)


def _outing(s: Situation, base: str) -> Plan:
    if s.day_part in EVENING_TIMES:
        return [interest(base, DISTRICT, "休闲娱乐")]
    sights = [interest(base, CITY, "景点")] if s.region is Region.AWAY else []
    shops = [interest(base, DISTRICT, "购物")] if s.day_off is not None else []
    return [*sights, *shops]


def _without_repeats(intents: Plan) -> Plan:
    """Keeps the first of equal intents."""
    return [intent for i, intent in enumerate(intents) if intent not in intents[:i]]
