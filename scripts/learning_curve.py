"""How far rows can carry a planner: Acc@1 by the number of training rows, and by repeated contexts.

python scripts/learning_curve.py rows.csv --out curve.json
python scripts/learning_curve.py rows.csv --more simulated.csv --out curve.json

Both parts are about the first intent. The curve fits gradient boosting on shares of the training
rows, five folds by id. ``--more`` adds rows of another source to all of them.

Two rows whose contexts agree have the same first intent with probability a = E[sum_i p_i^2], where
p is the distribution of the intent in a context. No predictor that sees only what agrees reaches
more than E[max_i p_i] <= sqrt(a), and the best one reaches at least a. The estimate of a counts
pairs of different ids, a row of a cell as one row; its interval is a bootstrap over cells.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from gplan_jax.baselines.floors.boosting import GradientBoostingFirst
from gplan_jax.baselines.floors.counting import start_range
from gplan_jax.baselines.rows.labelled_rows import folds_by_id
from gplan_jax.foundation.files import write_json
from gplan_jax.gsisr import (
    IntentLibrary,
    Sample,
    canonical_plan,
    facts_of,
    parse_plan,
    read_samples,
    score_prediction,
)
from gplan_jax.gsisr.facts import Facts

SHARES, DRAWS = (0.125, 0.25, 0.5, 1.0), 3
FOLDS = 5


# What has to agree for two contexts to count as one, from coarse to fine.
CONTEXTS: dict[str, Callable[[Facts], tuple[object, ...]]] = {
    "order type, here or not": lambda f: (f.order_type, f.order_distance == "here"),
    "and start, kind of place": lambda f: (
        f.order_type, f.order_distance == "here", start_range(f.hours_to_start), f.place_kind,
    ),
    "and distance, phase, home, work, part of the day": lambda f: (
        f.order_type, f.order_distance, start_range(f.hours_to_start), f.place_kind, f.phase,
        f.order_at_home, f.order_at_work, f.at_home, f.at_work, f.day_part,
    ),
    "and whether the places were just looked at": lambda f: (
        f.order_type, f.order_distance, start_range(f.hours_to_start), f.place_kind, f.phase,
        f.order_at_home, f.order_at_work, f.at_home, f.at_work, f.day_part, f.order_recency == 0,
        f.place_recency == 0, f.recent_count > 0,
    ),
}  # fmt: skip


def main() -> None:
    """Prints both parts and writes them as JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--more", type=Path, help="rows of another source, for training alone")
    parser.add_argument("--most", type=int, default=20_000, help="so many of them")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    library = IntentLibrary.load()
    rows = [row for row in read_samples(options.data) if parse_plan(row.raw_labels, library)]
    more = list(read_samples(options.more))[: options.most] if options.more else []

    curve = {}
    for share in (1.0,) if more else SHARES:
        # A part of the rows has several draws, all of them only one.
        scores_DxN = [
            boosted(rows, share, draw, more, library) for draw in range(DRAWS if share < 1 else 1)
        ]
        mean = float(np.mean(scores_DxN))
        count = round(share * len(rows) * (FOLDS - 1) / FOLDS)
        curve[count] = mean
        error = float(np.std(np.mean(scores_DxN, axis=0))) / len(rows) ** 0.5
        print(f"{count:6,} rows of their own, {len(more):,} more: {mean:.3f} +- {error:.3f}")
    found = {name: repeated(rows, context, library) for name, context in CONTEXTS.items()}
    for name, values in found.items():
        print(name, {k: round(v, 3) for k, v in values.items()})
    write_json(options.out, {"curve": curve, "more": len(more), "contexts": found})


def boosted(
    rows: Sequence[Sample], share: float, draw: int, more: Sequence[Sample], library: IntentLibrary
) -> np.ndarray:
    """Acc@1 of each row [N] from a share of the training rows of its fold."""
    acc1_N = np.zeros(len(rows))
    for number, fold in enumerate(folds_by_id(rows, FOLDS)):
        rng = np.random.default_rng((draw, number))
        train = rng.permutation(fold.train)[: round(share * len(fold.train))]
        model = GradientBoostingFirst.fit([*(rows[i] for i in train), *more], library)
        texts = model.predict([rows[i] for i in fold.test])
        for i, text in zip(fold.test, texts, strict=True):
            label = parse_plan(rows[i].raw_labels, library)
            acc1_N[i] = score_prediction(text, canonical_plan(label, library)).acc1
    return acc1_N


def repeated(
    rows: Sequence[Sample], context: Callable[[Facts], tuple[object, ...]], library: IntentLibrary
) -> dict[str, float]:
    """How often two rows of different ids that agree begin alike, and what follows from it."""
    cells: defaultdict[tuple[object, ...], list[tuple[str, str]]] = defaultdict(list)
    for row in rows:
        first = canonical_plan(parse_plan(row.raw_labels, library)[:1], library)
        cells[context(facts_of(row))].append((row.id, first))
    # A row of a cell of n rows counts as one row, not as n - 1 pairs: [cells] agreement and rows.
    agreement, sizes = [], []
    for members in cells.values():
        pairs = [
            first == other
            for i, (user, first) in enumerate(members)
            for other_user, other in members[:i]
            if user != other_user
        ]
        if pairs:
            agreement.append(float(np.mean(pairs)))
            sizes.append(len(members))
    a_C, n_C = np.array(agreement), np.array(sizes)
    rng = np.random.default_rng(0)
    picks = rng.integers(len(a_C), size=(2000, len(a_C)))
    drawn = (a_C[picks] * n_C[picks]).sum(axis=1) / n_C[picks].sum(axis=1)
    low, high = np.quantile(drawn, (0.025, 0.975))
    a = float(a_C @ n_C / n_C.sum())
    majority = sum(Counter(f for _, f in m).most_common(1)[0][1] for m in cells.values())
    return {
        "cells": len(cells),
        "rows with a twin": int(n_C.sum()),
        "agreement": a,
        "low": float(low),
        "high": float(high),
        "best predictor at most": a**0.5,
        "and with the interval's end": float(high) ** 0.5,
        "majority of its own cell": majority / len(rows),
    }


if __name__ == "__main__":
    main()
