"""Compares the simulated world with real rows: distances by aspect, and an AUC.

    python scripts/compare_world.py --real gsisr_dev.csv --rows 1400

Prints a table, how much of the first intents can be known (from the rules' facts, and by the
floors), and one JSON line. The simulated rows are those of working days, as
the public rows are. See docs/world.md.
"""

from __future__ import annotations

import argparse
import json
import random
from collections import Counter
from collections.abc import Sequence
from itertools import islice

from rich.console import Console
from rich.table import Table
from world_realism import VIEWS, distances, is_working_day, take_apart, tell_apart

from gplan_jax.baselines.fitting.arms import FLOORS
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import (
    IntentLibrary,
    Sample,
    canonical_plan,
    parse_plan,
    read_samples,
)
from gplan_jax.synthesis.rules.rule_file import HISTORY
from gplan_jax.synthesis.rules.service_rules import Told, shipped_rules
from gplan_jax.synthesis.world.simulation import simulate_rows

ENDLESS = 10**12
FOLDS = 5


def main() -> None:
    """Runs the comparison."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--real", required=True, help="a file of real rows")
    parser.add_argument("--world", help="a file of simulated rows, else of the shipped world")
    parser.add_argument("--rows", type=int, default=1400, help="simulated rows of working days")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--views", nargs="*", default=list(VIEWS), choices=VIEWS)
    arguments = parser.parse_args()
    library = IntentLibrary.load()
    real = [take_apart(sample, library) for sample in read_samples(arguments.real)]
    world = arguments.world
    rows = filter(
        is_working_day, read_samples(world) if world else simulate_rows(ENDLESS, arguments.seed)
    )
    simulated = [take_apart(sample, library) for sample in islice(rows, arguments.rows)]
    found = distances(real, simulated)
    table = Table("aspect", "total variation distance")
    for name, distance in found.items():
        table.add_row(name, f"{distance:.3f}")
    console = Console()
    console.print(table)
    verdicts = {}
    for view in arguments.views:
        verdict = tell_apart(real, simulated, view, seed=arguments.seed)
        verdicts[view] = {"auc": verdict.auc, "low": verdict.low, "high": verdict.high}
        console.print(f"AUC {view}: {verdict.auc:.3f} ({verdict.low:.3f} to {verdict.high:.3f})")
        for name, loss in verdict.telling:
            console.print(f"    {loss:.4f}  {name}", markup=False)
    first_intents = {
        "rules without taste": {"simulated": oracle_acc1([r.sample for r in simulated])}
    }
    for floor in ("majority_first_intent", "trigger_table"):
        first_intents[floor] = {
            side: floor_acc1([row.sample for row in rows], floor, library)
            for side, rows in (("real", real), ("simulated", simulated))
        }
    for name, shares in first_intents.items():
        console.print(f"Acc@1 {name}:", {side: round(share, 3) for side, share in shares.items()})
    line = {
        "real": len(real),
        "simulated": len(simulated),
        "distance": found,
        "auc": verdicts,
        "acc1": first_intents,
    }
    print(json.dumps(line, ensure_ascii=False))


def oracle_acc1(samples: Sequence[Sample]) -> float:
    """Acc@1 of who knows the world's rules, and the facts, but nobody's taste."""
    right, rules = 0, shipped_rules("amap")
    for sample in samples:
        weights: Counter[str] = Counter()
        told = rules.tell(sample)
        for opening, weight in rules.openings(Told({**told.known, HISTORY: ""}, told.phrases)):
            weights[canonical_plan(opening[:1])] += weight  # type: ignore[assignment]
        right += max(weights, key=weights.__getitem__) == _first(sample.raw_labels)
    return right / len(samples)


def floor_acc1(
    samples: Sequence[Sample], floor: str, library: IntentLibrary, *, seed: int = 0
) -> float:
    """Acc@1 of a floor in five folds by id, each fitted on the other four.

    Raises:
        GplanError: there are fewer users than folds.
    """
    users = sorted({sample.id for sample in samples})
    if len(users) < FOLDS:
        raise GplanError(f"{len(users)} users are too few for {FOLDS} folds.")
    random.Random(seed).shuffle(users)
    fold_of = {user: number % FOLDS for number, user in enumerate(users)}
    right = 0
    for fold in range(FOLDS):
        fitted = FLOORS[floor]([s for s in samples if fold_of[s.id] != fold], library)
        held_out = [sample for sample in samples if fold_of[sample.id] == fold]
        right += sum(_first(fitted.plan_for(s)) == _first(s.raw_labels) for s in held_out)
    return right / len(samples)


def _first(label: str) -> str:
    return canonical_plan(parse_plan(label)[:1])


if __name__ == "__main__":
    main()
