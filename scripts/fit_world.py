"""Fits the shares of the simulated world to real rows, and prints them as YAML.

    python scripts/fit_world.py --real gsisr_dev.csv > gplan_jax/synthesis/world/calibration.yaml

Only shares, counts per class and words of the public vocabulary (categories, codes) that several
users have are kept: no row, no id, no text of a row. See docs/world.md.
"""

from __future__ import annotations

import argparse
import math
from collections import Counter, defaultdict
from collections.abc import Hashable, Iterable
from itertools import pairwise

import numpy as np
import yaml
from world_realism import RowParts, take_apart

from gplan_jax.gsisr import IntentLibrary, Sample, read_samples
from gplan_jax.gsisr.facts import ORDER_TIMES, Behavior, Habit, place_kind, time_of
from gplan_jax.synthesis.rules.service_rules import shipped_rules
from gplan_jax.synthesis.world.orders import REFUEL_ORDERS

CODES_TOGETHER = ((1,), (2, 3, 4, 11), (10, 12))  # Profile columns that depend on each other.
LEAST_USERS = 2  # A category or code that fewer users have is left out.
STYLES = 12
GAPS = ("same", "hours", "day", "long")
FEW_CODES = 4
PSEUDO = 12.0  # Rows of all kinds that count beside those of one kind.
HEADER = """\
# Shares of the simulated world, fitted to the 703 public development rows (one working day) by
# scripts/fit_world.py. Every number is a relative weight within its mapping unless said otherwise.
"""


def main() -> None:
    """Prints the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--real", required=True)
    print(HEADER + tables_of(read_samples(parser.parse_args().real)), end="")


def tables_of(samples: Iterable[Sample]) -> str:
    """The tables fitted to these rows, as YAML."""
    library = IntentLibrary.load()
    rows = [take_apart(sample, library) for sample in samples]
    tables = {**_orders(rows), **_places(rows), **_people(rows), **_histories(rows)}
    return yaml.safe_dump(
        tables, allow_unicode=True, sort_keys=False, width=100, default_flow_style=None
    )


def _shares(values: Iterable[Hashable], least: int = 1, most: int = 400) -> dict[str, float]:
    counts = Counter(str(value) for value in values)
    kept = [(v, n) for v, n in counts.most_common(most) if n >= least]
    total = sum(n for _, n in kept)
    return {value: round(1000 * n / total, 1) for value, n in kept if round(1000 * n / total, 1)}


def _by(
    pairs: Iterable[tuple[str, Hashable]], pseudo: float = PSEUDO, keys: Iterable[str] = ()
) -> dict[str, dict[str, float]]:
    """Shares per key, each drawn towards the shares of all, which ``keys`` that no row has get."""
    pairs = [(key, str(value)) for key, value in pairs]
    whole = Counter(value for _, value in pairs)
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    for key, value in pairs:
        counts[key][value] += 1
    for key in keys:
        counts.setdefault(key, Counter())
    return {
        key: {
            value: share
            for value in whole
            if (
                share := round(
                    1000
                    * (found[value] + pseudo * whole[value] / whole.total())
                    / (found.total() + pseudo),
                    1,
                )
            )
            >= 0.5
        }
        for key, found in counts.items()
    }


def _quantiles(values: Iterable[float], parts: int = 20) -> list[float]:
    found = sorted(values)
    last = len(found) - 1
    return [round(found[round(last * i / parts)], 2) for i in range(parts + 1)]


def _age(row: RowParts) -> str:
    """How long ago the order was made, as a class."""
    minutes = row.facts.minutes_since_order
    if minutes is None:
        return "unknown"
    bounds = (5, 15, 30, 60, 120, 240, 480, 720)
    return str(next((bound for bound in bounds if minutes < bound), 1440))


def _orders(rows: list[RowParts]) -> dict[str, object]:
    types = [row.facts.order_type for row in rows]
    return {
        "order_types": _shares(types),
        "distances": _by(((r.facts.order_type, r.facts.order_distance) for r in rows), 3),
        "hours": _by(((r.facts.order_type, r.facts.hour) for r in rows), 25),
        "phases": {
            kind: _shares(_phase(r) for r in rows if r.facts.order_type == kind)
            for kind in Counter(types)
        },
        "order_known": _by((_phase(r), r.sample.trigger_5 != "") for r in rows),
        "order_age": _by(((r.facts.order_type, _age(r)) for r in rows if r.sample.trigger_5), 15),
        "order_in_home_city": _by(
            (
                (r.facts.order_type, r.facts.order_in_home_city)
                for r in rows
                if r.facts.order_distance == "elsewhere"
            ),
            2,
        ),
        "nights": _shares(
            round((r.facts.hours_to_end - r.facts.hours_to_start) / 24)
            for r in rows
            if r.facts.order_type == "酒店" and r.facts.starts_at_midnight
            if r.facts.hours_to_end is not None and r.facts.hours_to_start is not None
        ),
        "days_valid": _shares(
            _days_valid(r) for r in rows if r.facts.order_type == "其他" and r.sample.trigger_7
        ),
        "start_lag_minutes": {
            kind: _quantiles(
                _lag(r) for r in rows if r.facts.order_type == kind and r.sample.trigger_5
            )
            for kind in ("加油", "充电桩", "其他")
        },
    }


def _phase(row: RowParts) -> str:
    return str(shipped_rules("amap").tell(row.sample).known["phase"]).upper()


def _days_valid(row: RowParts) -> int:
    assert row.facts.hours_to_end is not None and row.facts.hours_to_start is not None
    return round((row.facts.hours_to_end - row.facts.hours_to_start) / 24 - 0.5)


def _lag(row: RowParts) -> float:
    made, start, _ = (time_of(row.sample, column) for column in ORDER_TIMES)
    assert made and start
    return (made - start).total_seconds() / 60


def _near(row: RowParts) -> str:
    near = row.facts.order_distance in ("district", "city")
    return f"{row.facts.order_type} {'near' if near else 'far'}"


def _places(rows: list[RowParts]) -> dict[str, object]:
    away = [row for row in rows if row.facts.order_distance != "here"]
    kinds = Counter(row.facts.place_kind for row in away)
    parts = Counter(row.facts.day_part for row in away)
    both = Counter((row.facts.place_kind, row.facts.day_part) for row in away)
    return {
        "place_kinds": _by((_near(row), row.facts.place_kind) for row in away),
        "place_kind_lift": {
            kind: {
                part: round(
                    (both[kind, part] + 8 * n / len(away)) / (kinds[kind] + 8) / (n / len(away)), 2
                )
                for part, n in parts.items()
            }
            for kind in kinds
        },
        "place_categories": _by_kind(
            [(row.sample.id, row.sample.current_tag) for row in rows], least=1
        ),
        "order_categories": {
            kind: _shares(
                (r.facts.order_category or r.facts.place_category)
                for r in rows
                if r.facts.order_type == kind
                and (r.facts.order_category or r.facts.order_distance == "here")
            )
            for kind in Counter(r.facts.order_type for r in rows)
        },
        "behavior_categories": _by_kind(
            [(r.sample.id, b.category) for r in rows for b in r.behaviors]
        ),
        "habit_categories": _by_kind(
            [(r.sample.id, h.category) for r in rows for h in dict.fromkeys(r.habits)]
        ),
    }


def _by_kind(pairs: list[tuple[str, str]], least: int = LEAST_USERS) -> dict[str, dict[str, float]]:
    users: dict[str, set[str]] = defaultdict(set)
    for user, word in pairs:
        users[word].add(user)
    words: dict[str, list[str]] = defaultdict(list)
    for _, word in pairs:
        if len(users[word]) >= least and word:
            words[place_kind(word)].append(word)
    return {kind: _shares(found) for kind, found in words.items()}


def _people(rows: list[RowParts]) -> dict[str, object]:
    samples = [row.sample for row in rows]
    names = [f"profile_feat_{i}" for i in range(1, 15)]
    tables: dict[str, object] = {
        "known_profile": _shares(
            ("".join("1" if getattr(s, name) else "0" for name in names) for s in samples), 2
        )
    }
    for group in CODES_TOGETHER:
        tables[f"profile_feat_{'_'.join(map(str, group))}"] = _together(samples, group)
    for i in (13, 14):
        codes = [getattr(s, f"profile_feat_{i}").split("|") for s in samples]
        codes = [found for found in codes if found != [""]]
        if i == 14:
            tables["profile_feat_14_codes"] = _shares(map(len, codes))
        tables[f"profile_feat_{i}_code"] = {
            key: _codes([f for f in codes if (len(f) < FEW_CODES) is few])
            for key, few in (("few", True), ("many", False))
        }
    tables["profile_feat_13_codes"] = _by(
        (
            (str(len(s.profile_feat_14.split("|")) if s.profile_feat_14 else 0), n)
            for s in samples
            if (n := len(s.profile_feat_13.split("|")) if s.profile_feat_13 else 0)
        ),
        3,
    )
    found = [s.profile_feat_13.split("|") for s in samples if s.profile_feat_13]
    tables["profile_feat_13_levels"] = _by(
        ((str(min(len(codes), 4)), c.split(":")[1]) for codes in found for c in codes), 0
    )
    tables["profile_feat_14_most"] = _shares(
        max(int(c.split(":")[1]) for c in s.profile_feat_14.split("|"))
        for s in samples
        if s.profile_feat_14
    )
    known = [s for s in samples if s.profile_feat_7 and s.profile_feat_9 and s.profile_feat_5]
    tables["home_in_city"] = _shares(s.profile_feat_7.startswith(s.profile_feat_5) for s in known)
    tables["work_near"] = _shares(
        "district"
        if s.profile_feat_9 == s.profile_feat_7
        else "city"
        if s.profile_feat_9.startswith(s.profile_feat_5)
        else "elsewhere"
        for s in known
    )
    return tables


def _together(samples: list[Sample], columns: tuple[int, ...]) -> dict[str, float]:
    """Shares of the values that several users have in these columns at once."""
    users: dict[str, set[str]] = defaultdict(set)
    for sample in samples:
        values = [getattr(sample, f"profile_feat_{i}") for i in columns]
        if all(values):
            users["/".join(values)].add(sample.id)
    return _shares(v for v, ids in users.items() if len(ids) >= LEAST_USERS for _ in ids)


def _codes(found: list[list[str]]) -> dict[str, float]:
    """Weights with which codes drawn one after the other are as frequent as they are.

    The chance that a code of weight w is among several drawn is about 1 - exp(-w t).
    """
    users = Counter(code.split(":")[0] for codes in found for code in codes)
    return {
        code: round(-100 * math.log(1 - min(n / len(found), 0.98)), 2)
        for code, n in users.most_common()
        if n >= LEAST_USERS
    }


def _role(row: RowParts, place: str) -> str:
    sample = row.sample
    roles = {  # The later ones count where a place has several.
        sample.profile_feat_6: "home",
        sample.profile_feat_8: "work",
        sample.current_poi_name: "place",
        sample.trigger_4: "order",
    }
    return roles.get(place, "other")


def _event_role(row: RowParts, behavior: Behavior) -> str:
    role = _role(row, behavior.place)
    return "ordering" if role == "order" and "act_5" in behavior.actions else role


def _histories(rows: list[RowParts]) -> dict[str, object]:
    return {**_short(rows), **_long(rows)}


def _styles(rows: list[RowParts]) -> dict[int, str]:
    """Row -> how it goes about things: which localities, actions and pauses are common in it."""
    from sklearn.cluster import KMeans

    localities, actions = (
        ("本地", "异地行前", "异地行中", "未知地点"),
        ("act_1", "act_2", "act_3", "act_4", "act_6", "act_7"),
    )
    table = []
    for row in rows:
        size = max(len(row.behaviors), 1)
        hours = len({b.when for b in row.behaviors})
        table.append(
            [
                *(sum(b.locality == name for b in row.behaviors) / size for name in localities),
                *(0.7 * sum(name in b.actions for b in row.behaviors) / size for name in actions),
                1.5 * any("act_3" in b.actions for b in row.behaviors),
                len({b.place for b in row.behaviors}) / size,
                hours / size,
            ]
        )
    model = KMeans(STYLES, n_init=10, random_state=0).fit(np.array(table))
    return {id(row): f"s{label}" for row, label in zip(rows, model.labels_, strict=True)}


def _short(rows: list[RowParts]) -> dict[str, object]:
    styles = _styles(rows)
    events = [(r, i, b) for r in rows for i, b in enumerate(reversed(r.behaviors))]
    ordering: list[tuple[str, object]] = []
    for r in rows:
        ago = [i for i, b in enumerate(reversed(r.behaviors)) if _event_role(r, b) == "ordering"]
        ordering.append((f"{_age(r)} {_side(r)}", ago[0] if ago else None))
    later, earlier, before = [], [], []
    for r in rows:
        roles = [_event_role(r, b) for b in reversed(r.behaviors)]
        if "ordering" not in roles:
            before.append((r.facts.order_type, roles.count("order")))
            continue
        at = roles.index("ordering")
        later.append(
            ("none" if at == 0 else "few" if at < 4 else "many", roles[:at].count("order"))
        )
        earlier.append(
            (r.facts.order_type, sum(x in ("order", "ordering") for x in roles[at + 1 :]))
        )
    gaps = []
    for r in rows:
        found = [(r.facts.now - b.when).total_seconds() / 3600 for b in reversed(r.behaviors)]
        steps = [round(b - a) for a, b in pairwise(found)]
        classes = [_gap(step) for step in steps]
        befores = [f"{styles[id(r)]} {before}" for before in ("start", *classes)]
        gaps += list(zip(befores, classes, steps, strict=False))
    latest = [
        (_age(r), _gap(int((r.facts.now - r.behaviors[-1].when).total_seconds() // 3600)))
        for r in rows
        if r.behaviors
    ]
    actions, localities = [], []
    for r, i, b in events:
        role = _event_role(r, b)
        older = r.behaviors[-i - 2].locality if i + 1 < len(r.behaviors) else "none"
        style = styles[id(r)]
        localities.append((f"{style} {_manner(role)} {older}", b.locality))
        group = "unknown" if b.locality == "未知地点" else "known"
        refuel = " refuel" if role == "ordering" and r.facts.order_type in REFUEL_ORDERS else ""
        actions.append((f"{style} {_manner(role)}{refuel} {group}", " ".join(b.actions)))
    persist = [
        (
            styles[id(r)],
            _again(a, b),
        )
        for r in rows
        for a, b in zip(r.behaviors, r.behaviors[1:], strict=False)
    ]
    others = [(r, b) for r, _, b in events if _event_role(r, b) == "other"]
    return {
        "behaviors": _shares(max(len(r.behaviors), 1) for r in rows),
        "ordering_ago": _by(ordering, 4),
        "order_seen_after": _by(later, 2),
        "order_seen_before": _by(earlier, 4),
        "order_seen_without": _by(before, 4),
        "place_seen_ago": _shares(
            r.facts.place_recency for r in rows if r.facts.order_distance != "here"
        ),
        "latest_gap": _by(latest, 6),
        "next_gap": _by(
            ((before, after) for before, after, _ in gaps),
            5,
            [f"{s} {gap}" for s in sorted(set(styles.values())) for gap in ("start", *GAPS)],
        ),
        "gap_hours": {
            kind: _quantiles(step for _, after, step in gaps if after == kind) for kind in GAPS
        },
        "behavior_kinds": _by(
            ((f"{r.facts.order_type} {b.locality}", place_kind(b.category)) for r, b in others), 15
        ),
        "again": _by(persist, 5),
        "home_or_work": round(
            sum(_event_role(r, b) in ("home", "work") for r, _, b in events) / len(events), 3
        ),
        "styles": _by((r.facts.order_type, styles[id(r)]) for r in rows),
        "localities": _by(localities, 2),
        "actions": {
            key: dict(sorted(shares.items(), key=lambda item: -item[1])[:20])
            for key, shares in _by_manner(actions).items()
        },
    }


def _manner(role: str) -> str:
    return role if role in ("ordering", "order") else "other"


def _by_manner(pairs: list[tuple[str, str]]) -> dict[str, dict[str, float]]:
    """Shares per style, manner and knownness, drawn towards those of all styles."""
    found: dict[str, dict[str, float]] = {}
    for ending in dict.fromkeys(key.split(" ", 1)[1] for key, _ in pairs):
        found |= _by([pair for pair in pairs if pair[0].split(" ", 1)[1] == ending], 3)
    return found


def _side(row: RowParts) -> str:
    return "here" if row.facts.order_distance == "here" else "away"


def _again(a: Behavior, b: Behavior) -> str:
    """What an event has in common with the one before it, at most."""
    if b.place == a.place:
        return "place"
    if b.category == a.category:
        return "category"
    return "kind" if place_kind(b.category) == place_kind(a.category) else "none"


def _gap(hours: int) -> str:
    return "same" if hours <= 0 else "hours" if hours <= 4 else "day" if hours <= 24 else "long"


def _long(rows: list[RowParts]) -> dict[str, object]:
    lists = [(row, row.habits) for row in rows if row.habits]
    distinct = [(row, list(dict.fromkeys(habits))) for row, habits in lists]
    habits = [(r, i, h) for r, found in distinct for i, h in enumerate(found)]
    logs = {id(r): [np.log(h.count) for h in found] for r, found in distinct}
    neighbours = np.array([pair for found in logs.values() for pair in pairwise(found)])
    passive = {id(r): _manner_of_habits(found) for r, found in distinct}
    return {
        "habits": _shares(len(found) for _, found in lists),
        "habit_copies": _shares(
            -(-len(a) // len(b)) for (_, a), (_, b) in zip(lists, distinct, strict=True)
        ),
        # Quantiles of the count at each rank, and how much neighbours' ranks go together.
        "habit_counts": {
            str(rank): _quantiles(found[rank].count for _, found in distinct if len(found) > rank)
            for rank in range(10)
        },
        "habit_correlation": round(float(np.corrcoef(neighbours.T)[0, 1]), 3),
        "habit_manner": _by((_manner_of_row(r), passive[id(r)]) for r, _ in distinct),
        "place_is_habit": _share(
            any(h.place == r.sample.current_poi_name for h in f) for r, f in distinct
        ),
        "order_is_habit": _share(
            any(h.place == r.sample.trigger_4 for h in f) for r, f in distinct
        ),
        "habit_role": _by(
            (
                str(min(i, 4)),
                _role(r, h.place) if _role(r, h.place) in ("home", "work") else "other",
            )
            for r, i, h in habits
        ),
        "habit_kinds": _by(
            (
                (str(min(i, 4)), place_kind(h.category))
                for r, i, h in habits
                if _role(r, h.place) not in ("home", "work")
            ),
            5,
        ),
        "habit_kind_again": _persistence(distinct),
        "habit_actions": _by(
            ((f"{_habit_key(r, h)} {passive[id(r)]}", " ".join(h.actions)) for r, _, h in habits),
            5,
        ),
        "home_categories": _shares(
            (h.category for r, _, h in habits if _role(r, h.place) == "home"), 3
        ),
        "work_categories": _shares(
            (h.category for r, _, h in habits if _role(r, h.place) == "work"), 3
        ),
    }


def _persistence(distinct: list[tuple[RowParts, list[Habit]]]) -> float:
    """How much likelier than chance two neighbouring habits are of one kind."""
    kinds = [
        [place_kind(h.category) for h in f if _role(r, h.place) not in ("home", "work")]
        for r, f in distinct
    ]
    pairs = [pair for found in kinds for pair in pairwise(found)]
    counts = Counter(kind for found in kinds for kind in found)
    chance = sum((n / counts.total()) ** 2 for n in counts.values())
    same = sum(a == b for a, b in pairs) / len(pairs)
    return round((same - chance) / (1 - chance), 3)


def _manner_of_row(row: RowParts) -> str:
    return "known" if row.sample.profile_feat_6 else "unknown"


def _visits(habits: list[Habit]) -> bool:
    """Whether most habits are visits (act_8)."""
    return sum("act_8" in h.actions for h in habits) > len(habits) / 2


def _manner_of_habits(habits: list[Habit]) -> str:
    """How many actions a user's habits have on average, in halves, and whether most are visits."""
    actions = sum(len(h.actions) for h in habits) / len(habits)
    return f"{'passive' if _visits(habits) else 'active'} {round(2 * actions) / 2}"


def _share(values: Iterable[bool]) -> float:
    found = list(values)
    return round(sum(found) / len(found), 3)


def _habit_key(row: RowParts, habit: Habit) -> str:
    role = _role(row, habit.place)
    return role if role in ("home", "work") else place_kind(habit.category)


if __name__ == "__main__":
    main()
