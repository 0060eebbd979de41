"""What follows from a row's columns: behaviours, and the facts that prompts and rules share.

On the public rows the first intent depends above all on the order's type, on how far the order's
place is, on what kind of place the user is at, on when the order was made and begins, and on
whether the user has just looked at the order's place.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Literal

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.faulty_rows import SKIP_HINT
from gplan_jax.gsisr.samples import Sample

_SHORT = re.compile(
    r"在(\d+)月(\d+)日[^\d点]*(\d+)点((?:act_\d+了?&?)*)位于(本地|异地行前|异地行中|未知地点)(.*)的(\S+)"
)
_LONG = re.compile(r"(.*)的(p_[^_]+?)((?:act_\d+&?)+)了(\d+)次")
_ACTION = re.compile(r"act_\d+")
_WEEKDAYS = "一二三四五六日"


@dataclass(frozen=True)
class Behavior:
    """One short-term entry: an hour, the actions in it, and the place they were about."""

    when: datetime
    actions: tuple[str, ...]
    locality: str  # 本地 at home, 异地行前 before a journey, 异地行中 on one, 未知地点 unknown
    category: str
    place: str


@dataclass(frozen=True)
class Habit:
    """One long-term entry: how often the user acted on a place."""

    category: str
    place: str
    actions: tuple[str, ...]
    count: int


def short_term(text: str, now: datetime) -> tuple[Behavior, ...]:
    """Reads ``short_term_behavior_seq``, oldest first; entries of another form are left out.

    The column names no year, so each entry takes the last year in which it is not after ``now``
    (a day of grace for clocks that disagree).
    """
    matches = (_SHORT.fullmatch(entry.strip()) for entry in text.split(", "))
    entries = (_behavior(match, now) for match in matches if match)
    return tuple(entry for entry in entries if entry)


def long_term(text: str) -> tuple[Habit, ...]:
    """Reads ``long_term_behavior``, most frequent first; entries of another form are left out."""
    matches = (_LONG.fullmatch(entry.strip()) for entry in text.split(","))
    return tuple(Habit(m[1], m[2], tuple(_ACTION.findall(m[3])), int(m[4])) for m in matches if m)


def short_term_entry(when: datetime, done: str, locality: str, category: str, place: str) -> str:
    """One entry of ``short_term_behavior_seq``; ``done`` holds the actions, act_7了&act_3."""
    day = f"{when.month}月{when.day}日周{_WEEKDAYS[when.weekday()]}{when.hour}点"
    return f"在{day}{done}位于{locality}{category}的{place}"


def long_term_text(habits: Iterable[Habit]) -> str:
    """Habits as ``long_term_behavior`` writes them."""
    return " , ".join(f"{h.category}的{h.place}{'&'.join(h.actions)}了{h.count}次" for h in habits)


def _behavior(match: re.Match[str], now: datetime) -> Behavior | None:
    month, day, hour = (int(match[i]) for i in (1, 2, 3))
    for year in (now.year, now.year - 1, now.year - 2, now.year - 3, now.year - 4):
        try:
            when = datetime(year, month, day, hour)
        except ValueError:  # 29 February, or no date at all.
            continue
        if when <= now + timedelta(days=1):
            return Behavior(when, tuple(_ACTION.findall(match[4])), match[5], match[6], match[7])
    return None


Distance = Literal["here", "district", "city", "elsewhere", "unknown"]
Phase = Literal["before", "during", "started", "ended", "unknown"]
DayPart = Literal["night", "morning", "noon", "afternoon", "evening"]
PlaceKind = Literal[
    "hotel", "fuel", "charging", "service_area", "hub", "sights", "food", "work", "home",
    "district", "shopping", "other", "unknown",
]  # fmt: skip

# The first kind with a word that the category contains; order settles overlaps.
_KIND_WORDS: tuple[tuple[PlaceKind, tuple[str, ...]], ...] = (
    ("fuel", ("加油",)),
    ("charging", ("充电",)),
    ("service_area", ("服务区", "收费站")),
    ("hotel", ("酒店", "民宿", "旅馆", "旅舍", "客栈", "公寓", "经济型", "舒适型", "高档型",
               "豪华型", "住宿", "度假村", "农家院")),
    ("hub", ("高铁", "机场", "火车", "站前", "航站", "车站", "轮渡", "地铁")),
    ("sights", ("景", "公园", "文物", "博物", "古镇", "寺庙", "名山", "遗产", "美术馆", "展览",
                "游客", "梯田", "自然", "冰雪")),
    ("food", ("餐", "菜", "奶茶", "咖啡", "火锅", "小吃", "烧烤", "烤肉", "汤", "米线", "面馆",
              "甜品", "美食", "卤味", "生煎", "烩面", "黄焖鸡")),
    ("work", ("公司", "写字楼", "园区", "政府", "机关")),
    ("home", ("住宅", "村庄", "小区", "商住", "乡镇")),
    ("district", ("商圈",)),
    ("shopping", ("商场", "购物", "超市", "市场", "店", "商业街", "特色街", "广场")),
)  # fmt: skip

RECENT_HOURS = 2
TIME_FORMAT = "%Y-%m-%d %H:%M:%S"
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
    behaviors = short_term(sample.short_term_behavior_seq, now)
    visits = {habit.place: habit.count for habit in long_term(sample.long_term_behavior)}
    latest = behaviors[-1] if behaviors else None
    since = int(_hours(latest.when, now)) if latest else None
    recent = [b for b in behaviors if _hours(b.when, now) <= RECENT_HOURS]
    place, order_place = sample.current_poi_name, sample.trigger_4
    here = sample.current_city + sample.current_district
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
        place_kind=place_kind(sample.current_tag),
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


def place_kind(category: str) -> PlaceKind:
    """The kind of a place from its category's words, "other" where none is known."""
    if not category:
        return "unknown"
    kinds = (kind for kind, words in _KIND_WORDS if any(word in category for word in words))
    return next(kinds, "other")


def request_time(sample: Sample) -> datetime:
    """When the plan is asked for; GplanError where ``currenttime`` is empty or no time."""
    now = time_of(sample, REQUEST_TIME)
    if now is None:
        raise GplanError(f"{REQUEST_TIME} is empty; write the time of the request in it.")
    return now


def time_of(sample: Sample, column: str) -> datetime | None:
    """The time in a column, None where it is empty; GplanError where it is no time."""
    text = getattr(sample, column).strip()
    if not text:
        return None
    try:
        return datetime.strptime(text, TIME_FORMAT)
    except ValueError:
        problem = f"{column} of sample {sample.id} is {text!r}"
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
