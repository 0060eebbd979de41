"""The two behaviour columns, read into entries: what a user did, when, where."""

from __future__ import annotations

import re
from dataclasses import dataclass
from datetime import datetime, timedelta

_SHORT = re.compile(
    r"在(\d+)月(\d+)日[^\d点]*(\d+)点((?:act_\d+了?&?)*)位于(本地|异地行前|异地行中|未知地点)(.*)的(\S+)"
)
_LONG = re.compile(r"(.*)的(p_[^_]+?)((?:act_\d+&?)+)了(\d+)次")
_ACTION = re.compile(r"act_\d+")


@dataclass(frozen=True)
class Behavior:
    """One short-term entry: an hour, the actions in it, and the place they were about.

    ``locality`` is the column's own word: 本地 at home, 异地行前 before a journey, 异地行中 on one,
    未知地点 unknown.
    """

    when: datetime
    actions: tuple[str, ...]
    locality: str
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
