"""Whether a rule's conditions hold at an event."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime

from gplan_jax.synthesis.triggers.events import Spot
from gplan_jax.synthesis.triggers.orders import Order
from gplan_jax.synthesis.triggers.spec import CityCondition, OrderCondition, Rule

SECONDS = 3600.0


@dataclass(slots=True)
class Moment:
    """What is known of a user at an event.

    Attributes:
        event_order: the order that the event is about.
        orders: all orders that are remembered.
        position: where the user is; None where that is unknown or stale.
        city_before: the city of the located event before; "" where there was none.
        located: the event itself says where the user is.
        since: word -> time of the latest such event before this one.
    """

    now: datetime
    event_order: Order | None
    orders: Sequence[Order]
    position: Spot | None
    home_city: str
    city_before: str
    located: bool
    since: Mapping[str, datetime]


def matching_order(condition: OrderCondition, moment: Moment) -> Order | None:
    """The order that meets a condition; of several the one whose start is nearest, else by key."""
    if condition.of_event:
        orders: Sequence[Order] = (moment.event_order,) if moment.event_order else ()
    else:
        orders = moment.orders
    if not orders:
        return None
    found = [order for order in orders if _order_holds(condition, order, moment)]
    return min(found, key=lambda order: _nearness(order, moment.now), default=None)


def conditions_hold(rule: Rule, moment: Moment) -> bool:
    """Whether the conditions on city and past events hold."""
    if rule.city is not None and not _city_holds(rule.city, moment):
        return False
    return all(
        window.holds(_hours_since(moment.since.get(word), moment.now))
        for word, window in rule.hours_since.items()
    )


def _order_holds(condition: OrderCondition, order: Order, moment: Moment) -> bool:
    if order.type not in condition.types or order.state not in condition.states:
        return False
    now = moment.now
    windows = (
        (condition.hours_to_start, _hours(now, order.start)),
        (condition.hours_to_end, _hours(now, order.end)),
        (condition.hours_since_made, _hours(order.made, now)),
    )
    if not all(window is None or window.holds(hours) for window, hours in windows):
        return False
    if condition.city is None:
        return True
    here = moment.position.city if moment.position else ""
    if not here or not order.spot.city:
        return False
    return (here == order.spot.city) is (condition.city == "here")


def _city_holds(condition: CityCondition, moment: Moment) -> bool:
    city = moment.position.city if moment.position else ""
    if condition.home is not None:
        if not city or not moment.home_city:
            return False
        if (city == moment.home_city) is not condition.home:
            return False
    if condition.changed is not None:
        if not moment.located or not city or not moment.city_before:
            return False
        return (city != moment.city_before) is condition.changed
    return True


def _nearness(order: Order, now: datetime) -> tuple[float, str]:
    hours = _hours(now, order.start)
    return (math.inf if hours is None else abs(hours)), order.key


def _hours_since(earlier: datetime | None, now: datetime) -> float:
    return math.inf if earlier is None else (now - earlier).total_seconds() / SECONDS


def _hours(earlier: datetime | None, later: datetime | None) -> float | None:
    if earlier is None or later is None:
        return None
    return (later - earlier).total_seconds() / SECONDS
