"""The trigger orders of the simulated world: what was ordered, where, when, and how it goes on.

Orders live through the phases of ``Phase``: hotels and tickets by days, others to the second.
As in the public rows, orders that set a plan off are made, or begin, on the day itself; refuelling
carries no end, tickets hold for a month. Where a table asks for what can't be at this hour, it is
drawn again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from gplan_jax.synthesis.amap.situation import Phase
from gplan_jax.synthesis.world.calibration import draw, draw_quantile
from gplan_jax.synthesis.world.geography import Poi

DAY_PHASES = (Phase.LATER, Phase.THIS_DAY, Phase.LAST_DAY)
DAY_ORDERS = ("酒店", "门票")
TICKET_DAYS = 30
TRIES = 30
# Bounds of the classes of an order's age, in minutes.
AGE_BOUNDS = {
    "5": (0, 5), "15": (5, 15), "30": (15, 30), "60": (30, 60), "120": (60, 120),
    "240": (120, 240), "480": (240, 480), "720": (480, 720), "1440": (720, 1440),
}  # fmt: skip
# Hours from now to the start, by phase.
STARTS_IN = {
    Phase.SOON: (0.1, 2.9),
    Phase.LATER_TODAY: (3.1, 17.0),
    Phase.LATER: (24.0, 60.0),
    Phase.JUST_STARTED: (-1.9, -0.02),
    Phase.LONG_STARTED: (-12.0, -2.2),
    Phase.ACTIVE: (-1.9, -0.1),
    Phase.OVER: (-9.0, -5.0),
}


@dataclass(frozen=True, slots=True)
class OrderTimes:
    """When an order was made, begins and ends; ``made`` and ``end`` may be unknown."""

    made: datetime | None
    start: datetime
    end: datetime | None


@dataclass(frozen=True, slots=True)
class Order:
    """A trigger event."""

    type: str
    place: Poi
    times: OrderTimes


def draw_times(order_type: str, now: datetime, generator: random.Random) -> OrderTimes:
    """Times in one of the phases that orders of this type know, all fit for ``now``."""
    for _ in range(TRIES):
        phase = Phase[draw(generator, "phases", order_type)]
        if phase in DAY_PHASES and order_type not in DAY_ORDERS:
            continue  # An order of midnight sharp, which looks like one of the day.
        known = draw(generator, "order_known", phase.name) == "True"
        made = now - _age(order_type, generator) if known else None
        if made and made.date() != now.date():
            continue
        times = (
            _days(order_type, phase, made, now, generator)
            if order_type in DAY_ORDERS and phase in DAY_PHASES
            else _seconds(order_type, phase, made, now, generator)
        )
        if times is not None:
            return times
    return OrderTimes(None, now - timedelta(minutes=generator.randint(2, 100)), None)


def _age(order_type: str, generator: random.Random) -> timedelta:
    least, most = AGE_BOUNDS[draw(generator, "order_age", order_type)]
    # Most of the last class is of its first hours.
    seconds = (
        generator.triangular(least, most, least) if most > 720 else generator.uniform(least, most)
    )
    return timedelta(seconds=1 + int(60 * seconds))


def _days(
    order_type: str,
    phase: Phase,
    made: datetime | None,
    now: datetime,
    generator: random.Random,
) -> OrderTimes | None:
    """Start and end on midnights."""
    today = now.replace(hour=0, minute=0, second=0)
    stay = int(draw(generator, "nights")) if order_type == "酒店" else TICKET_DAYS
    begun = {Phase.LATER: -1, Phase.THIS_DAY: 0, Phase.LAST_DAY: stay}[phase]
    start = today - timedelta(days=begun)
    return OrderTimes(made, start, start + timedelta(days=stay))


def _seconds(
    order_type: str,
    phase: Phase,
    made: datetime | None,
    now: datetime,
    generator: random.Random,
) -> OrderTimes | None:
    """Start and end to the second; None where ``made`` doesn't fit the phase."""
    begun = phase in (Phase.JUST_STARTED, Phase.LONG_STARTED, Phase.ACTIVE)
    if begun and made and order_type not in DAY_ORDERS:
        lag = draw_quantile(generator, "start_lag_minutes", order_type)
        start = made - timedelta(seconds=int(60 * max(lag, 0.0)))
    else:
        start = now + timedelta(seconds=int(3600 * generator.uniform(*STARTS_IN[phase])))
    hours = (now - start).total_seconds() / 3600
    today = start.date() == now.date()
    fits = {
        Phase.SOON: -3 < hours < 0,
        Phase.LATER_TODAY: hours < -3 and today,
        Phase.JUST_STARTED: 0 <= hours <= 2 and today,
        Phase.LONG_STARTED: hours > 2 and today,
        Phase.ACTIVE: hours >= 0 and today,
    }.get(phase, True)
    if not fits or (start.hour, start.minute) == (0, 0):
        return None
    return OrderTimes(made, start, _end(order_type, phase, start, now, generator))


def _end(
    order_type: str, phase: Phase, start: datetime, now: datetime, generator: random.Random
) -> datetime | None:
    if order_type in DAY_ORDERS:  # A room by the hour.
        stay = timedelta(hours=generator.randint(2, 4))
        return now - timedelta(minutes=20) if phase is Phase.OVER else max(start, now) + stay
    if order_type != "其他" or phase in (Phase.JUST_STARTED, Phase.LONG_STARTED):
        return None
    day = start.replace(hour=23, minute=59, second=59)
    days = int(draw(generator, "days_valid"))
    # One that is under way and ends with today would be on its last day.
    return day + timedelta(days=max(days, 1) if phase is Phase.ACTIVE else days)
