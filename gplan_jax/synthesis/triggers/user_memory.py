"""What is known of one user so far, in bounded memory: orders, home and work, behaviour.

Of an event's places, free text is made safe for columns that are read back by punctuation. The
behaviour columns separate entries by commas and find a place's id after the last 的. So ids are
escaped and stay different; words, which only people and models read, get look-alikes.
"""

from __future__ import annotations

import hashlib
import unicodedata
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from functools import lru_cache
from typing import NamedTuple

from gplan_jax.gsisr import RowForm
from gplan_jax.gsisr.facts import Habit, short_term_entry
from gplan_jax.synthesis.triggers.trigger_spec import (
    HabitualSpec,
    LongTerm,
    OrderChange,
    OrdersSpec,
    OrderState,
    ShortTerm,
)

PLACE_PREFIX = "p_"
LONGEST_ID, LONGEST_WORD = 64, 64
_DIGEST = 16
_CACHE = 1 << 16
_ID_KEPT = frozenset("-.")
_USER_KEPT = frozenset("-._:@+=")
_WORD_KEPT = frozenset("-./()&;:+_|")
_FULL_WIDTH = {chr(code): chr(code + 0xFEE0) for code in range(0x21, 0x7F)}
STATES: dict[OrderChange, OrderState] = {
    "made": "open",
    "changed": "open",
    "cancelled": "cancelled",
    "used": "used",
}
SATURDAY = 5
LOCAL, BEFORE_JOURNEY, ON_JOURNEY, UNKNOWN = "本地", "异地行前", "异地行中", "未知地点"


class LogEvent(NamedTuple):
    """One row of the log: text ("" where empty), times in the spec's zone, profile if mapped."""

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

    @classmethod
    def escaped(cls, place: str, category: str, city: str, district: str) -> Spot:
        """The place that the texts of a log tell."""
        return cls(place_id(place), word(category), word(city), word(district))

    @property
    def area(self) -> str:
        """City and district in one word; "" where either is unknown."""
        return self.city + self.district if self.city and self.district else ""


NOWHERE = Spot()


@lru_cache(_CACHE)
def place_id(text: str) -> str:
    """A place's id as the rows write it, ``p_...``; "" stays "", different ids stay different.

    All but letters, digits, ``-`` and ``.`` (and 的) becomes the %XX of its UTF-8 bytes; an id
    longer than 64 characters is cut and ends in a digest.
    """
    if not text:
        return ""
    return PLACE_PREFIX + _escaped(text.removeprefix(PLACE_PREFIX) or text, _ID_KEPT)


@lru_cache(_CACHE)
def user_id(text: str) -> str:
    """A user's id: as ``place_id``, without the prefix, and ``_ : @ + =`` stay, too."""
    return _escaped(text, _USER_KEPT)


@lru_cache(_CACHE)
def word(text: str) -> str:
    """A category, city or district: one line, cut after 64 characters.

    ASCII punctuation but ``- . / ( ) & ; : + _ |`` becomes its full-width form (``,`` ，).
    """
    return _harmless(text, _WORD_KEPT)[:LONGEST_WORD].strip()


def profile_value(text: str) -> str:
    """A coded attribute: as ``word``, but commas stay, and it may be of any length."""
    return _harmless(text, _WORD_KEPT | {","})


def _harmless(text: str, kept: frozenset[str]) -> str:
    visible = (c for c in text if c.isspace() or unicodedata.category(c)[0] != "C")
    line = " ".join("".join(visible).split())
    return "".join(c if c.isalnum() or c in kept else _FULL_WIDTH.get(c, c) for c in line)


def _escaped(text: str, kept: frozenset[str]) -> str:
    safe = "".join(
        c
        if (c.isalnum() and c != "的") or c in kept
        else "".join(f"%{byte:02X}" for byte in c.encode("utf-8", "surrogatepass"))
        for c in text
    )
    if len(safe) <= LONGEST_ID:
        return safe
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:_DIGEST]
    return f"{safe[: LONGEST_ID - _DIGEST - 1]}-{digest}"


@dataclass(slots=True)
class TrackedOrder:
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
        self._orders: dict[str, TrackedOrder] = {}

    def update(self, event: LogEvent, change: OrderChange, spot: Spot) -> TrackedOrder:
        """Notes what an event says about its order; what it leaves empty stays as it was."""
        key = event.order or f"{event.order_type} {spot.place} {event.order_start}"
        order = self._orders.pop(key, None) or TrackedOrder(key)
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

    def remembered(self, now: datetime) -> Sequence[TrackedOrder]:
        """All orders that are not forgotten yet."""
        if not self._orders:
            return ()
        first = now - timedelta(days=self._spec.keep_days)
        for order in [order for order in self._orders.values() if order.seen < first]:
            if all(time is None or time < first for time in (order.start, order.end)):
                del self._orders[order.key]
        return tuple(self._orders.values())

    def keys(self) -> Iterator[str]:
        """The keys of the orders held."""
        return iter(self._orders)


class Stays:
    """Where the user last was in each night and in the working hours of each working day."""

    def __init__(self, spec: HabitualSpec, holidays: Collection[date]) -> None:
        self._spec, self._holidays = spec, holidays
        self._nights: dict[date, Spot] = {}
        self._workdays: dict[date, Spot] = {}

    def add(self, when: datetime, spot: Spot) -> bool:
        """Notes where the user is; says whether that changed any stay."""
        if not spot.place:
            return False
        day, spec = when.date(), self._spec
        if when.hour in spec.night:
            # The hours after midnight belong to the night that began the day before.
            late = spec.night.start >= spec.night.end and when.hour < spec.night.end
            return self._note(self._nights, day - timedelta(days=1) if late else day, spot)
        works = when.weekday() < SATURDAY and day not in self._holidays
        return works and when.hour in spec.work and self._note(self._workdays, day, spot)

    def home(self) -> Spot:
        """The place of most nights; with too little evidence only its city, or nowhere."""
        home = self._most_common(self._nights.values())
        if home is not None:
            return home
        city = self._most_common(Spot(city=spot.city) for spot in self._nights.values())
        return city or NOWHERE

    def work(self, home_place: str) -> Spot:
        """The place of most working days away from home, or nowhere."""
        away = (spot for spot in self._workdays.values() if spot.place != home_place)
        return self._most_common(away) or NOWHERE

    def _note(self, stays: dict[date, Spot], day: date, spot: Spot) -> bool:
        if stays.get(day) == spot:
            return False
        stays[day] = spot
        if len(stays) > self._spec.days or next(iter(stays)) <= day - timedelta(self._spec.days):
            first = day - timedelta(days=self._spec.days)
            for old in [known for known in stays if known <= first]:
                del stays[old]
        return True

    def _most_common(self, spots: Iterable[Spot]) -> Spot | None:
        spots = list(spots)
        latest = {spot.place or spot.city: spot for spot in spots}
        counts = Counter(spot.place or spot.city for spot in spots)
        counts.pop("", None)
        if not counts:
            return None
        name, count = max(counts.items(), key=lambda item: (item[1], item[0]))
        enough = count >= self._spec.least and count >= self._spec.share * counts.total()
        return latest[name] if enough else None


def habitual_spots(profile: Mapping[str, str], stays: Stays | None) -> tuple[Spot, Spot]:
    """Home and work: the profile's, else from stays, a home only in the profile's city."""

    def told(name: str) -> Spot:
        parts = (f"{name}_{part}" for part in ("place", "category", "city", "district"))
        return Spot.escaped(*(profile.get(part, "") for part in parts))

    home = told("home")
    if not home.place and stays is not None:
        found = stays.home()
        home = found if home.city in ("", found.city) else home
    work = told("work")
    if not work.place and stays is not None:
        work = stays.work(home.place)
    return home, work


@dataclass(slots=True)
class BehaviorEntry:
    """What a user did in one hour about one place; ``user_city`` is where the user was then."""

    when: datetime
    spot: Spot
    user_city: str
    actions: set[str]
    ordered: bool

    def locality(self, home_city: str) -> str:
        """How the place lies to the home; an order away from it: unknown, as in public rows."""
        city = self.spot.city
        if not city or not home_city:
            return UNKNOWN
        if city == home_city:
            return LOCAL
        if self.ordered or not self.user_city:
            return UNKNOWN
        return ON_JOURNEY if city == self.user_city else BEFORE_JOURNEY


class ShortTermMemory:
    """The latest entries, one for each hour and place, the last one touched last."""

    def __init__(self, spec: ShortTerm) -> None:
        self._spec, self._actions = spec, frozenset(spec.actions)
        self._entries: dict[tuple[datetime, str], BehaviorEntry] = {}

    def add(self, when: datetime, action: str, spot: Spot, user_city: str, ordered: bool) -> None:
        """Notes an action about a place; an entry too many drops the oldest."""
        if action not in self._actions:
            return
        hour = when.replace(minute=0, second=0, microsecond=0)
        entry = self._entries.pop((hour, spot.place), None)
        if entry is None:
            entry = BehaviorEntry(hour, spot, user_city, {action}, ordered)
        else:
            entry.spot = spot if spot.category else spot._replace(category=entry.spot.category)
            entry.user_city = user_city or entry.user_city
            entry.actions.add(action)
            entry.ordered = entry.ordered or ordered
        self._entries[hour, spot.place] = entry
        if len(self._entries) > self._spec.items:
            del self._entries[next(iter(self._entries))]

    def entries(self, now: datetime) -> list[BehaviorEntry]:
        """The entries of the declared days, oldest first."""
        first = now - timedelta(days=self._spec.days)
        return [entry for entry in self._entries.values() if entry.when >= first]


@dataclass(slots=True)
class _Visits:
    category: str = ""
    latest: datetime = datetime.min
    # Day, as its ordinal -> action -> how often.
    days: dict[int, Counter[str]] = field(default_factory=dict)

    def forget_before(self, day: int) -> None:
        self.days = {known: counts for known, counts in self.days.items() if known >= day}

    def totals(self) -> Counter[str]:
        return sum(self.days.values(), Counter())


class LongTermMemory:
    """How often the user acted on each place, by day, so that old days can be forgotten."""

    def __init__(self, spec: LongTerm) -> None:
        self._spec, self._actions = spec, frozenset(spec.actions)
        self._places: dict[str, _Visits] = {}

    def add(self, when: datetime, action: str, spot: Spot) -> None:
        if action not in self._actions:
            return
        visits = self._places.setdefault(spot.place, _Visits())
        visits.category = spot.category or visits.category
        visits.latest = when
        day = when.toordinal()
        if day not in visits.days:
            visits.days[day] = Counter()
            if len(visits.days) > self._spec.days:
                visits.forget_before(day - self._spec.days + 1)
        visits.days[day][action] += 1
        if len(self._places) > 2 * self._spec.most_places:
            self._forget(when)

    def habits(self, now: datetime) -> list[Habit]:
        """The most frequent first; frequent actions first, too."""
        self._forget(now)
        order = self._spec.actions
        found = []
        for place, visits in self._places.items():
            totals = visits.totals()
            actions = sorted(totals, key=lambda code: (-totals[code], order.index(code)))
            found.append(Habit(visits.category, place, tuple(actions), totals.total()))
        found.sort(key=lambda habit: (-habit.count, habit.place))
        return found[: self._spec.items]

    def _forget(self, now: datetime) -> None:
        first = now.toordinal() - self._spec.days + 1
        for visits in self._places.values():
            visits.forget_before(first)
        kept = [(place, visits) for place, visits in self._places.items() if visits.days]
        if len(kept) > self._spec.most_places:
            kept.sort(key=lambda item: item[0])
            kept.sort(key=lambda item: (item[1].totals().total(), item[1].latest), reverse=True)
            kept = kept[: self._spec.most_places]
        self._places = dict(kept)


def short_term_text(
    entries: Iterable[BehaviorEntry],
    spec: ShortTerm,
    home_city: str,
    form: RowForm | None = None,
) -> str:
    """Entries as rows of a service hold them, of the public set where ``form`` is None."""
    done_mark = "" if form else "了"
    texts = []
    for entry in entries:
        spot = entry.spot
        codes = [code for code in spec.actions if code in entry.actions]
        done = "&".join(code if code in spec.unfinished else code + done_mark for code in codes)
        locality = entry.locality(home_city)
        texts.append(short_term_entry(entry.when, done, locality, spot.category, spot.place, form))
    return (form.recent.separator if form else ", ").join(texts)
