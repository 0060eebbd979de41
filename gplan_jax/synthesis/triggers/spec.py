"""The trigger spec: how a log is read, what its words mean and which moments make a row."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field, field_validator, model_validator

from gplan_jax.foundation.config import Config, load_config
from gplan_jax.foundation.errors import GplanError

SHIPPED_SPEC = Path(__file__).with_name("triggers.yaml")

OrderChange = Literal["made", "changed", "cancelled", "used"]
OrderState = Literal["open", "used", "cancelled"]
ORDER_TIMES = ("order_made", "order_start", "order_end")
Column = str | None


class ProfileColumns(Config):
    """Where what is known about a user stands; None where it is not there.

    Attributes:
        home_city, home_district, home_place: the first habitual place.
        work_city, work_district, work_place: the second one.
        profile_feat_1 ... profile_feat_14: coded attributes, taken as they are.
    """

    home_city: Column = None
    home_district: Column = None
    home_place: Column = None
    work_city: Column = None
    work_district: Column = None
    work_place: Column = None
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


class LogColumns(ProfileColumns):
    """Our field -> the log's column; None where the log has no such column.

    Attributes:
        user, time, event: who, when, and which word of ``events``.
        place, category, city, district: the place that the event is at or about.
        order, order_type, order_status: the order's id, and words of ``orders``.
        order_place, order_category, order_city, order_district: the order's place; where
            ``order_place`` is None, the place of an order's event is its order's place.
        order_made, order_start, order_end: its times.
    """

    user: str
    time: str
    event: str
    place: Column = None
    category: Column = None
    city: Column = None
    district: Column = None
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
    """How times are written.

    Attributes:
        format: "iso", "epoch_s", "epoch_ms", or a strptime format with a % sign in it.
        zone: of times without an offset, and of the rows that are written.
    """

    format: str = "iso"
    zone: str

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
    """How the log's files are read.

    Attributes:
        delimiter: between the cells of a CSV file.
        other_events: "error" where an event word is not declared, or "ignore" such rows.
    """

    columns: LogColumns
    time: Times
    delimiter: str = Field(",", min_length=1, max_length=1)
    other_events: Literal["error", "ignore"] = "error"


class UsersSpec(Config):
    """How the optional file of users is read: its user column and the profile's."""

    user: str
    columns: ProfileColumns


class EventWord(Config):
    """What a word of the log's event column means.

    Attributes:
        action: its code in the behaviour columns; None where it is no behaviour.
        located: the user is at the event's place; otherwise the event is only about it.
        order: what happened to the order.
    """

    action: str | None = None
    located: bool = False
    order: OrderChange | None = None


class OrdersSpec(Config):
    """The words of the order columns, and how many orders of a user are followed.

    Attributes:
        types: words of ``order_type``.
        statuses: word of ``order_status`` -> the order's state; it outweighs the event's meaning.
        most: orders of a user held at once; the one longest without an event gives way.
        keep_days: how long an order is remembered after its end, start and latest event.
    """

    types: list[str] = Field(default_factory=list)
    statuses: dict[str, OrderState] = Field(default_factory=dict)
    most: int = Field(50, ge=1)
    keep_days: float = Field(30, gt=0)


class ShortTerm(Config):
    """``short_term_behavior_seq``: the latest ``items`` entries of the last ``days`` days.

    Attributes:
        actions: the codes that stand in it, in the order in which an entry lists them.
        unfinished: those of them that are written without 了.
    """

    items: int = Field(10, ge=0, le=1000)
    days: float = Field(60, gt=0, le=360)
    actions: list[str]
    unfinished: list[str] = Field(default_factory=list)


class LongTerm(Config):
    """``long_term_behavior``: the ``items`` places acted on most in the last ``days`` days.

    Attributes:
        actions: the codes that count.
        most_places: places of a user held at once; the least visited give way.
    """

    items: int = Field(10, ge=0, le=1000)
    days: int = Field(90, ge=1)
    actions: list[str]
    most_places: int = Field(1000, ge=1)


class History(Config):
    """The behaviour columns; a code that stands in neither is an error."""

    short_term: ShortTerm
    long_term: LongTerm

    @property
    def actions(self) -> list[str]:
        """All codes."""
        return [*self.short_term.actions, *self.long_term.actions]


class Hours(Config):
    """Hours of the day, from ``start`` to before ``end``; over midnight where end is not later."""

    start: int = Field(ge=0, le=23)
    end: int = Field(ge=0, le=24)

    def __contains__(self, hour: int) -> bool:
        if self.start < self.end:
            return self.start <= hour < self.end
        return hour >= self.start or hour < self.end


class Habitual(Config):
    """How home and work are found where no column tells: the place of most nights, of most days.

    Attributes:
        days: how far back stays count.
        night, work: hours of a night at home and of a working day (Monday to Friday).
        least: so many nights (days) with a known place at least at the place.
        share: and so many of those with a known place.
    """

    days: int = Field(60, ge=1, le=3660)
    night: Hours
    work: Hours
    least: int = Field(3, ge=1)
    share: float = Field(0.5, gt=0, le=1)


class Position(Config):
    """Where the user is: the latest located event, unless older than this."""

    stale_after_hours: float = Field(gt=0)


class Window(Config):
    """Hours between two bounds, both included; negative hours are in the past.

    Attributes:
        or_unknown: it also holds where one of the two times is unknown.
    """

    least: float | None = None
    most: float | None = None
    or_unknown: bool = False

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
    """An order of the user for which all of this holds.

    Attributes:
        types: words of ``orders.types``.
        states: which states count.
        of_event: it is the order that the event is about.
        city: its city is the current one ("here") or another ("elsewhere").
        hours_to_start, hours_to_end: from the event to its start and end.
        hours_since_made: from its making to the event.
    """

    types: list[str] = Field(min_length=1)
    states: list[OrderState] = Field(["open"], min_length=1)
    of_event: bool = False
    city: Literal["here", "elsewhere"] | None = None
    hours_to_start: Window | None = None
    hours_to_end: Window | None = None
    hours_since_made: Window | None = None


class CityCondition(Config):
    """How the current city lies; what is unknown does not hold.

    Attributes:
        home: it is the home city (true), or is not (false).
        changed: the event is located and the located event before it was in another city (true),
            or in the same (false).
    """

    home: bool | None = None
    changed: bool | None = None


class Rule(Config):
    """One kind of moment that makes a row. All conditions hold at the event.

    Attributes:
        trigger: written as ``trigger_1``.
        events: words of ``events`` that it looks at; None for all.
        order: the order that stands in the order columns. Without it the event itself does: its
            place as the order's, its time as the start.
        city: condition on the current city.
        hours_since: word of ``events`` -> hours since the user's latest one before this event; a
            word that never came is infinitely long ago.
        cool_down_hours: to the next row of this rule for the same user and order.
        rows_per_day: most rows of this rule for a user and day.
    """

    trigger: str = Field(min_length=1)
    events: list[str] | None = None
    order: OrderCondition | None = None
    city: CityCondition | None = None
    hours_since: dict[str, Window] = Field(default_factory=dict)
    cool_down_hours: float = Field(ge=0)
    rows_per_day: int | None = Field(None, ge=1)


class HolidayRange(Config):
    """Holidays in a row, both ends included."""

    first: date
    last: date

    @model_validator(mode="after")
    def _a_few_days(self) -> HolidayRange:
        if not 0 <= (self.last - self.first).days <= 366:
            raise ValueError("last is from first on, within a year")
        return self

    def days(self) -> Iterator[date]:
        """Each of its dates."""
        for day in range((self.last - self.first).days + 1):
            yield self.first + timedelta(days=day)


class TriggerSpec(Config):
    """All of it; ``rules`` are tried in their order, and an event makes one row at most.

    Attributes:
        holidays: dates for ``holidayflag``.
        rows_per_day: most rows of all rules for a user and day.
    """

    log: LogSpec
    users: UsersSpec
    events: dict[str, EventWord] = Field(min_length=1)
    orders: OrdersSpec
    history: History
    habitual: Habitual | None = None
    position: Position
    holidays: list[date | HolidayRange] = Field(default_factory=list)
    rows_per_day: int = Field(ge=1)
    rules: dict[str, Rule] = Field(min_length=1)

    def holiday_dates(self) -> frozenset[date]:
        """Every declared holiday."""
        items = self.holidays
        ranges = (item.days() for item in items if isinstance(item, HolidayRange))
        return frozenset(
            {*(i for i in items if isinstance(i, date)), *(d for r in ranges for d in r)}
        )


def load_triggers(path: str | Path | None = None, overrides: Sequence[str] = ()) -> TriggerSpec:
    """Reads a trigger spec; the shipped one without ``path``.

    Args:
        overrides: ``key=value`` texts, for example ``log.columns.user=uid``.

    Raises:
        GplanError: the file is missing or no YAML; a key, or a word that a rule or event refers
            to, is unknown (near ones are listed); or a value is wrong.
    """
    path = path or SHIPPED_SPEC
    spec = load_config(TriggerSpec, path, overrides)
    if problems := list(_unknown_words(spec)):
        raise GplanError(f"{path} is not a valid config:\n  " + "\n  ".join(problems))
    return spec


def nearest(word: str, known: Iterable[str]) -> str:
    """What an unknown word was meant to be, for error messages."""
    known = list(known)
    near = difflib.get_close_matches(word, known, n=3, cutoff=0.5)
    return f"did you mean {', '.join(near)}?" if near else f"known ones: {', '.join(known)}"


def _unknown_words(spec: TriggerSpec) -> Iterator[str]:
    codes = spec.history.actions
    for code in codes:
        if not (code.startswith("act_") and code[4:].isascii() and code[4:].isdigit()):
            yield f"history: {code!r} is no action code; write act_ and a number"
    short = spec.history.short_term
    yield from _missing(
        "history.short_term.unfinished", short.unfinished, short.actions, "history.short_term"
    )
    for word, event in spec.events.items():
        action = [event.action] if event.action else []
        yield from _missing(f"events.{word}.action", action, codes, "history")
    for name, rule in spec.rules.items():
        yield from _missing(f"rules.{name}.events", rule.events or [], spec.events, "events")
        yield from _missing(f"rules.{name}.hours_since", rule.hours_since, spec.events, "events")
        types = rule.order.types if rule.order else []
        yield from _missing(f"rules.{name}.order.types", types, spec.orders.types, "orders.types")


def _missing(where: str, words: Iterable[str], known: Iterable[str], section: str) -> Iterator[str]:
    for word in words:
        if word not in known:
            yield f"{where}: {word!r} is not declared in {section}; {nearest(word, known)}"
