"""How plans open: what a situation calls for first, with the alternatives that it supports as well.

Each rule lists openings of one to three intents, the usual one first. The weights are those of the
public rows, rounded, where there are enough of these. ``planning`` leaves out openings that no fact
supports.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gplan_jax.gsisr import Plan
from gplan_jax.synthesis.amap import intents as it
from gplan_jax.synthesis.amap.situation import (
    DONE,
    LATE_TIMES,
    MEAL_TIMES,
    ON_THE_ROAD,
    VISITED,
    DayPart,
    Focus,
    Habitual,
    OrderPlace,
    Phase,
    Region,
    Situation,
    Surroundings,
)

Openings = list[tuple[Plan, float]]

CARD, REMIND, RATE = it.simple(it.ARRIVAL_CARD), it.simple(it.REMINDER), it.simple(it.REVIEW)
FAR, TRANSFER = it.simple(it.LONG_DISTANCE), it.simple(it.TRANSIT)
RIDE_THERE, DRIVE_THERE = it.ride(it.ORDER_PLACE), it.travel(it.ORDER_PLACE)
RIDE_ON, DRIVE_ON = it.ride(it.GUESS), it.travel(it.GUESS)
RIDE_NEXT, DRIVE_NEXT = it.ride(it.SHORT_TERM), it.travel(it.SHORT_TERM)
EAT_HERE = it.interest(it.HERE, it.NEARBY, "美食")


def openings(s: Situation) -> Openings:
    """What the plan may open with, the usual opening first."""
    if s.region is Region.HOME_CITY and s.place is not OrderPlace.AT and _is_over(s):
        return _everyday(s)  # In the home city, with nothing left of the order.
    return _BY_ORDER.get(s.order, _other)(s)


def _is_over(s: Situation) -> bool:
    """Done with the order; on its last day a guest still sleeps until the morning."""
    guest_at_night = s.order == "酒店" and s.day_part is DayPart.NIGHT
    return s.phase in DONE or (s.phase is Phase.LAST_DAY and not guest_at_night)


def _everyday(s: Situation) -> Openings:
    if s.day_part is DayPart.MORNING and not (s.day_off or s.habitual is Habitual.WORK):
        return [([it.travel(it.WORK)], 75), ([it.ride(it.WORK)], 15), ([DRIVE_NEXT], 10)]
    if s.day_part in LATE_TIMES and s.habitual is not Habitual.HOME:
        return [([it.travel(it.HOME)], 70), ([it.ride(it.HOME)], 20), ([DRIVE_NEXT], 10)]
    return [([DRIVE_NEXT], 60), ([RATE], 20), ([DRIVE_ON], 20)]


def _hotel(s: Situation) -> Openings:
    if s.place is OrderPlace.AT:
        return _at_hotel(s)
    if s.phase is Phase.OVER:
        return _next_way(s)
    if s.place is OrderPlace.OTHER_CITY:
        return _to_hotel_elsewhere(s)
    if s.phase in (Phase.LATER, Phase.LATER_TODAY):
        return [([REMIND, RIDE_THERE], 75), ([RIDE_THERE, REMIND], 25)]
    if s.surroundings is Surroundings.LODGING:
        return [
            ([RIDE_THERE, REMIND], 66),
            ([CARD, REMIND], 16),
            ([REMIND, CARD], 8),
            ([DRIVE_THERE, REMIND], 6),
        ]
    return [
        ([RIDE_THERE, REMIND], 60),
        ([RIDE_THERE, REMIND, CARD], 9),
        ([RIDE_THERE], 6),
        ([RIDE_THERE, CARD], 5),
        ([DRIVE_THERE, REMIND], 5),
        ([REMIND, CARD], 4),
        ([CARD], 3),
        ([CARD, REMIND], 3),
        ([DRIVE_NEXT], 2),
        ([EAT_HERE], 1),
    ]


def _at_hotel(s: Situation) -> Openings:
    if _is_over(s):
        way = FAR if s.region is Region.AWAY else it.travel(it.HOME)
        return [([way, RATE], 75), ([RATE, RIDE_ON], 15), ([CARD], 10)]
    if s.phase in (Phase.LATER, Phase.LATER_TODAY):
        return [([REMIND, CARD], 75), ([CARD], 25)]
    return [([CARD], 86), ([CARD, REMIND], 6), ([REMIND, CARD], 4), ([REMIND], 4)]


def _to_hotel_elsewhere(s: Situation) -> Openings:
    if s.phase in (Phase.LATER, Phase.LATER_TODAY):
        return [([REMIND, FAR], 60), ([RIDE_ON], 40)]
    if s.surroundings is Surroundings.HUB:
        return [([FAR, REMIND], 75), ([RIDE_THERE, REMIND], 25)]
    if s.surroundings is Surroundings.LODGING:
        return [([CARD], 70), ([RIDE_THERE, REMIND], 20), ([REMIND, FAR], 10)]
    if s.surroundings in ON_THE_ROAD:
        return [([DRIVE_THERE, REMIND], 80), ([DRIVE_ON], 20)]
    if s.day_part in (DayPart.MORNING, DayPart.LUNCH):
        return [
            ([DRIVE_THERE, REMIND], 60),
            ([RIDE_THERE, REMIND], 15),
            ([DRIVE_ON], 10),
            ([CARD], 8),
            ([FAR, REMIND], 7),
        ]
    return [
        ([RIDE_THERE, REMIND], 66),
        ([DRIVE_THERE, REMIND], 12),
        ([FAR, REMIND], 8),
        ([RIDE_ON], 8),
        ([CARD], 6),
    ]


def _ticket(s: Situation) -> Openings:
    if s.place is OrderPlace.AT:
        if s.phase is Phase.LATER:
            return [([REMIND, CARD], 75), ([CARD], 25)]
        return [([CARD], 82), ([CARD, REMIND], 4), ([REMIND, CARD], 14)]
    if s.phase is Phase.OVER:
        return _next_way(s)
    if s.surroundings is Surroundings.LODGING:
        return [([CARD], 75), ([RIDE_THERE, REMIND], 20), ([REMIND], 5)]
    if s.place is OrderPlace.OTHER_CITY:
        return _to_ticket_elsewhere(s)
    if s.phase is Phase.LATER:
        return [([RIDE_THERE, CARD], 30), ([REMIND, CARD], 45), ([CARD], 25)]
    if s.focus is Focus.OTHER_PLACE and s.surroundings in (None, Surroundings.SHOPPING):
        return [([CARD], 60), ([RIDE_THERE, REMIND], 20), ([EAT_HERE], 10), ([RIDE_NEXT], 10)]
    return [
        ([RIDE_THERE, REMIND], 42),
        ([RIDE_THERE, CARD], 24),
        ([RIDE_THERE, CARD, REMIND], 4),
        ([RIDE_THERE], 8),
        ([DRIVE_THERE, REMIND], 10),
        ([CARD, RIDE_THERE], 8),
        ([EAT_HERE], 4),
    ]


def _to_ticket_elsewhere(s: Situation) -> Openings:
    if s.surroundings is Surroundings.HUB:
        return [([FAR, REMIND], 75), ([RIDE_THERE, REMIND], 25)]
    if s.focus is Focus.OTHER_PLACE:
        return [([DRIVE_NEXT], 60), ([RIDE_NEXT], 25), ([CARD], 15)]
    if s.focus is Focus.ORDER_PLACE:
        return [([RIDE_THERE, REMIND], 60), ([FAR, REMIND], 25), ([CARD], 15)]
    return [([RIDE_ON], 50), ([REMIND, FAR], 30), ([DRIVE_ON], 20)]


def _refuel(s: Situation) -> Openings:
    if s.place is OrderPlace.AT:
        return _at_pump(s)
    if s.phase in DONE:
        return _after_pump(s)
    if s.surroundings in VISITED:
        return [([CARD], 60), ([REMIND, RIDE_THERE], 20), ([RIDE_THERE, REMIND], 20)]
    if s.focus is Focus.ORDER_PLACE:
        return [([REMIND, DRIVE_THERE], 70), ([RIDE_THERE, REMIND], 15), ([DRIVE_THERE], 15)]
    if s.surroundings is Surroundings.ROAD:
        return [([DRIVE_ON], 60), ([DRIVE_THERE, REMIND], 30), ([it.one_place("加油站")], 10)]
    rides = s.day_part in (*LATE_TIMES, DayPart.AFTERNOON)
    first, second = (RIDE_THERE, DRIVE_THERE) if rides else (DRIVE_THERE, RIDE_THERE)
    return [([first, REMIND], 60), ([first], 12), ([second, REMIND], 20), ([REMIND, CARD], 8)]


def _at_pump(s: Situation) -> Openings:
    if s.order == "充电桩" and s.day_part in MEAL_TIMES:
        return [([EAT_HERE], 70), ([DRIVE_ON], 20), ([REMIND], 10)]
    if s.focus is Focus.OTHER_PLACE:
        return [([DRIVE_NEXT], 66), ([RIDE_NEXT], 14), ([CARD], 12), ([REMIND], 8)]
    if s.focus is Focus.ORDER_PLACE and s.phase not in DONE:
        return [([REMIND], 66), ([DRIVE_ON], 22), ([CARD], 12)]
    return [([DRIVE_ON], 78), ([RIDE_ON], 8), ([CARD], 8), ([RATE, DRIVE_ON], 6)]


def _after_pump(s: Situation) -> Openings:
    if s.surroundings in VISITED:
        return [([CARD], 72), ([REMIND], 10), ([RIDE_THERE, REMIND], 10), ([EAT_HERE], 8)]
    if s.surroundings is Surroundings.ROAD:
        return [([DRIVE_ON], 66), ([it.one_place("加油站")], 22), ([DRIVE_THERE, REMIND], 12)]
    if s.surroundings is Surroundings.HUB:
        return [([RIDE_ON], 75), ([FAR], 25)]
    if s.focus is Focus.OTHER_PLACE:
        if s.place is not OrderPlace.OTHER_CITY:
            return [([RIDE_THERE, REMIND], 64), ([DRIVE_THERE, REMIND], 18), ([RIDE_NEXT], 18)]
        return [([DRIVE_NEXT], 58), ([DRIVE_THERE, REMIND], 18), ([RIDE_NEXT], 18), ([RATE], 6)]
    if s.day_part in (DayPart.DINNER, DayPart.MORNING):
        return [([REMIND], 72), ([CARD], 14), ([EAT_HERE], 10), ([RATE], 4)]
    return [([RIDE_ON], 62), ([DRIVE_ON], 18), ([REMIND], 14), ([RATE], 6)]


def _other(s: Situation) -> Openings:
    if s.place is OrderPlace.AT:
        return [([CARD], 72), ([CARD, RATE], 14), ([RATE], 7), ([RIDE_NEXT], 7)]
    if s.surroundings is Surroundings.LODGING:
        return [([CARD], 82), ([RIDE_THERE, REMIND], 10), ([REMIND], 8)]
    if s.phase in DONE:
        return _next_way(s)
    soon = s.phase in (Phase.SOON, Phase.LATER_TODAY, Phase.LATER)
    if s.place is OrderPlace.OTHER_CITY:
        if soon and s.surroundings in (*VISITED, Surroundings.SHOPPING):
            return [([CARD], 72), ([RIDE_ON], 28)]
        return [([RIDE_ON], 68), ([DRIVE_ON], 20), ([CARD], 12)]
    if soon and s.surroundings in (*VISITED, Surroundings.DISTRICT):
        return [([CARD], 70), ([REMIND, RIDE_THERE], 16), ([RIDE_THERE, REMIND], 14)]
    if s.focus is Focus.OTHER_PLACE and s.day_part is DayPart.MORNING:
        return [([DRIVE_THERE, REMIND], 64), ([DRIVE_NEXT], 18), ([REMIND, RIDE_THERE], 18)]
    return [
        ([RIDE_THERE, REMIND], 52),
        ([RIDE_THERE, CARD], 14),
        ([RIDE_THERE], 8),
        ([DRIVE_THERE, REMIND], 10),
        ([REMIND, CARD], 8),
        ([EAT_HERE], 8),
    ]


def _next_way(s: Situation) -> Openings:
    if s.surroundings is Surroundings.HUB:
        return [([FAR, TRANSFER], 75), ([RIDE_ON, RATE], 25)]
    if s.focus is Focus.OTHER_PLACE:
        return [([RIDE_NEXT, RATE], 60), ([DRIVE_NEXT], 40)]
    return [([RIDE_ON, RATE], 70), ([RATE, RIDE_ON], 30)]


_BY_ORDER: Mapping[str, Callable[[Situation], Openings]] = {
    "酒店": _hotel,
    "门票": _ticket,
    "加油": _refuel,
    "充电桩": _refuel,
}
