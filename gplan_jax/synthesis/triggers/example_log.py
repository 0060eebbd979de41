"""A small made-up event log to try the triggers on: two weeks in the lives of invented users."""

from __future__ import annotations

import csv
import random
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import NamedTuple

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import atomic_directory
from gplan_jax.synthesis.triggers.trigger_spec import SHIPPED_SPEC

EVENTS_FILE, USERS_FILE, RULES_FILE = "events.csv", "users.csv", "triggers.yaml"
FIRST_DAY = datetime(2026, 3, 2)  # A Monday.
DAYS = 14
CITIES = ("青岚市", "雾汀市", "曦禾市", "砚溪市", "棠浦市", "霁川市")
DISTRICTS = ("望舒区", "听涛区", "揽月区")
CATEGORIES = (
    "住宅区", "写字楼", "高铁站", "商务酒店", "4A景区", "加油站", "充电站", "中餐", "商场", "公园",
)  # fmt: skip
PLACES_OF_A_CATEGORY = 4
TRAVELLER_SHARE, DRIVER_SHARE, KNOWN_SHARE = 0.6, 0.6, 0.6
EVENT_COLUMNS = (
    "user_id", "event_time", "event", "poi_id", "poi_category", "city", "district",
    "order_id", "order_type", "order_poi_id", "order_poi_category", "order_city",
    "order_district", "order_made", "order_start", "order_end",
)  # fmt: skip
USER_COLUMNS = (
    "user_id", "home_city", "home_district", "home_poi_id", "work_city", "work_district",
    "work_poi_id",
)  # fmt: skip


class ExamplePlace(NamedTuple):
    """A place of the example: id, category, city, district."""

    id: str
    category: str
    city: str
    district: str


def write_example_log(directory: str | Path, users: int, seed: int = 0) -> int:
    """Writes events, users and the shipped rules into a new directory; returns the events' number.

    The same arguments give the same bytes; a user's events don't depend on the number of users.
    """
    if users < 1:
        raise GplanError(f"users is {users}; an example needs at least 1.")
    count = 0
    with atomic_directory(directory) as temporary:
        with (
            (temporary / EVENTS_FILE).open("w", encoding="utf-8", newline="") as events_file,
            (temporary / USERS_FILE).open("w", encoding="utf-8", newline="") as users_file,
        ):
            events, people = csv.writer(events_file), csv.writer(users_file)
            events.writerow(EVENT_COLUMNS)
            people.writerow(USER_COLUMNS)
            for number in range(users):
                life = _Life(f"u{number:07d}", random.Random(f"example log {seed} {number}"))
                if life.known:
                    people.writerow(life.profile())
                for row in sorted(life.events(), key=lambda row: row[1]):
                    events.writerow(row)
                    count += 1
        (temporary / RULES_FILE).write_bytes(SHIPPED_SPEC.read_bytes())
    return count


class _Life:
    """One user: where life takes place, and the log's rows that it leaves."""

    def __init__(self, user: str, generator: random.Random) -> None:
        self.user, self._random = user, generator
        self._city = generator.choice(CITIES)
        self._home = self._poi("住宅区")
        self._work = self._poi("写字楼")
        self.known = generator.random() < KNOWN_SHARE
        self._drives = generator.random() < DRIVER_SHARE
        self._orders = 0

    def profile(self) -> tuple[str, ...]:
        home, work = self._home, self._work
        return (self.user, home.city, home.district, home.id, work.city, work.district, work.id)

    def events(self) -> Iterator[tuple[str, ...]]:
        chance = self._random
        away = set()
        if chance.random() < TRAVELLER_SHARE:
            first = chance.randint(6, DAYS - 4)
            nights = chance.randint(1, 2)
            away = set(range(first, first + nights + 1))
            yield from self._trip(FIRST_DAY + timedelta(days=first), nights)
        for day in range(DAYS):
            if day not in away:
                yield from self._day_at_home(FIRST_DAY + timedelta(days=day))

    def _day_at_home(self, day: datetime) -> Iterator[tuple[str, ...]]:
        chance = self._random
        yield self._event(self._at(day, 7), "position", self._home)
        if day.weekday() < 5:
            yield self._event(self._at(day, 9), "visit", self._work)
            yield self._event(self._at(day, 15), "position", self._work)
            if chance.random() < 0.15:
                when, target = self._at(day, 17), self._poi(chance.choice(CATEGORIES[7:]))
                order = self._order("ride", target, when, when + timedelta(minutes=20), None)
                yield self._event(when - timedelta(minutes=5), "position", self._work)
                yield self._event(when, "order_made", target, order)
                if chance.random() < 0.2:
                    yield self._event(when + timedelta(minutes=4), "order_cancelled", target, order)
        elif chance.random() < 0.4:
            yield from self._ticket(day, self._poi("4A景区"))
        if chance.random() < 0.4:
            yield from self._outing(self._at(day, 19), self._poi(chance.choice(CATEGORIES[7:])))
        if self._drives and chance.random() < 0.12:
            when = self._at(day, 18)
            kind, category = chance.choice((("fuel", "加油站"), ("charging", "充电站")))
            poi = self._poi(category)
            order = self._order(kind, poi, when, when, None)
            yield self._event(when - timedelta(minutes=12), "search", poi)
            yield self._event(when - timedelta(minutes=3), "visit", poi)
            yield self._event(when, "order_made", poi, order)
            yield self._event(when + timedelta(minutes=6), "order_used", poi, order)
        yield self._event(self._at(day, 22), "position", self._home)

    def _trip(self, day: datetime, nights: int) -> Iterator[tuple[str, ...]]:
        chance = self._random
        away = chance.choice([city for city in CITIES if city != self._city])
        hotel, station = self._poi("商务酒店", away), self._poi("高铁站", away)
        made = day - timedelta(hours=chance.uniform(1, 60))
        stay = self._order("hotel", hotel, made, day, day + timedelta(days=nights))
        yield self._event(made - timedelta(minutes=9), "search", hotel)
        yield self._event(made, "order_made", hotel, stay)
        if chance.random() < 0.1:
            cancelled = made + timedelta(hours=1)
            yield self._event(cancelled, "order_cancelled", hotel, stay)
        yield self._event(self._at(day, 8), "visit", self._poi("高铁站"))
        yield self._event(self._at(day, 13), "position", station)
        yield from self._outing(self._at(day, 14), hotel)
        yield self._event(self._at(day, 15), "order_used", hotel, stay)
        for night in range(nights):
            date = day + timedelta(days=night)
            yield self._event(self._at(date, 22), "position", hotel)
            if chance.random() < 0.6:
                yield from self._ticket(date + timedelta(days=1), self._poi("4A景区", away))
        last = day + timedelta(days=nights)
        yield self._event(self._at(last, 17), "visit", station)
        yield self._event(self._at(last, 22), "position", self._home)

    def _ticket(self, day: datetime, sight: ExamplePlace) -> Iterator[tuple[str, ...]]:
        made = self._at(day, 8) - timedelta(hours=self._random.uniform(0, 20))
        order = self._order("ticket", sight, made, day, day + timedelta(days=30))
        yield self._event(made - timedelta(minutes=4), "view", sight)
        yield self._event(made, "order_made", sight, order)
        yield from self._outing(self._at(day, 10), sight)
        yield self._event(self._at(day, 12), "order_used", sight, order)

    def _outing(self, when: datetime, poi: ExamplePlace) -> Iterator[tuple[str, ...]]:
        yield self._event(when, "search", poi)
        yield self._event(when + timedelta(minutes=4), "route", poi)
        yield self._event(when + timedelta(minutes=6), "navigate", poi)
        yield self._event(when + timedelta(minutes=40), "visit", poi)

    def _at(self, day: datetime, hour: int) -> datetime:
        return day + timedelta(hours=hour, seconds=self._random.randrange(3600))

    def _poi(self, category: str, city: str | None = None) -> ExamplePlace:
        city, district = city or self._city, self._random.choice(DISTRICTS)
        number = self._random.randrange(PLACES_OF_A_CATEGORY)
        key = (CITIES.index(city), DISTRICTS.index(district), CATEGORIES.index(category), number)
        return ExamplePlace("B" + "".join(f"{part:02d}" for part in key), category, city, district)

    def _order(
        self, kind: str, poi: ExamplePlace, made: datetime, start: datetime, end: datetime | None
    ) -> tuple[str, ...]:
        """The order columns of its events."""
        self._orders += 1
        times = (_text(made), _text(start), _text(end) if end else "")
        return (f"{self.user}-{self._orders}", kind, *poi, *times)

    def _event(
        self, when: datetime, word: str, poi: ExamplePlace, order: tuple[str, ...] = ("",) * 9
    ) -> tuple[str, ...]:
        return (self.user, _text(when), word, *poi, *order)


def _text(when: datetime) -> str:
    return when.strftime("%Y-%m-%d %H:%M:%S")
