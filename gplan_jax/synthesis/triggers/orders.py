"""A user's orders as far as they are known: their places, times and states."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from gplan_jax.synthesis.triggers.events import NOWHERE, Event, Spot
from gplan_jax.synthesis.triggers.spec import OrderChange, OrdersSpec, OrderState

STATES: dict[OrderChange, OrderState] = {
    "made": "open",
    "changed": "open",
    "cancelled": "cancelled",
    "used": "used",
}


@dataclass(slots=True)
class Order:
    """One order; what no event has told yet is "" or None."""

    key: str
    type: str = ""
    state: OrderState = "open"
    spot: Spot = NOWHERE
    made: datetime | None = None
    start: datetime | None = None
    end: datetime | None = None
    seen: datetime = datetime.min


class OrderBook:
    """The orders of one user, at most ``orders.most`` of them."""

    def __init__(self, spec: OrdersSpec) -> None:
        self._spec = spec
        self._orders: dict[str, Order] = {}

    def update(self, event: Event, change: OrderChange, spot: Spot) -> Order:
        """Notes what an event says about its order; what it leaves empty stays as it was."""
        key = event.order or f"{event.order_type} {spot.place} {event.order_start}"
        order = self._orders.pop(key, None) or Order(key)
        order.type = event.order_type or order.type
        # A change, for example a late payment receipt, does not open what is closed.
        if change != "changed":
            order.state = STATES[change]
        order.state = self._spec.statuses.get(event.order_status, order.state)
        order.spot = Spot(*(new or old for new, old in zip(spot, order.spot, strict=True)))
        made = event.when.replace(microsecond=0) if change == "made" else None
        order.made = event.order_made or order.made or made
        order.start = event.order_start or order.start
        order.end = event.order_end or order.end
        order.seen = event.when
        self._orders[key] = order  # Last again: the first is the one longest without an event.
        if len(self._orders) > self._spec.most:
            del self._orders[next(iter(self._orders))]
        return order

    def remembered(self, now: datetime) -> Sequence[Order]:
        """All orders that are not forgotten yet."""
        if not self._orders:
            return ()
        first = now - timedelta(days=self._spec.keep_days)
        for order in [o for o in self._orders.values() if o.seen < first and _ended(o, first)]:
            del self._orders[order.key]
        return tuple(self._orders.values())

    def keys(self) -> Iterator[str]:
        """The keys of the orders held."""
        return iter(self._orders)


def _ended(order: Order, before: datetime) -> bool:
    return all(time is None or time < before for time in (order.start, order.end))
