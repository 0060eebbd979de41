"""A row as a fixed-width table of numbers and categories, for gradient boosting and neighbours;
and one thread for their estimators.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.gsisr import COLUMNS, Facts, Sample, facts_of, long_term, place_kind, short_term
from gplan_jax.gsisr.facts import request_time

Value = str | float | None
ACTIONS = tuple(f"act_{i}" for i in range(1, 11))
KINDS = ("hotel", "fuel", "charging", "service_area", "hub", "sights", "food", "work", "home",
         "district", "shopping")  # fmt: skip
LOCALITIES = ("本地", "异地行前", "异地行中", "未知地点")
# Columns of a category that many values may have: only the most frequent ones are told apart.
MOST_CATEGORIES = 40


@dataclass(frozen=True)
class TableEncoder:
    """Encodes rows as float64 [N, F]."""

    mode: InputMode
    columns: tuple[str, ...]
    codes: Mapping[str, Mapping[str, int]]  # column -> value -> code from 1 on; 0: any other value

    @classmethod
    def fit(cls, samples: Iterable[Sample], mode: InputMode) -> TableEncoder:
        """Takes the categories from training rows, of each column the 40 most frequent."""
        counts: dict[str, Counter[str]] = {}
        columns: tuple[str, ...] = ()
        for sample in samples:
            values = row_values(sample, mode)
            columns = tuple(values)
            for name, value in values.items():
                if isinstance(value, str):
                    counts.setdefault(name, Counter())[value] += 1
        codes = {}
        for name, count in counts.items():
            ranked = sorted(count, key=lambda value: (-count[value], value))[:MOST_CATEGORIES]
            codes[name] = {value: code for code, value in enumerate(ranked, start=1)}
        return cls(mode, columns, codes)

    @property
    def categorical(self) -> tuple[bool, ...]:
        return tuple(name in self.codes for name in self.columns)

    def encode(self, samples: Sequence[Sample]) -> np.ndarray:
        """Rows as float64 [N, F]: numbers, codes, 1/0 for yes/no, NaN where a row has no value."""
        rows = [row_values(sample, self.mode) for sample in samples]
        table = [[self._number(name, row[name]) for name in self.columns] for row in rows]
        return np.array(table, np.float64).reshape(len(samples), len(self.columns))

    def _number(self, name: str, value: Value) -> float:
        if value is None:
            return math.nan
        if name in self.codes or isinstance(value, str):
            return float(self.codes.get(name, {}).get(str(value), 0))
        return float(value)


def in_fixed_order(samples: Iterable[Sample]) -> list[Sample]:
    """The rows by their columns' text, so that sums and ties don't hang on the order given."""
    return sorted(samples, key=lambda sample: tuple(sample.to_dict().values()))


def row_values(sample: Sample, mode: InputMode) -> dict[str, Value]:
    """Column -> text of a category, number, or None; the label is not looked at."""
    now = request_time(sample)
    events = short_term(sample.short_term_behavior_seq, now, sample.form)
    habits = long_term(sample.long_term_behavior, sample.form)
    codes = {name: getattr(sample, name) for name in COLUMNS}
    latest = events[-1] if events else None
    event_kinds = Counter(place_kind(event.category, sample.form) for event in events)
    habit_kinds = Counter(place_kind(habit.category, sample.form) for habit in habits)
    actions = Counter(action for event in events for action in event.actions)
    localities = Counter(event.locality for event in events)
    home, work = sample.profile_feat_6, sample.profile_feat_8
    values = {
        **{f"profile_{i}": codes[f"profile_feat_{i}"] or None for i in (1, 2, 3, 4, 10, 11, 12)},
        "events": len(events),
        "habits": len(habits),
        "habit_count": sum(habit.count for habit in habits),
        "latest_kind": place_kind(latest.category, sample.form) if latest else None,
        "latest_category": latest.category if latest else None,
        "latest_locality": latest.locality if latest else None,
        "latest_age": (now - latest.when).total_seconds() / 3600 if latest else None,
        **{f"latest_{a}": float(a in latest.actions) if latest else None for a in ACTIONS},
        **{f"events_{action}": actions[action] for action in ACTIONS},
        **{f"events_{kind}": event_kinds[kind] for kind in KINDS},
        **{f"habits_{kind}": habit_kinds[kind] for kind in KINDS},
        **{f"events_{locality}": localities[locality] for locality in LOCALITIES},
        "events_at_home": sum(event.place == home for event in events) if home else None,
        "events_at_work": sum(event.place == work for event in events) if work else None,
    }
    return values | _context(facts_of(sample)) if mode == InputMode.FULL else values


def _context(facts: Facts) -> dict[str, Value]:
    flags = ("order_in_home_city", "order_at_home", "order_at_work", "at_home", "at_work",
             "near_home", "near_work", "in_home_city", "starts_at_midnight", "weekend",
             "holiday")  # fmt: skip
    numbers = ("minutes_since_order", "hours_to_start", "hours_to_end", "days_to_start",
               "order_recency", "order_visits", "hour", "place_recency", "place_visits",
               "recent_count")  # fmt: skip
    texts = ("order_type", "order_distance", "phase", "order_category", "place_category",
             "place_kind", "other_category")  # fmt: skip
    return {
        **{name: getattr(facts, name) or None for name in texts},
        **{name: getattr(facts, name) for name in numbers},
        **{name: getattr(facts, name) for name in flags},
        "order_kind": place_kind(facts.order_category),
    }


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps OpenMP to one thread; the estimator must be made before, so that OpenMP is loaded.

    On a few hundred rows, threads that wait for each other on a busy machine take 100 times longer.
    """
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(limits=1):
        yield
