"""The pure core: the events of one user, in order of time, to rows of the public schema.

No later event can change a row; what is held of a user is bounded by the spec.
"""

from __future__ import annotations

import dataclasses
import math
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Literal

from gplan_jax.gsisr import Sample
from gplan_jax.gsisr.facts import TIME_FORMAT, long_term_text
from gplan_jax.synthesis.triggers.trigger_spec import (
    OrderCondition,
    TriggerRule,
    TriggerSpec,
    known_profile,
)
from gplan_jax.synthesis.triggers.user_memory import (
    LogEvent,
    LongTermMemory,
    OrderBook,
    ShortTermMemory,
    Spot,
    Stays,
    TrackedOrder,
    habitual_spots,
    profile_value,
    short_term_text,
    user_id,
)

# Why a moment that a rule found makes no row.
Reason = Literal["cool_down", "rows_per_day", "stale_position", "no_order_place"]
CODED = tuple(f"profile_feat_{i}" for i in (1, 2, 3, 4, 10, 11, 12, 13, 14))


@dataclass
class MomentCounts:
    """What became of the moments that rules found."""

    rows: Counter[str] = field(default_factory=Counter)  # Rule -> rows.
    # Rule -> reason -> moments that made no row.
    left_out: dict[str, Counter[Reason]] = field(default_factory=lambda: defaultdict(Counter))
    # The years of the rows, to tell which of them have no declared holidays.
    years: set[int] = field(default_factory=set)


def find_contexts(
    events: Iterable[LogEvent], profile: Mapping[str, str], spec: TriggerSpec, counts: MomentCounts
) -> Iterator[Sample]:
    """Yields the rows of one user, from events in order of time with declared words."""
    search = UserSearch(spec, profile, counts)
    for event in events:
        row = search.observe(event)
        if row is not None:
            yield row


class UserSearch:
    """What is known of one user so far, and the rules that look at it."""

    def __init__(self, spec: TriggerSpec, profile: Mapping[str, str], counts: MomentCounts) -> None:
        self._spec, self._counts = spec, counts
        self._profile = dict(profile)
        self._stays = Stays(spec.habitual, spec.holiday_dates) if spec.habitual else None
        self._home, self._work = habitual_spots(self._profile, self._stays)
        self._short = ShortTermMemory(spec.history.short_term)
        self._long = LongTermMemory(spec.history.long_term)
        self._orders = OrderBook(spec.orders)
        self._located: tuple[datetime, Spot] | None = None  # when and where the user was last
        self._latest_event: dict[str, datetime] = {}  # of the words that rules ask for
        self._latest_row: dict[tuple[str, str], datetime] = {}  # by rule and order
        self._today: date | None = None
        self._rows_today: Counter[str] = Counter()

    def observe(self, event: LogEvent) -> Sample | None:
        """Takes in an event; the row that it triggers, None where it triggers none."""
        spec, now = self._spec, event.when
        meaning = spec.events[event.word]

        # Who the user is and where: what is told now may change home and work.
        known = known_profile(event.profile) if event.profile else {}
        changed = bool(known.items() - self._profile.items())
        self._profile.update(known)
        event_spot = Spot.escaped(event.place, event.category, event.city, event.district)
        city_before = self._located[1].city if self._located else ""
        if meaning.located and event_spot.city:
            self._located = (now, event_spot)
            changed = (self._stays is not None and self._stays.add(now, event_spot)) or changed
        if changed:
            self._home, self._work = habitual_spots(self._profile, self._stays)
        position = None
        if self._located is not None:
            age = now - self._located[0]
            stale = age > timedelta(hours=spec.position.stale_after_hours)
            position = None if stale else self._located[1]

        # What the event is about: its order's place where it has one, and the behaviour there.
        order, spot = None, event_spot
        if meaning.order is not None:
            if spec.log.columns.order_place is not None:
                spot = Spot.escaped(
                    event.order_place, event.order_category, event.order_city, event.order_district
                )
            order = self._orders.update(event, meaning.order, spot)
            spot = order.spot
        if meaning.action is not None and spot.place:
            city = position.city if position else ""
            self._short.add(now, meaning.action, spot, city, order is not None)
            self._long.add(now, meaning.action, spot)

        # The first rule that holds and may make a row makes it.
        row = None
        rules = spec.rules_of[event.word]
        orders = self._orders.remembered(now) if rules else ()
        for name, rule in rules:
            if not self._conditions_hold(rule, now, position, city_before, meaning.located):
                continue
            about = None
            if rule.order:
                candidates = [order] if order else []
                among = candidates if rule.order.of_event else orders
                about = matching_order(rule.order, among, now, position.city if position else "")
                if about is None:
                    continue
            reason = self._held_back(name, rule, about, now, position)
            if reason is None and position is not None:
                if self._today != now.date():
                    self._today = now.date()
                    self._rows_today.clear()
                self._rows_today[name] += 1
                # Only the cool-downs of orders that are still held can matter again.
                held = {"", *self._orders.keys()}
                self._latest_row = {k: time for k, time in self._latest_row.items() if k[1] in held}
                self._latest_row[name, about.key if about else ""] = now
                self._counts.rows[name] += 1
                self._counts.years.add(now.year)
                row = self._sample(event, rule, about, position)
                break
            self._counts.left_out[name][reason or "stale_position"] += 1
        if event.word in spec.timed_words:
            self._latest_event[event.word] = now
        return row

    def _conditions_hold(
        self,
        rule: TriggerRule,
        now: datetime,
        position: Spot | None,
        city_before: str,
        located: bool,
    ) -> bool:
        """Whether the conditions on city and past events hold; what is unknown does not."""
        if rule.city is not None:
            city, home = position.city if position else "", self._home.city
            if rule.city.home is not None and (
                not city or not home or (city == home) is not rule.city.home
            ):
                return False
            if rule.city.changed is not None and (
                not located
                or not city
                or not city_before
                or (city != city_before) is not rule.city.changed
            ):
                return False
        for word, window in rule.hours_since.items():
            hours = _hours(self._latest_event.get(word), now)
            if not window.holds(math.inf if hours is None else hours):
                return False
        return True

    def _held_back(
        self,
        name: str,
        rule: TriggerRule,
        order: TrackedOrder | None,
        now: datetime,
        position: Spot | None,
    ) -> Reason | None:
        """Why a moment that meets all conditions of a rule makes no row all the same."""
        latest = self._latest_row.get((name, order.key if order else ""))
        if latest is not None and now - latest < timedelta(hours=rule.cool_down_hours):
            return "cool_down"
        if self._today == now.date():
            most = rule.rows_per_day
            full = self._rows_today.total() >= self._spec.rows_per_day
            if full or (most and self._rows_today[name] >= most):
                return "rows_per_day"
        if position is None:
            return "stale_position"
        spot = order.spot if order else position
        return None if spot.place and spot.city else "no_order_place"

    def _sample(
        self, event: LogEvent, rule: TriggerRule, order: TrackedOrder | None, position: Spot
    ) -> Sample:
        now, short = event.when, self._spec.history.short_term
        home, work, form = self._home, self._work, self._spec.rows
        spot = order.spot if order else position
        times = (order.made, order.start, order.end) if order else (None, now, None)
        made, start, end = (time.strftime(TIME_FORMAT) if time else "" for time in times)
        sample = Sample.from_context({
            "id": user_id(event.user),
            **{name: profile_value(self._profile.get(name, "")) for name in CODED},
            "profile_feat_5": home.city,
            "profile_feat_6": home.place,
            "profile_feat_7": home.area,
            "profile_feat_8": work.place,
            "profile_feat_9": work.area,
            "short_term_behavior_seq": short_term_text(
                self._short.entries(now), short, home.city, form
            ),
            "long_term_behavior": long_term_text(self._long.habits(now), form),
            "currenttime": now.strftime(TIME_FORMAT),
            "holidayflag": str(int(now.date() in self._spec.holiday_dates)),
            "weekendflag": str(int(now.weekday() >= 5)),
            "current_poi_name": position.place,
            "current_tag": position.category,
            "current_city": position.city,
            "current_district": position.district,
            "trigger_1": rule.trigger,
            "trigger_2": spot.city,
            "trigger_3": spot.district,
            "trigger_4": spot.place,
            "trigger_5": made,
            "trigger_6": start,
            "trigger_7": end,
        })  # fmt: skip
        if form is None:
            return sample
        return dataclasses.replace(sample, written=form, extra=("",) * len(form.extras))


def matching_order(
    condition: OrderCondition, orders: Sequence[TrackedOrder], now: datetime, city: str
) -> TrackedOrder | None:
    """The order that meets a condition; of several the one whose start is nearest, else by key."""

    def holds(order: TrackedOrder) -> bool:
        if order.type not in condition.types or order.state not in condition.states:
            return False
        windows = (
            (condition.hours_to_start, now, order.start),
            (condition.hours_to_end, now, order.end),
            (condition.hours_since_made, order.made, now),
        )
        if not all(w is None or w.holds(_hours(since, until)) for w, since, until in windows):
            return False
        if condition.city is None:
            return True
        here = (city == order.spot.city) is (condition.city == "here")
        return bool(city and order.spot.city) and here

    def nearness(order: TrackedOrder) -> tuple[float, str]:
        hours = _hours(now, order.start)
        return (math.inf if hours is None else abs(hours)), order.key

    return min(filter(holds, orders), key=nearness, default=None)


def _hours(earlier: datetime | None, later: datetime | None) -> float | None:
    if earlier is None or later is None:
        return None
    return (later - earlier).total_seconds() / 3600.0
