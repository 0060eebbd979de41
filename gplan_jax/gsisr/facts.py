"""What follows from a row's columns: behaviours, and the facts that prompts and rules share.

On the public rows the first intent depends above all on the order's type, on how far the order's
place is, on what kind of place the user is at, on when the order was made and begins, and on
whether the user has just looked at the order's place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.faulty_rows import SKIP_HINT
from gplan_jax.gsisr.row_form import TIME_FORMAT, RowForm, public_form
from gplan_jax.gsisr.samples import Sample


@dataclass(frozen=True)
class Behavior:
    """One short-term entry: an hour, the actions in it, and the place they were about."""

    when: datetime
    actions: tuple[str, ...]
    locality: (
        str  # 本地 at home, 异地行前 before a journey, 异地行中 on one, 未知地点 unknown, in Amap
    )
    category: str
    place: str


@dataclass(frozen=True)
class Habit:
    """One long-term entry: how often the user acted on a place."""

    category: str
    place: str
    actions: tuple[str, ...]
    count: int


def short_term(text: str, now: datetime, form: RowForm | None = None) -> tuple[Behavior, ...]:
    """Reads a history of behaviours, oldest first; entries of another form are left out.

    Where entries name no year, each takes the last one in which it is not after ``now`` (a day of
    grace for clocks that disagree).
    """
    entries = (form or public_form()).recent
    found = ((entry, _moment(entry, now)) for entry in entries.read(text))
    return tuple(
        Behavior(
            when,
            entries.actions(entry.get("actions", "")),
            entry.get("locality", ""),
            entry.get("category", ""),
            entry["place"],
        )
        for entry, when in found
        if when
    )


def long_term(text: str, form: RowForm | None = None) -> tuple[Habit, ...]:
    """Reads a history of habits, most frequent first; entries of another form are left out."""
    entries = (form or public_form()).habits
    return tuple(
        Habit(
            entry.get("category", ""),
            entry["place"],
            entries.actions(entry.get("actions", "")),
            int(entry.get("count") or 1),
        )
        for entry in entries.read(text)
    )


def short_term_entry(
    when: datetime,
    done: str,
    locality: str,
    category: str,
    place: str,
    form: RowForm | None = None,
) -> str:
    """One entry of a history of behaviours; ``done`` holds the actions, act_7了&act_3 in Amap."""
    known = form or public_form()
    return known.recent.entry.format(
        time=f"{when:%Y-%m-%d %H:%M}",
        month=when.month,
        day=when.day,
        weekday=known.weekdays[when.weekday()],
        hour=when.hour,
        actions=done,
        locality=locality,
        category=category,
        place=place,
    )


def long_term_text(habits: Iterable[Habit], form: RowForm | None = None) -> str:
    """Habits as the rows of a service hold them."""
    entries = (form or public_form()).habits
    return (entries.between or entries.separator).join(
        entries.entry.format(
            category=h.category, place=h.place, actions="&".join(h.actions), count=h.count,
            time="", month="", day="", weekday="", hour="", locality="",
        )
        for h in habits
    )  # fmt: skip


def _moment(entry: Mapping[str, str], now: datetime) -> datetime | None:
    """When an entry was; None where it names no date at all."""
    if entry.get("time"):
        try:
            return datetime.fromisoformat(entry["time"])
        except ValueError:
            return None
    if not entry.get("month") or not entry.get("day"):
        return now
    month, day, hour = (int(entry.get(part) or 0) for part in ("month", "day", "hour"))
    for year in (now.year, now.year - 1, now.year - 2, now.year - 3, now.year - 4):
        try:
            when = datetime(year, month, day, hour)
        except ValueError:  # 29 February, or no date at all.
            continue
        if when <= now + timedelta(days=1):
            return when
    return None


Distance = Literal["here", "district", "city", "elsewhere", "unknown"]
Phase = Literal["before", "during", "started", "ended", "unknown"]
DayPart = Literal["night", "morning", "noon", "afternoon", "evening"]
# One of the service's ``RowForm.kinds``, "other" or "unknown".
PlaceKind = str

RECENT_HOURS = 2
REQUEST_TIME, ORDER_TIMES = "currenttime", ("trigger_5", "trigger_6", "trigger_7")


@dataclass(frozen=True)
class Facts:
    """Everything derivable from a row's columns that a planner or a rule needs.

    Numbers and yes or no are None where a column that they take is empty.
    """

    # The order, the event that triggered the plan.
    order_type: str  # as written, 酒店, 加油, ...; "" without an order
    order_distance: Distance  # of its place: the current place ("here"), district, city
    order_in_home_city: bool | None  # whether its place is there
    order_at_home: bool | None  # whether it is the first habitual place
    order_at_work: bool | None  # whether it is the second one
    minutes_since_order: float | None  # since it was made
    hours_to_start: float | None  # negative once past
    hours_to_end: float | None  # negative once past
    days_to_start: int | None  # in calendar days: 0 today, 1 tomorrow
    starts_at_midnight: bool  # its start is a mere date
    phase: Phase  # "started": without a known end
    order_category: str  # of its place, where the history tells; else ""
    order_recency: int | None  # behaviours since its place was looked at, 0 the latest; None never
    order_visits: int  # how often the long-term history names its place
    # The current place and time.
    now: datetime
    hour: int
    day_part: DayPart  # night ends at 6, morning at 11, noon at 14, afternoon at 18
    weekend: bool
    holiday: bool
    place_category: str  # what kind of place the user is at, as written
    place_kind: PlaceKind  # the same in a dozen kinds
    at_home: bool | None  # the first habitual place
    at_work: bool | None  # the second habitual place
    near_home: bool | None  # in its district
    near_work: bool | None  # in its district
    in_home_city: bool | None
    place_recency: int | None  # as for the order's place
    place_visits: int  # as for the order's place
    # Behaviour.
    hours_since_behavior: int | None  # full hours since the latest one; None without any
    locality: str  # the latest behaviour's, see ``Behavior``; "" without any
    recent_count: int  # behaviours of the last two hours
    other_category: str  # of the latest recent place, neither here nor the order's; or ""


def facts_of_row(sample: Sample, path: str | Path, row: int) -> Facts:
    """As ``facts_of``, of a row of a file, which RowError names."""
    try:
        return facts_of(sample)
    except GplanError as error:
        mend = f"Mend it, or {SKIP_HINT}."
        raise RowError(path, row, None, str(error).rstrip("."), mend) from None


def facts_of(sample: Sample) -> Facts:
    """The facts of a sample; GplanError where ``currenttime`` lacks, or a time can't be read."""
    now = request_time(sample)
    made, start, end = (time_of(sample, column) for column in ORDER_TIMES)
    form = sample.form
    behaviors = short_term(sample.short_term_behavior_seq, now, form)
    visits = {habit.place: habit.count for habit in long_term(sample.long_term_behavior, form)}
    latest = behaviors[-1] if behaviors else None
    since = int(_hours(latest.when, now)) if latest else None
    recent = [b for b in behaviors if _hours(b.when, now) <= RECENT_HOURS]
    place, order_place = sample.current_poi_name, sample.trigger_4
    here = form.area.join((sample.current_city, sample.current_district))
    others = [b for b in recent if b.place not in (place, order_place)]
    return Facts(
        order_type=sample.trigger_1,
        order_distance=_distance(sample),
        order_in_home_city=_same(sample.trigger_2, sample.profile_feat_5),
        order_at_home=_same(order_place, sample.profile_feat_6),
        order_at_work=_same(order_place, sample.profile_feat_8),
        minutes_since_order=_hours(made, now) * 60 if made else None,
        hours_to_start=_hours(now, start) if start else None,
        hours_to_end=_hours(now, end) if end else None,
        days_to_start=(start.date() - now.date()).days if start else None,
        starts_at_midnight=start is not None and (start.hour, start.minute) == (0, 0),
        phase=_phase(now, start, end),
        order_category=next(
            (b.category for b in reversed(behaviors) if b.place == order_place), ""
        ),
        order_recency=_recency(behaviors, order_place),
        order_visits=visits.get(order_place, 0),
        now=now,
        hour=now.hour,
        day_part=day_part_of(now.hour),
        weekend=sample.weekendflag == "1",
        holiday=sample.holidayflag == "1",
        place_category=sample.current_tag,
        place_kind=place_kind(sample.current_tag, form),
        at_home=_same(place, sample.profile_feat_6),
        at_work=_same(place, sample.profile_feat_8),
        near_home=_same(here, sample.profile_feat_7),
        near_work=_same(here, sample.profile_feat_9),
        in_home_city=_same(sample.current_city, sample.profile_feat_5),
        place_recency=_recency(behaviors, place),
        place_visits=visits.get(place, 0),
        hours_since_behavior=max(since, 0) if since is not None else None,
        locality=latest.locality if latest else "",
        recent_count=len(recent),
        other_category=others[-1].category if others else "",
    )


def place_kind(category: str, form: RowForm | None = None) -> PlaceKind:
    """The kind of a place from its category's words, "other" where none is known."""
    if not category:
        return "unknown"
    words_of, folded = (form or public_form()).kinds, category.casefold()
    found = (k for k, words in words_of.items() if any(w.casefold() in folded for w in words))
    return next(found, "other")


def request_time(sample: Sample) -> datetime:
    """When the plan is asked for; GplanError where ``currenttime`` is empty or no time."""
    now = time_of(sample, REQUEST_TIME)
    if now is None:
        name = sample.form.names[REQUEST_TIME]
        raise GplanError(f"{name} is empty; write the time of the request in it.")
    return now


def time_of(sample: Sample, column: str) -> datetime | None:
    """The time in a column, None where it is empty; GplanError where it is no time."""
    text = getattr(sample, column).strip()
    if not text:
        return None
    try:
        return datetime.strptime(text, TIME_FORMAT)
    except ValueError:
        problem = f"{sample.form.names[column]} of sample {sample.id} is {text!r}"
        raise GplanError(f"{problem}; write times as YYYY-MM-DD HH:MM:SS.") from None


def _hours(earlier: datetime, later: datetime) -> float:
    return (later - earlier).total_seconds() / 3600


def _same(first: str, second: str) -> bool | None:
    return first == second if first and second else None


def _distance(sample: Sample) -> Distance:
    if not sample.trigger_2 or not sample.current_city:
        return "unknown"
    if _same(sample.current_poi_name, sample.trigger_4):
        return "here"
    if sample.current_city != sample.trigger_2:
        return "elsewhere"
    return "district" if _same(sample.current_district, sample.trigger_3) else "city"


def _phase(now: datetime, start: datetime | None, end: datetime | None) -> Phase:
    if start is None:
        return "unknown"
    if now < start:
        return "before"
    if end is None:
        return "started"
    return "during" if now <= end else "ended"


def day_part_of(hour: int) -> DayPart:
    """The part of the day that an hour is in."""
    bounds: tuple[tuple[int, DayPart], ...] = (
        (6, "night"), (11, "morning"), (14, "noon"), (18, "afternoon"), (24, "evening"),
    )  # fmt: skip
    return next(name for end, name in bounds if hour < end)


def _recency(behaviors: tuple[Behavior, ...], place: str) -> int | None:
    ago = (i for i, behavior in enumerate(reversed(behaviors)) if behavior.place == place)
    return next(ago, None)
