"""A GSISR row as every neural baseline sees it: P positions, each a small bag of numbers.

A model sums the embeddings of a position's numbers. Positions are, in this order: four of the
profile; habits, the most frequent first; events, oldest to newest, so that the newest is always at
the block's last position; and with the full context six of its facts, the order itself last. A
position of zeros alone is padding. Nothing comes from the label.

Two modes: HISTORY shows profile, habits and events (``currenttime`` gives the events' ages and
nothing else), FULL shows the context besides, and in the histories which places are the current
one or the order's.
"""

from __future__ import annotations

import dataclasses
import zlib
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

import numpy as np

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import (
    COLUMNS,
    Behavior,
    Facts,
    Habit,
    Sample,
    facts_of,
    long_term,
    place_kind,
)
from gplan_jax.gsisr.facts import day_part_of, request_time, short_term

PADDING = 0
ABSENT, UNKNOWN = "<absent>", "<unknown>"
# Positions of each part; of longer histories the most frequent habits and newest events count.
PROFILE_POSITIONS, HABITS, EVENTS, CONTEXT_POSITIONS = 4, 10, 10, 6
PLACE_BUCKETS = 256  # Places are hashed into so many values.
# Bounds between buckets; a value at a bound is in the bucket above it.
COUNTS = (2, 3, 5, 10, 20, 50, 100)
AGE_HOURS = (1, 2, 4, 12, 24, 72, 168, 720)
MINUTES_SINCE_ORDER = (5, 15, 30, 60, 180, 720, 1440, 4320, 10080)
HOURS_TO_TIME = (-72, -24, -18, -12, -6, -2, -0.5, 0, 0.5, 2, 6, 12, 24, 72)
DAYS_TO_START = (-7, -1, 0, 1, 2, 7)
RECENCIES = (1, 2, 3, 5, 8)

# What columns HISTORY does not show; currenttime stays for the events' ages.
CONTEXT_COLUMNS = (
    "holidayflag", "weekendflag", "current_poi_name", "current_tag", "current_city",
    "current_district", *(f"trigger_{i}" for i in range(1, 8)),
)  # fmt: skip

PROFILE_FIELDS = (
    *(f"profile_{i}" for i in (1, 2, 3, 4, 10, 11, 12)), "interest", "habit_code", "city",
)  # fmt: skip
PLACE_FIELDS = ("category", "kind", "place", "relation")
HABIT_FIELDS = ("habits", "habit_actions", "habit_count")
EVENT_FIELDS = ("events", "event_actions", "event_age", "event_part", "locality")
CONTEXT_FIELDS = (
    "hour", "day_part", "weekend", "holiday", "at_home", "at_work", "near_home", "near_work",
    "in_home_city", "place_recency", "place_visits", "last_locality", "hours_since_event",
    "recent_count", "order_in_home_city", "order_at_home", "order_at_work", "order_recency",
    "order_visits", "since_order", "to_start", "to_end", "days_to_start", "midnight", "phase",
    "order_type", "distance",
)  # fmt: skip


class Token(NamedTuple):
    """A field's value; "" where the row has none."""

    field: str
    value: str


@dataclass(frozen=True)
class Vocabulary:
    """Which number stands for which value; 0 is padding and stands for none.

    Every field has <absent>, for rows that have no value, and <unknown>, for values that training
    saw in fewer than ``min_count`` positions. The order of the training rows changes nothing.
    """

    numbers: Mapping[Token, int]

    @classmethod
    def fit(
        cls, tokens: Iterable[Token], fields: Iterable[str], *, min_count: int = 1
    ) -> Vocabulary:
        """Numbers the fields' <absent> and <unknown> and all frequent values of ``tokens``."""
        counts = Counter(tokens)
        frequent = {token for token, count in counts.items() if token.value and count >= min_count}
        order = [
            Token(field, value)
            for field in dict.fromkeys(fields)
            for value in (
                ABSENT, UNKNOWN, *sorted(token.value for token in frequent if token.field == field)
            )
        ]  # fmt: skip
        return cls({token: number for number, token in enumerate(order, start=PADDING + 1)})

    @property
    def size(self) -> int:
        """How many numbers there are, padding included."""
        return len(self.numbers) + 1

    def number(self, token: Token) -> int:
        """The number of a token; GplanError where its field is unknown."""
        known = self.numbers.get(token if token.value else Token(token.field, ABSENT))
        if known is None:
            known = self.numbers.get(Token(token.field, UNKNOWN))
        if known is None:
            raise GplanError(f"The vocabulary has no field {token.field}.")
        return known


Bag = list[Token]


class InputMode(StrEnum):
    """What a baseline may look at: profile and histories, or the context as well."""

    HISTORY = "history"
    FULL = "full"


@dataclass(frozen=True)
class FeatureEncoder:
    """Encodes rows as int32 [N, P, W]."""

    mode: InputMode
    vocabulary: Vocabulary

    @classmethod
    def fit(
        cls, samples: Iterable[Sample], mode: InputMode, *, min_count: int = 2
    ) -> FeatureEncoder:
        """Takes the vocabulary from training rows; a value in fewer than ``min_count`` positions
        is <unknown>, so that <unknown> is trained."""
        fields = (*PROFILE_FIELDS, *PLACE_FIELDS, *HABIT_FIELDS, *EVENT_FIELDS)
        if mode == InputMode.FULL:
            fields += CONTEXT_FIELDS
        shape = cls(mode, Vocabulary({}))
        tokens = (token for sample in samples for bag in shape.bags(sample) for token in bag)
        return dataclasses.replace(
            shape, vocabulary=Vocabulary.fit(tokens, fields, min_count=min_count)
        )

    @property
    def positions(self) -> int:
        """P."""
        context = CONTEXT_POSITIONS if self.mode == InputMode.FULL else 0
        return PROFILE_POSITIONS + HABITS + EVENTS + context

    @property
    def width(self) -> int:
        """W, the most numbers of a position."""
        return 8

    def encode(self, samples: Sequence[Sample]) -> np.ndarray:
        """Rows as int32 [N, P, W], zeros behind a position's numbers.

        Unknown values and values that a row lacks have numbers of their own, entries of a history
        that can't be read are left out, an empty history is one position that says so. GplanError
        where ``currenttime`` is missing, or a time is not written YYYY-MM-DD HH:MM:SS.
        """
        table = np.zeros((len(samples), self.positions, self.width), np.int32)
        number = self.vocabulary.number
        for row, sample in zip(table, samples, strict=True):
            for position, bag in zip(row, self.bags(sample), strict=True):
                position[: len(bag)] = [number(token) for token in bag]
        return table

    def bags(self, sample: Sample) -> list[Bag]:
        """The P bags of tokens of a row, an empty one for each position of padding."""
        habits = long_term(sample.long_term_behavior, sample.form)[:HABITS]
        now, form = request_time(sample), sample.form
        events = short_term(sample.short_term_behavior_seq, now, form)[-EVENTS:]
        habit_bags = [self._habit(sample, habit) for habit in habits]
        event_bags = [self._event(sample, event) for event in events]
        habit_bags = habit_bags or [[Token("habits", "")]]
        event_bags = event_bags or [[Token("events", "")]]
        codes = {name: getattr(sample, name) for name in COLUMNS}
        bags = [
            [Token(f"profile_{i}", codes[f"profile_feat_{i}"]) for i in (1, 2, 3, 4)],
            [
                *(Token(f"profile_{i}", codes[f"profile_feat_{i}"]) for i in (10, 11, 12)),
                Token("city", sample.profile_feat_5),
            ],
            [Token("interest", c) for c in sample.profile_feat_13.split("|")[:8]],
            [Token("habit_code", c.split(":")[0]) for c in sample.profile_feat_14.split("|")[:8]],
            *habit_bags, *([] for _ in range(HABITS - len(habit_bags))),
            *([] for _ in range(EVENTS - len(event_bags))), *event_bags,
        ]  # fmt: skip
        return bags + self._context(sample) if self.mode == InputMode.FULL else bags

    def _habit(self, sample: Sample, habit: Habit) -> Bag:
        return [
            *self._place(sample, habit.category, habit.place),
            Token("habit_actions", _set(habit.actions)),
            Token("habit_count", bucket(habit.count, COUNTS)),
        ]

    def _event(self, sample: Sample, event: Behavior) -> Bag:
        age = (request_time(sample) - event.when).total_seconds() / 3600
        return [
            *self._place(sample, event.category, event.place),
            Token("event_actions", _set(event.actions)),
            Token("event_age", bucket(age, AGE_HOURS)),
            Token("event_part", day_part_of(event.when.hour)),
            Token("locality", event.locality),
        ]

    def _place(self, sample: Sample, category: str, place: str) -> Bag:
        named = {"home": sample.profile_feat_6, "work": sample.profile_feat_8}
        if self.mode == InputMode.FULL:
            named |= {"current": sample.current_poi_name, "order": sample.trigger_4}
        same = [name for name, other in named.items() if place and place == other]
        hashed = str(zlib.crc32(place.encode()) % PLACE_BUCKETS) if place else ""
        return [
            Token("category", category),
            Token("kind", place_kind(category, sample.form) if category else ""),
            Token("place", hashed),
            Token("relation", "+".join(same) or "other"),
        ]

    def _context(self, sample: Sample) -> list[Bag]:
        facts = facts_of(sample)
        bags = []
        for what, category, place, city in (
            ("place", facts.place_category, sample.current_poi_name, sample.current_city),
            ("order", facts.order_category, sample.trigger_4, sample.trigger_2),
        ):
            recency, visits = getattr(facts, f"{what}_recency"), getattr(facts, f"{what}_visits")
            bags.append([
                *self._place(sample, category, place),
                Token("city", city),
                Token(f"{what}_recency", bucket(recency, RECENCIES)),
                Token(f"{what}_visits", bucket(visits or None, COUNTS)),
            ])  # fmt: skip
        here, order = bags
        return [
            [
                Token("hour", str(facts.hour)),
                Token("day_part", facts.day_part),
                *_flags(facts, "weekend", "holiday"),
            ],
            here,
            [
                *_flags(facts, "at_home", "at_work", "near_home", "near_work", "in_home_city"),
                Token("last_locality", facts.locality),
                Token("hours_since_event", bucket(facts.hours_since_behavior, AGE_HOURS)),
                Token("recent_count", str(min(facts.recent_count, 9))),
            ],
            order,
            [
                Token("since_order", bucket(facts.minutes_since_order, MINUTES_SINCE_ORDER)),
                Token("to_start", bucket(facts.hours_to_start, HOURS_TO_TIME)),
                Token("to_end", bucket(facts.hours_to_end, HOURS_TO_TIME)),
                Token("days_to_start", bucket(facts.days_to_start, DAYS_TO_START)),
                Token("midnight", _flag(facts.starts_at_midnight)),
            ],
            [
                Token("order_type", facts.order_type),
                Token("distance", facts.order_distance),
                *_flags(facts, "order_at_home", "order_at_work", "order_in_home_city"),
                Token("phase", facts.phase),
            ],
        ]


def history_only(sample: Sample) -> Sample:
    """The same row with all that HISTORY does not show emptied.

    ``currenttime`` stays, since the events' ages are told from it; it is not to be written itself.
    """
    return sample.with_texts(dict.fromkeys(CONTEXT_COLUMNS, ""))


def bucket(value: float | None, bounds: Sequence[float]) -> str:
    """The bucket of a value: "0" below the first bound, ...; "" where there is no value."""
    return "" if value is None else str(bisect_right(bounds, value))


def _flags(facts: Facts, *names: str) -> Bag:
    return [Token(name, _flag(getattr(facts, name))) for name in names]


def _flag(value: bool | None) -> str:
    return "" if value is None else "yes" if value else "no"


def _set(actions: Sequence[str]) -> str:
    return "+".join(sorted(set(actions)))
