"""A user's behaviour so far, in bounded memory, and its text in the public columns' formats.

``gsisr.behavior`` reads back what is written here.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from gplan_jax.synthesis.triggers.events import Spot
from gplan_jax.synthesis.triggers.spec import LongTerm, ShortTerm

WEEKDAYS = "一二三四五六日"
LOCAL, BEFORE_JOURNEY, ON_JOURNEY, UNKNOWN = "本地", "异地行前", "异地行中", "未知地点"


@dataclass(slots=True)
class Entry:
    """What a user did in one hour about one place.

    ``user_city`` is where the user was then ("" unknown); ``ordered`` says that an order was
    among it.
    """

    when: datetime
    spot: Spot
    user_city: str
    actions: set[str]
    ordered: bool

    def locality(self, home_city: str) -> str:
        """How the place lies to the user's home, and whether the user was in its city.

        As in the public rows, an order away from home is at an unknown place.
        """
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
        self._entries: dict[tuple[datetime, str], Entry] = {}

    def add(self, when: datetime, action: str, spot: Spot, user_city: str, ordered: bool) -> None:
        """Notes an action about a place; an entry too many drops the oldest."""
        if action not in self._actions:
            return
        hour = when.replace(minute=0, second=0, microsecond=0)
        entry = self._entries.pop((hour, spot.place), None)
        if entry is None:
            entry = Entry(hour, spot, user_city, {action}, ordered)
        else:
            entry.spot = spot if spot.category else spot._replace(category=entry.spot.category)
            entry.user_city = user_city or entry.user_city
            entry.actions.add(action)
            entry.ordered = entry.ordered or ordered
        self._entries[hour, spot.place] = entry
        if len(self._entries) > self._spec.items:
            del self._entries[next(iter(self._entries))]

    def entries(self, now: datetime) -> list[Entry]:
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
        """Counts an action about a place, if it is one of those that count."""
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

    def habits(self, now: datetime) -> list[tuple[str, str, list[str], int]]:
        """(category, place, actions, count), most frequent first; frequent actions first, too."""
        self._forget(now)
        order = self._spec.actions
        found = []
        for place, visits in self._places.items():
            totals = visits.totals()
            actions = sorted(totals, key=lambda code: (-totals[code], order.index(code)))
            found.append((visits.category, place, actions, totals.total()))
        found.sort(key=lambda habit: (-habit[3], habit[1]))
        return found[: self._spec.items]

    def _forget(self, now: datetime) -> None:
        first = now.toordinal() - self._spec.days + 1
        for visits in self._places.values():
            visits.forget_before(first)
        kept = [(place, visits) for place, visits in self._places.items() if visits.days]
        if len(kept) > self._spec.most_places:
            kept.sort(key=lambda item: (-item[1].totals().total(), -_age(item[1]), item[0]))
            kept = kept[: self._spec.most_places]
        self._places = dict(kept)


def _age(visits: _Visits) -> float:
    return (visits.latest - datetime.min).total_seconds()


def short_term_text(entries: Iterable[Entry], spec: ShortTerm, home_city: str) -> str:
    """Entries as ``short_term_behavior_seq``."""
    return ", ".join(
        f"在{e.when.month}月{e.when.day}日周{WEEKDAYS[e.when.weekday()]}{e.when.hour}点"
        f"{_actions_text(e.actions, spec)}位于{e.locality(home_city)}"
        f"{e.spot.category}的{e.spot.place}"
        for e in entries
    )


def long_term_text(habits: Iterable[tuple[str, str, list[str], int]]) -> str:
    """Habits as ``long_term_behavior``."""
    return " , ".join(
        f"{category}的{place}{'&'.join(actions)}了{count}次"
        for category, place, actions, count in habits
    )


def _actions_text(actions: set[str], spec: ShortTerm) -> str:
    done = (code if code in spec.unfinished else f"{code}了" for code in spec.actions
            if code in actions)  # fmt: skip
    return "&".join(done)
