"""What the parts of the trigger search hand each other: events, places and a user's profile."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import NamedTuple

from gplan_jax.synthesis.triggers.escaping import place_id, word
from gplan_jax.synthesis.triggers.spec import PROFILE_FIELDS


class Event(NamedTuple):
    """One row of the log: text as it stands there ("" where empty), times in the spec's zone.

    ``profile`` holds the values of ``PROFILE_FIELDS``, or nothing where the log maps none.
    """

    user: str
    when: datetime
    word: str
    place: str = ""
    category: str = ""
    city: str = ""
    district: str = ""
    order: str = ""
    order_type: str = ""
    order_status: str = ""
    order_place: str = ""
    order_category: str = ""
    order_city: str = ""
    order_district: str = ""
    order_made: datetime | None = None
    order_start: datetime | None = None
    order_end: datetime | None = None
    profile: tuple[str, ...] = ()


class Spot(NamedTuple):
    """A place as the rows write it: escaped id, category, city, district; "" where unknown."""

    place: str = ""
    category: str = ""
    city: str = ""
    district: str = ""

    @property
    def area(self) -> str:
        """City and district in one word; "" where either is unknown."""
        return self.city + self.district if self.city and self.district else ""


NOWHERE = Spot()


def event_spot(event: Event) -> Spot:
    """The place of an event's own columns."""
    return Spot(place_id(event.place), word(event.category), word(event.city), word(event.district))


def order_spot(event: Event, own_columns: bool) -> Spot:
    """The place of an event's order: of the order's columns where the log has them."""
    if not own_columns:
        return event_spot(event)
    return Spot(
        place_id(event.order_place),
        word(event.order_category),
        word(event.order_city),
        word(event.order_district),
    )


def profile_of(values: tuple[str, ...]) -> Mapping[str, str]:
    """Profile field -> value, for those that have one."""
    return {field: v for field, v in zip(PROFILE_FIELDS, values, strict=True) if v}
