"""A simulated world for each fold, fitted to the fold's training rows alone.

    python scripts/clean_world.py gsisr_dev.csv --folds 2 --fold 0 --rows 48000 --out runs/clean/0
    python scripts/clean_world.py gsisr_dev.csv --folds 2 --pool runs/clean/*/folds --out runs/clean

The shipped world was fitted to all public rows, so a planner that learns from it has met something
of any row it is scored on. Here calibration.yaml is fitted again, and the weights of the openings
in rules.yaml, set by hand to the shares of all rows, are counted again, both without the fold's
test rows. What stays as it was written in sight of all rows: which rules there are, and the weights
of what comes after the opening. OUT gets train.csv, test.csv, calibration.yaml and world.csv.

--pool takes what `gplan baseline ... --out runs/clean/K/folds` came to in each fold, in order, and
writes the free answers of all as OUT/ARM_SEED.jsonl, for `gplan baseline --add`.
"""

from __future__ import annotations

import argparse
from collections import Counter, defaultdict
from collections.abc import Sequence
from pathlib import Path

from fit_world import tables_of

from gplan_jax.baselines.rows.labelled_rows import folds_by_id
from gplan_jax.evaluation.comparison.results import read_results
from gplan_jax.foundation.files import write_jsonl
from gplan_jax.gsisr import IntentLibrary, Sample, parse_plan, read_samples, write_samples
from gplan_jax.synthesis.rules.rule_file import Branch
from gplan_jax.synthesis.rules.service_rules import ServiceRules
from gplan_jax.synthesis.world import calibration
from gplan_jax.synthesis.world.simulation import simulate_contexts

PRIOR = 0.5  # rows that each opening of a branch has before any is counted


def main() -> None:
    """Writes a fold's rows and its world."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("--folds", type=int, default=5, help="by id, as gplan baseline deals them")
    parser.add_argument("--fold", type=int, default=0, help="the one held out, from 0")
    parser.add_argument("--pool", type=Path, nargs="+", help="results of every fold")
    parser.add_argument("--rows", type=int, default=48_000, help="of the world")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    samples = list(read_samples(options.data))
    folds = folds_by_id(samples, options.folds)
    options.out.mkdir(parents=True, exist_ok=True)
    if options.pool:
        pool(options.pool, [fold.test for fold in folds], options.out)
        return
    fold = folds[options.fold]
    train, test = ([samples[i] for i in part] for part in (fold.train, fold.test))
    write_samples(options.out / "train.csv", train)
    write_samples(options.out / "test.csv", test)

    # The world reads its tables once, at the first draw: they are set before it.
    calibration.CALIBRATION = options.out / "calibration.yaml"
    calibration.CALIBRATION.write_text(tables_of(train), encoding="utf-8")
    rules = ServiceRules(IntentLibrary.load())
    counted = count_openings(rules, train)
    seed = 100 + options.fold
    world = options.out / "world.csv"
    contexts = simulate_contexts(seed, count=options.rows)
    write_samples(world, (row.with_label(rules.label(row)) for row in contexts))
    print(f"{options.rows} rows in {world}; {counted} of {len(train)} rows begin as a rule says")


def pool(results: Sequence[Path], tests: Sequence[Sequence[int]], out: Path) -> None:
    """Writes OUT/ARM_SEED.jsonl; ``tests`` are the data's rows that each fold holds out."""
    found: dict[str, list[dict[str, object]]] = defaultdict(list)
    for folder, test in zip(results, tests, strict=True):
        for line in read_results(folder).rows:
            known = {"row": test[line.row - 1] + 1, "id": line.id, "label": line.label}
            for arm, texts in line.arms.items():
                for seed, text in enumerate(texts.free or texts.constrained):
                    found[f"{arm}_{seed}"].append({**known, "text": text})
    for name, lines in found.items():
        write_jsonl(out / f"{name}.jsonl", lines)
        print(f"{len(lines)} answers in {out / name}.jsonl")


def count_openings(rules: ServiceRules, rows: Sequence[Sample]) -> int:
    """Sets the weights of the openings to how often the rows begin so; how many rows do."""
    found: dict[str, Counter[str]] = defaultdict(Counter)
    for row in rows:
        plan = parse_plan(row.raw_labels, rules.library)
        branch = rules.branch(rules.file.openings, rules.tell(row))
        assert branch is not None  # The last branch of amap has no condition.
        begun = [n for n in branch.open if plan and plan[: n.count("+") + 1] == rules.file.plan(n)]
        if begun:
            found[_key(branch)][max(begun, key=lambda name: name.count("+"))] += 1
    for branch, key in [(branch, _key(branch)) for branch in _leaves(rules.file.openings)]:
        branch.open.update({name: found[key][name] + PRIOR for name in branch.open})
    return sum(counts.total() for counts in found.values())


def _leaves(branches: Sequence[Branch]) -> list[Branch]:
    return [leaf for b in branches for leaf in (_leaves(b.then) if b.then else [b])]


def _key(branch: Branch) -> str:
    """Branches that the file writes once and uses twice are counted together."""
    return branch.model_dump_json()


if __name__ == "__main__":
    main()
