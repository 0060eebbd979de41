"""The pure core: the events of one user, in order of time, to rows of the public schema.

A row is made from the events up to the one that triggers it, so nothing that comes later can
change it. What is held of a user is bounded by the spec, whatever the number of events.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from typing import Literal

from gplan_jax.gsisr import Sample
from gplan_jax.synthesis.triggers.escaping import profile_value, user_id
from gplan_jax.synthesis.triggers.events import Event, Spot, event_spot, order_spot, profile_of
from gplan_jax.synthesis.triggers.habitual import Stays, habitual_spots
from gplan_jax.synthesis.triggers.history import (
    LongTermMemory,
    ShortTermMemory,
    long_term_text,
    short_term_text,
)
from gplan_jax.synthesis.triggers.matching import Moment, conditions_hold, matching_order
from gplan_jax.synthesis.triggers.orders import Order, OrderBook
from gplan_jax.synthesis.triggers.spec import Rule, TriggerSpec

# Why a moment that a rule found makes no row.
Reason = Literal["cool_down", "rows_per_day", "stale_position", "no_order_place"]
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
CODED = tuple(f"profile_feat_{i}" for i in (1, 2, 3, 4, 10, 11, 12, 13, 14))


@dataclass
class Tally:
    """What became of the moments that rules found.

    Attributes:
        rows: rule -> rows.
        left_out: rule -> reason -> moments that made no row.
        years: the years of the rows, to tell which of them have no declared holidays.
    """

    rows: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, Counter[Reason]] = field(default_factory=lambda: defaultdict(Counter))
    years: set[int] = field(default_factory=set)


class Prepared:
    """A spec made ready for many users: rules by event word, holidays as a set."""

    def __init__(self, spec: TriggerSpec) -> None:
        self.spec = spec
        self.holidays = spec.holiday_dates()
        self.own_order_columns = spec.log.columns.order_place is not None
        self.rules_of: dict[str, list[tuple[str, Rule]]] = {
            word: [
                (name, rule)
                for name, rule in spec.rules.items()
                if rule.events is None or word in rule.events
            ]
            for word in spec.events
        }
        self.watched = frozenset(word for rule in spec.rules.values() for word in rule.hours_since)


def contexts(
    events: Iterable[Event], profile: Mapping[str, str], prepared: Prepared, tally: Tally
) -> Iterator[Sample]:
    """Yields the rows of one user.

    Args:
        events: of one user, in order of time; their words are declared in the spec.
        profile: what the users' file tells, by the names of ``ProfileColumns``.
        tally: counts what became of every moment.
    """
    user = _User(prepared, profile, tally)
    for event in events:
        row = user.observe(event)
        if row is not None:
            yield row


class _User:
    """What is known of one user so far."""

    def __init__(self, prepared: Prepared, profile: Mapping[str, str], tally: Tally) -> None:
        spec = prepared.spec
        self._prepared, self._tally = prepared, tally
        self._profile = dict(profile)
        self._stays = Stays(spec.habitual, prepared.holidays) if spec.habitual else None
        self._habitual = habitual_spots(self._profile, self._stays)
        self._short = ShortTermMemory(spec.history.short_term)
        self._long = LongTermMemory(spec.history.long_term)
        self._orders = OrderBook(spec.orders)
        self._position: tuple[datetime, Spot] | None = None
        self._since: dict[str, datetime] = {}
        self._latest_row: dict[tuple[str, str], datetime] = {}
        self._today: date | None = None
        self._rows_today: Counter[str] = Counter()

    def observe(self, event: Event) -> Sample | None:
        """Takes in an event; the row that it triggers, None where it triggers none."""
        prepared, now = self._prepared, event.when
        meaning = prepared.spec.events[event.word]
        known = profile_of(event.profile) if event.profile else {}
        fresh = bool(known.items() - self._profile.items())
        self._profile.update(known)
        spot = event_spot(event)
        city_before = self._position[1].city if self._position else ""
        if meaning.located and spot.city:
            self._position = (now, spot)
            fresh = (self._stays is not None and self._stays.add(now, spot)) or fresh
        if fresh:
            self._habitual = habitual_spots(self._profile, self._stays)
        order = None
        if meaning.order is not None:
            spot = order_spot(event, prepared.own_order_columns)
            order = self._orders.update(event, meaning.order, spot)
            spot = order.spot
        position = self._position_at(now)
        if meaning.action is not None and spot.place:
            city = position.city if position else ""
            self._short.add(now, meaning.action, spot, city, order is not None)
            self._long.add(now, meaning.action, spot)
        row = None
        if rules := prepared.rules_of[event.word]:
            moment = Moment(
                now=now,
                event_order=order,
                orders=self._orders.remembered(now),
                position=position,
                home_city=self._habitual[0].city,
                city_before=city_before,
                located=meaning.located,
                since=self._since,
            )
            row = self._row(event, rules, moment)
        if event.word in prepared.watched:
            self._since[event.word] = now
        return row

    def _position_at(self, now: datetime) -> Spot | None:
        if self._position is None:
            return None
        since, spot = self._position
        stale = now - since > timedelta(hours=self._prepared.spec.position.stale_after_hours)
        return None if stale else spot

    def _row(self, event: Event, rules: list[tuple[str, Rule]], moment: Moment) -> Sample | None:
        for name, rule in rules:
            order = matching_order(rule.order, moment) if rule.order else None
            if (rule.order and order is None) or not conditions_hold(rule, moment):
                continue
            place, reason = moment.position, self._held_back(name, rule, order, moment)
            if reason is None and place is not None:
                self._note_row(name, order, moment.now)
                return self._sample(event, rule, order, place)
            self._tally.left_out[name][reason or "stale_position"] += 1
        return None

    def _held_back(
        self, name: str, rule: Rule, order: Order | None, moment: Moment
    ) -> Reason | None:
        latest = self._latest_row.get((name, order.key if order else ""))
        if latest is not None and moment.now - latest < timedelta(hours=rule.cool_down_hours):
            return "cool_down"
        if self._today == moment.now.date():
            most = rule.rows_per_day
            total = self._rows_today.total()
            if total >= self._prepared.spec.rows_per_day or (
                most and self._rows_today[name] >= most
            ):
                return "rows_per_day"
        if moment.position is None:
            return "stale_position"
        spot = order.spot if order else moment.position
        return None if spot.place and spot.city else "no_order_place"

    def _note_row(self, name: str, order: Order | None, now: datetime) -> None:
        if self._today != now.date():
            self._today = now.date()
            self._rows_today.clear()
        self._rows_today[name] += 1
        held = {"", *self._orders.keys()}
        self._latest_row = {k: time for k, time in self._latest_row.items() if k[1] in held}
        self._latest_row[name, order.key if order else ""] = now
        self._tally.rows[name] += 1
        self._tally.years.add(now.year)

    def _sample(self, event: Event, rule: Rule, order: Order | None, position: Spot) -> Sample:
        now, short = event.when, self._prepared.spec.history.short_term
        home, work = self._habitual
        spot = order.spot if order else position
        times = (order.made, order.start, order.end) if order else (None, now, None)
        made, start, end = (time.strftime(TIME_FORMAT) if time else "" for time in times)
        return Sample(
            id=user_id(event.user),
            **{name: profile_value(self._profile.get(name, "")) for name in CODED},
            profile_feat_5=home.city,
            profile_feat_6=home.place,
            profile_feat_7=home.area,
            profile_feat_8=work.place,
            profile_feat_9=work.area,
            short_term_behavior_seq=short_term_text(self._short.entries(now), short, home.city),
            long_term_behavior=long_term_text(self._long.habits(now)),
            currenttime=now.strftime(TIME_FORMAT),
            holidayflag=str(int(now.date() in self._prepared.holidays)),
            weekendflag=str(int(now.weekday() >= 5)),
            current_poi_name=position.place,
            current_tag=position.category,
            current_city=position.city,
            current_district=position.district,
            trigger_1=rule.trigger,
            trigger_2=spot.city,
            trigger_3=spot.district,
            trigger_4=spot.place,
            trigger_5=made,
            trigger_6=start,
            trigger_7=end,
            raw_labels="",
        )
