"""The times of the simulated world's orders: when they were made, begin and end.

Hotels and tickets begin and end by days, others to the second. As in the public rows, orders that
trigger a plan are made, or begin, on the day itself; refuelling has no end, tickets hold for a
month. What can't be at this hour is drawn again.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from datetime import datetime, timedelta

from gplan_jax.synthesis.world.calibration import draw, draw_quantile

# Phases are those of rules.yaml, in capitals as in calibration.yaml.
DAY_PHASES = ("LATER", "THIS_DAY", "LAST_DAY")
DAY_ORDERS = ("酒店", "门票")
REFUEL_ORDERS = ("加油", "充电桩")  # which are about the car
TICKET_DAYS = 30
TRIES = 30
# Bounds of the classes of an order's age, in minutes.
AGE_BOUNDS = {
    "5": (0, 5), "15": (5, 15), "30": (15, 30), "60": (30, 60), "120": (60, 120),
    "240": (120, 240), "480": (240, 480), "720": (480, 720), "1440": (720, 1440),
}  # fmt: skip
# Hours from now to the start, by phase.
STARTS_IN = {
    "SOON": (0.1, 2.9),
    "LATER_TODAY": (3.1, 17.0),
    "LATER": (24.0, 60.0),
    "JUST_STARTED": (-1.9, -0.02),
    "LONG_STARTED": (-12.0, -2.2),
    "ACTIVE": (-1.9, -0.1),
    "OVER": (-9.0, -5.0),
}


@dataclass(frozen=True, slots=True)
class OrderTimes:
    """When an order was made, begins and ends; ``made`` and ``end`` may be unknown."""

    made: datetime | None
    start: datetime
    end: datetime | None


def draw_times(order_type: str, now: datetime, generator: random.Random) -> OrderTimes:
    """Times in one of the phases that orders of this type know, all fit for ``now``."""
    by_days = order_type in DAY_ORDERS
    for _ in range(TRIES):
        phase = draw(generator, "phases", order_type)
        if phase in DAY_PHASES and not by_days:
            continue  # An order of midnight sharp, which looks like one of the day.
        made = None
        if draw(generator, "order_known", phase) == "True":
            least, most = AGE_BOUNDS[draw(generator, "order_age", order_type)]
            # Most of the last class is of its first hours.
            late = most > 720
            age = (
                generator.triangular(least, most, least) if late else generator.uniform(least, most)
            )
            made = now - timedelta(seconds=1 + int(60 * age))
            if made.date() != now.date():
                continue
        if phase in DAY_PHASES:
            # Start and end on midnights.
            today = now.replace(hour=0, minute=0, second=0)
            stay = int(draw(generator, "nights")) if order_type == "酒店" else TICKET_DAYS
            begun_days = {"LATER": -1, "THIS_DAY": 0, "LAST_DAY": stay}[phase]
            start = today - timedelta(days=begun_days)
            return OrderTimes(made, start, start + timedelta(days=stay))
        # Start and end to the second; drawn again where ``made`` doesn't fit the phase.
        begun = phase in ("JUST_STARTED", "LONG_STARTED", "ACTIVE")
        if begun and made and not by_days:
            lag = draw_quantile(generator, "start_lag_minutes", order_type)
            start = made - timedelta(seconds=int(60 * max(lag, 0.0)))
        else:
            start = now + timedelta(seconds=int(3600 * generator.uniform(*STARTS_IN[phase])))
        hours = (now - start).total_seconds() / 3600
        today_only = start.date() == now.date()
        fits = {
            "SOON": -3 < hours < 0,
            "LATER_TODAY": hours < -3 and today_only,
            "JUST_STARTED": 0 <= hours <= 2 and today_only,
            "LONG_STARTED": hours > 2 and today_only,
            "ACTIVE": hours >= 0 and today_only,
        }.get(phase, True)
        if fits and (start.hour, start.minute) != (0, 0):
            return OrderTimes(made, start, _end(order_type, phase, start, now, generator))
    return OrderTimes(None, now - timedelta(minutes=generator.randint(2, 100)), None)


def _end(
    order_type: str, phase: str, start: datetime, now: datetime, generator: random.Random
) -> datetime | None:
    if order_type in DAY_ORDERS:  # A room by the hour.
        stay = timedelta(hours=generator.randint(2, 4))
        return now - timedelta(minutes=20) if phase == "OVER" else max(start, now) + stay
    if order_type != "其他" or phase in ("JUST_STARTED", "LONG_STARTED"):
        return None
    day = start.replace(hour=23, minute=59, second=59)
    days = int(draw(generator, "days_valid"))
    # One that is under way and ends with today would be on its last day.
    return day + timedelta(days=max(days, 1) if phase == "ACTIVE" else days)
