"""The trigger spec: how a log is read and which moments make a row (docs/triggers.md)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from functools import cached_property
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from gplan_jax.foundation.config import Config, load_config
from gplan_jax.foundation.errors import GplanError, nearest
from gplan_jax.gsisr import RowForm

SHIPPED_SPEC = Path(__file__).with_name("triggers.yaml")

OrderChange = Literal["made", "changed", "cancelled", "used"]
OrderState = Literal["open", "used", "cancelled"]
ORDER_TIMES = ("order_made", "order_start", "order_end")
Column = str | None


class ProfileColumns(Config):
    """Where what is known about a user stands; None where it is not there."""

    home_city: Column = None
    home_district: Column = None
    home_place: Column = None
    work_city: Column = None
    work_district: Column = None
    work_place: Column = None
    # Coded attributes, taken as they are; 5 to 9 are made from home and work.
    profile_feat_1: Column = None
    profile_feat_2: Column = None
    profile_feat_3: Column = None
    profile_feat_4: Column = None
    profile_feat_10: Column = None
    profile_feat_11: Column = None
    profile_feat_12: Column = None
    profile_feat_13: Column = None
    profile_feat_14: Column = None


PROFILE_FIELDS = tuple(ProfileColumns.model_fields)


def known_profile(values: tuple[str, ...]) -> dict[str, str]:
    """Profile field -> value, for those that have one."""
    return {field: v for field, v in zip(PROFILE_FIELDS, values, strict=True) if v}


class LogColumns(ProfileColumns):
    """Our field -> the log's column; None where the log has no such column."""

    user: str
    time: str
    event: str  # a word of `events`
    # The place that the event is at or about.
    place: Column = None
    category: Column = None
    city: Column = None
    district: Column = None
    # The order's id, words of `orders`, and its place; where `order_place` is None, the place of an
    # order's event is its order's place.
    order: Column = None
    order_type: Column = None
    order_status: Column = None
    order_place: Column = None
    order_category: Column = None
    order_city: Column = None
    order_district: Column = None
    order_made: Column = None
    order_start: Column = None
    order_end: Column = None


class Times(Config):
    """How times are written."""

    format: str = "iso"  # or "epoch_s", "epoch_ms", or a strptime format
    zone: str  # of times without an offset, and of the rows that are written

    @field_validator("format")
    @classmethod
    def _known_format(cls, value: str) -> str:
        if value not in ("iso", "epoch_s", "epoch_ms") and "%" not in value:
            raise ValueError("write iso, epoch_s, epoch_ms or a format such as %d/%m/%Y %H:%M")
        return value

    @field_validator("zone")
    @classmethod
    def _known_zone(cls, value: str) -> str:
        try:
            ZoneInfo(value)
        except (KeyError, ValueError, OSError):
            raise ValueError("not a time zone; write one as Asia/Shanghai or UTC") from None
        return value


class LogSpec(Config):
    """How the log's files are read."""

    columns: LogColumns
    time: Times
    delimiter: str = Field(",", min_length=1, max_length=1)  # of a CSV file
    other_events: Literal["error", "ignore"] = "error"  # of events with an undeclared word


class UsersSpec(Config):
    """How the optional file of users is read: its user column and the profile's."""

    user: str
    columns: ProfileColumns


class EventWord(Config):
    """What a word of the log's event column means."""

    action: str | None = None  # its code in the behaviour columns; None: it is no behaviour
    located: bool = False  # the user is at the event's place; otherwise it is only about it
    order: OrderChange | None = None


class OrdersSpec(Config):
    """The words of the order columns, and how many orders of a user are followed."""

    types: list[str] = Field(default_factory=list)
    # Word of `order_status` -> the order's state; it outweighs the event's meaning.
    statuses: dict[str, OrderState] = Field(default_factory=dict)
    most: int = Field(50, ge=1)  # held at once; the one longest without an event gives way
    keep_days: float = Field(30, gt=0)  # after an order's end, start and latest event


class ShortTerm(Config):
    """``short_term_behavior_seq``: the latest ``items`` entries of the last ``days`` days."""

    items: int = Field(10, ge=0, le=1000)
    days: float = Field(60, gt=0, le=360)
    actions: list[str]  # the codes that stand in it, in the order in which an entry lists them
    unfinished: list[str] = Field(default_factory=list)  # those that are written without 了


class LongTerm(Config):
    """``long_term_behavior``: the ``items`` places acted on most in the last ``days`` days."""

    items: int = Field(10, ge=0, le=1000)
    days: int = Field(90, ge=1)
    actions: list[str]  # the codes that count
    most_places: int = Field(1000, ge=1)  # held at once; the least visited give way


class History(Config):
    """The behaviour columns; a code that stands in neither is an error."""

    short_term: ShortTerm
    long_term: LongTerm

    @property
    def actions(self) -> list[str]:
        return [*self.short_term.actions, *self.long_term.actions]


class Hours(Config):
    """Hours of the day, from ``start`` to before ``end``; over midnight where end is not later."""

    start: int = Field(ge=0, le=23)
    end: int = Field(ge=0, le=24)

    def __contains__(self, hour: int) -> bool:
        if self.start < self.end:
            return self.start <= hour < self.end
        return hour >= self.start or hour < self.end


class HabitualSpec(Config):
    """How home and work are found where no column tells: the place of most nights, of most days."""

    days: int = Field(60, ge=1, le=3660)  # how far back stays count
    night: Hours
    work: Hours  # of Monday to Friday
    # So many nights (days) with a known place at the place, and such a share of those with any.
    least: int = Field(3, ge=1)
    share: float = Field(0.5, gt=0, le=1)


class Position(Config):
    """Where the user is: the latest located event, unless older than this."""

    stale_after_hours: float = Field(gt=0)


class Window(Config):
    """Hours between two bounds, both included; negative hours are in the past."""

    least: float | None = None
    most: float | None = None
    or_unknown: bool = False  # it also holds where one of the two times is unknown

    @model_validator(mode="after")
    def _ordered(self) -> Window:
        if self.least is None and self.most is None:
            raise ValueError("give least, most or both")
        if self.least is not None and self.most is not None and self.least > self.most:
            raise ValueError(f"least ({self.least:g}) must not be above most ({self.most:g})")
        return self

    def holds(self, hours: float | None) -> bool:
        """Whether ``hours`` lie in the window; None is unknown."""
        if hours is None:
            return self.or_unknown
        return (self.least is None or hours >= self.least) and (
            self.most is None or hours <= self.most
        )


class OrderCondition(Config):
    """An order of the user for which all of this holds."""

    types: list[str] = Field(min_length=1)
    states: list[OrderState] = Field(["open"], min_length=1)
    of_event: bool = False  # it is the order that the event is about
    city: Literal["here", "elsewhere"] | None = None  # than the user's current one
    hours_to_start: Window | None = None
    hours_to_end: Window | None = None
    hours_since_made: Window | None = None


class CityCondition(Config):
    """How the current city lies; what is unknown does not hold."""

    home: bool | None = None  # it is the home city, or is not
    # The event is located and the located event before it was in another city, or in the same.
    changed: bool | None = None


class TriggerRule(Config):
    """One kind of moment that makes a row. All conditions hold at the event."""

    trigger: str = Field(min_length=1)  # written as trigger_1
    events: list[str] | None = None  # the words that it looks at; None: all
    # The order that stands in the order columns. Without it the event itself does: its place as the
    # order's, its time as the start.
    order: OrderCondition | None = None
    city: CityCondition | None = None
    # Word -> hours since the user's latest such event before this; never is infinitely long ago.
    hours_since: dict[str, Window] = Field(default_factory=dict)
    cool_down_hours: float = Field(ge=0)  # to the next row for the same user and order
    rows_per_day: int | None = Field(None, ge=1)  # for a user


class HolidayRange(Config):
    """Holidays in a row, both ends included."""

    first: date
    last: date

    @model_validator(mode="after")
    def _a_few_days(self) -> HolidayRange:
        if not 0 <= (self.last - self.first).days <= 366:
            raise ValueError("last is from first on, within a year")
        return self


class TriggerSpec(Config):
    """All of it; ``rules`` are tried in their order, and an event makes one row at most."""

    log: LogSpec
    users: UsersSpec
    events: dict[str, EventWord] = Field(min_length=1)
    orders: OrdersSpec
    history: History
    habitual: HabitualSpec | None = None
    position: Position
    holidays: list[date | HolidayRange] = Field(default_factory=list)
    rows_per_day: int = Field(ge=1)  # of all rules, for a user
    rules: dict[str, TriggerRule] = Field(min_length=1)
    # how rows are written, as the command's service says; those of the public set where None
    rows: RowForm | None = Field(None, exclude=True)

    @cached_property
    def holiday_dates(self) -> frozenset[date]:
        dates: set[date] = set()
        for item in self.holidays:
            first, last = (item, item) if isinstance(item, date) else (item.first, item.last)
            dates.update(first + timedelta(days=i) for i in range((last - first).days + 1))
        return frozenset(dates)

    @cached_property
    def rules_of(self) -> dict[str, list[tuple[str, TriggerRule]]]:
        """Event word -> the rules that look at it, with their names."""
        return {
            word: [
                (name, rule)
                for name, rule in self.rules.items()
                if rule.events is None or word in rule.events
            ]
            for word in self.events
        }

    @cached_property
    def timed_words(self) -> frozenset[str]:
        """Event words whose latest time some rule asks for."""
        return frozenset(word for rule in self.rules.values() for word in rule.hours_since)


def load_triggers(path: str | Path | None = None, overrides: Sequence[str] = ()) -> TriggerSpec:
    """Reads a trigger spec, the shipped one without ``path``; faults are a GplanError."""
    path = path or SHIPPED_SPEC
    spec = load_config(TriggerSpec, path, overrides)
    if problems := list(_unknown_words(spec)):
        raise GplanError(f"{path} is not a valid config:\n  " + "\n  ".join(problems))
    return spec


def _unknown_words(spec: TriggerSpec) -> Iterator[str]:
    codes, short = spec.history.actions, spec.history.short_term
    for code in codes:
        if not (code.startswith("act_") and code[4:].isascii() and code[4:].isdigit()):
            yield f"history: {code!r} is no action code; write act_ and a number"
    # Where words stand, which, which are known there, and the section that declares them.
    uses: list[tuple[str, Iterable[str], Iterable[str], str]] = [
        ("history.short_term.unfinished", short.unfinished, short.actions, "history.short_term")
    ]
    for word, event in spec.events.items():
        uses.append((f"events.{word}.action", filter(None, [event.action]), codes, "history"))
    for name, rule in spec.rules.items():
        types = rule.order.types if rule.order else []
        uses += [
            (f"rules.{name}.events", rule.events or [], spec.events, "events"),
            (f"rules.{name}.hours_since", rule.hours_since, spec.events, "events"),
            (f"rules.{name}.order.types", types, spec.orders.types, "orders.types"),
        ]
    for where, words, known, section in uses:
        for word in words:
            if word not in known:
                yield f"{where}: {word!r} is not declared in {section}; {nearest(word, known)}"
