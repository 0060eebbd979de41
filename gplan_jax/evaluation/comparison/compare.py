"""A whole comparison: check, fit what is missing, write the results directory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from gplan_jax import __version__
from gplan_jax.evaluation.comparison import results
from gplan_jax.evaluation.comparison.comparison_table import markdown_text, terminal_text
from gplan_jax.evaluation.comparison.setup import ComparisonSetup, read_added
from gplan_jax.evaluation.comparison.worker_pool import LOG, FitJob, all_jobs, run_jobs
from gplan_jax.evaluation.significance.arm_summary import (
    ArmScores,
    highest,
    score_arm,
    summarize_arms,
)
from gplan_jax.foundation.errors import GplanError, require_extra
from gplan_jax.foundation.files import json_digest, write_json, write_jsonl, write_text
from gplan_jax.foundation.paths import LOCK, alone_in
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.gsisr import canonical_plan, facts_of, parse_plan
from gplan_jax.gsisr.service import record_service

DIGITS = 16  # of a digest that tells two settings or libraries apart


@dataclass(frozen=True)
class ComparisonOutcome:
    """What a comparison came to; without a finished arm there is no summary."""

    about: results.ComparisonAbout
    summary: results.ComparisonSummary | None


def compare(
    setup: ComparisonSetup, *, added: Mapping[str, Path], workers: int, command: str = ""
) -> ComparisonOutcome:
    """Fits what is missing in ``setup.out`` and writes the results.

    ``added`` are arms predicted elsewhere, name -> predictions.jsonl. An accelerator has one
    worker, whatever is given. ``command`` is kept in comparison.json.
    """
    # What the statistics need, before hours of fitting.
    require_extra(["statsmodels"], "baselines", "tests and intervals between arms")
    for name in setup.names:
        if (declared := len(setup.arms[name].trials)) < setup.trials_of(name):
            raise GplanError(
                f"{name} declares {declared} trials; compare with --trials {declared}, so that all "
                "arms have the same number."
            )
    if clash := sorted(set(added) & set(setup.arms)):
        raise GplanError(f"--add {clash[0]}=...: an arm of this name is known; choose another.")
    extra = {name: [read_added(path, setup.rows, setup.library)] for name, path in added.items()}
    if setup.out.is_file():
        raise GplanError(f"{setup.out} is a file; name a new directory.")
    with alone_in(setup.out):
        setup.out.mkdir(parents=True, exist_ok=True)
        about = _open(setup, command)
        hardware, failures = _fit_all(setup, workers)

        # The arms that are finished, those of earlier runs included.
        names = [name for name in setup.arms if name in about.set]
        folds = range(len(setup.rows.folds))
        finished = [
            name
            for name in names
            if all(
                FitJob(name, fold, seed).is_done(setup.out)
                for fold in folds
                for seed in range(setup.seeds_of(name))
            )
        ]
        floors = [name for name in finished if setup.is_floor(name)]
        about = about.model_copy(
            update={
                "arms": [*(name for name in finished if name not in floors), *extra, *floors],
                "titles": {n: setup.arms[n].title for n in finished} | {n: n for n in extra},
                "floors": floors,
                "added": list(extra),
                "unfinished": [name for name in names if name not in finished],
                "failures": failures,
                "hardware": hardware or about.hardware,
            }
        )
        if not about.arms:
            _write_about(setup.out, about)
            return ComparisonOutcome(about, None)
        return _write_results(setup, about, extra)


def _write_about(out: Path, about: results.ComparisonAbout) -> None:
    write_json(out / results.COMPARISON, about.model_dump(exclude_none=True))


def _open(setup: ComparisonSetup, command: str) -> results.ComparisonAbout:
    """Makes the results directory, or checks that it is of this comparison; its comparison.json."""
    declared = {}
    for name in setup.names:
        arm = setup.arms[name]
        facts = {"defaults": arm.settings().model_dump(mode="json"), "trials": arm.trials}
        declared[name] = json_digest(facts)[:DIGITS]
    about = results.ComparisonAbout(
        data=setup.rows.data,
        train_data=setup.rows.train_data,
        mode=setup.mode.value,
        folds=len(setup.rows.folds),
        seeds=setup.seeds,
        trials=setup.trials,
        arms=list(setup.names),
        titles={},
        library=setup.library.name,
        library_digest=json_digest(setup.library.model_dump(mode="json"))[:DIGITS],
        set={name: dict(setup.overrides.get(name, {})) for name in setup.names},
        declared=declared,
        rows_without_plan=len(setup.rows.without_plan),
        rows_not_learnt=len(setup.rows.not_learnt),
        unfinished=list(setup.names),
        version=__version__,
        command=command,
    )
    if (setup.out / results.COMPARISON).exists():
        before = results.read_part(results.ComparisonAbout, setup.out / results.COMPARISON)
        _check_same(before, about, setup.out)
        about = about.model_copy(
            update={
                "set": {**before.set, **about.set},
                "declared": {**before.declared, **about.declared},
                "hardware": before.hardware,
            }
        )
    elif any(entry.name != LOCK for entry in setup.out.iterdir()):
        raise GplanError(
            f"{setup.out} holds something else than a comparison; name a new directory."
        )
    _write_about(setup.out, about)
    record_service(setup.library, setup.out / results.COMPARISON)
    return about


def _check_same(before: results.ComparisonAbout, now: results.ComparisonAbout, out: Path) -> None:
    """Refuses a directory that was made with other data or options, naming each difference."""
    sums = [about.train_data and about.train_data.sha256 for about in (before, now)]
    odd = []
    if before.data.sha256 != now.data.sha256:
        odd.append("another --data")
    if sums[0] != sums[1]:
        odd.append("another --test")
    # More seeds may follow: a seed's fit is the same whatever their number.
    for key in ("mode", "folds", "trials"):
        old, new = getattr(before, key), getattr(now, key)
        if old != new:
            odd.append(f"--{key} {old} (now {new})")
    if before.library_digest != now.library_digest:
        odd.append("another --service")
    for name in sorted(set(before.set) & set(now.set)):
        if not any((out / results.ARMS / name).rglob("*.json")):
            continue  # No fit of it succeeded, so none would be mixed with others.
        if before.set[name] != now.set[name]:
            odd.append(f"--set {before.set[name]} of {name} (now {now.set[name]})")
        if before.declared.get(name) != now.declared[name]:
            odd.append(f"other defaults or trials of {name}")
    if odd:
        raise GplanError(
            f"{out} is of another comparison: it was made with {', '.join(odd)}. Name a new --out, "
            "or give the options it was made with."
        )


def _fit_all(setup: ComparisonSetup, workers: int) -> tuple[str, list[results.FailedFit]]:
    """Does all jobs that are not done; the hardware they ran on and the failures."""
    jobs = all_jobs(setup)
    pending = [job for job in jobs if not job.is_done(setup.out)]
    if not pending:
        return "", []
    hardware, failures = "", []
    best: dict[str, float] = {}
    note = f"the steps are in {setup.out / LOG}"
    with ProgressBar("Fits", len(jobs), start=len(jobs) - len(pending), note=note) as bar:
        for result in run_jobs(setup, pending, workers):
            job = result.job
            hardware = result.hardware or hardware
            if result.reason:
                failures.append(
                    results.FailedFit(
                        arm=job.arm, fold=job.fold, seed=job.seed, reason=result.reason
                    )
                )
                continue
            if result.acc1 is not None and not setup.is_floor(job.arm):
                best[job.arm] = max(best.get(job.arm, 0.0), result.acc1)
            what = f"seed {job.seed}" if job.trial is None else f"trial {job.trial + 1}"
            note = f"{job.arm}, fold {job.fold + 1}, {what}"
            if best:
                top = max(best, key=lambda name: best[name])
                note += f"; best on validation rows: {top} {100 * best[top]:.1f}"
            bar.advance(note)
    return hardware, failures


def _write_results(
    setup: ComparisonSetup, about: results.ComparisonAbout, extra: Mapping[str, list[list[str]]]
) -> ComparisonOutcome:
    """Writes predictions, curves, summary and tables of the arms that ``about`` names."""
    out, rows = setup.out, setup.rows
    # Arm -> plan texts [S][N]; the same in both where an arm can't be constrained.
    constrained, free = dict(extra), dict(extra)
    costs: dict[str, results.ArmCost] = {}
    curves: dict[str, list[results.CurvePoint]] = {}
    for name in about.arms:
        if name not in extra:
            constrained[name], free[name], costs[name], curves[name] = _read_arm(setup, name)

    # Scores of the constrained plans, and the means that stand beside what is tested.
    labels = [rows.scored[row].raw_labels for row in rows.order]
    scores: dict[str, ArmScores] = {}
    beside: dict[str, dict[str, float]] = {}
    for name in about.arms:
        scores[name] = score_arm(constrained[name], labels, setup.library)
        free_scores = scores[name]
        if free[name] != constrained[name]:
            free_scores = score_arm(free[name], labels, setup.library)
        beside[name] = {
            **{
                measure: float(scores[name][measure].mean())
                for measure in ("acc1_tool", "ndcg3_tool", "exact", "filter_pass")
            },
            "free_acc1": float(free_scores["acc1"].mean()),
            "free_filter_pass": float(free_scores["filter_pass"].mean()),
        }
    # The best floor by Acc@1, of equals by NES: so the first intents of `gradient_boosting` are not
    # told from `gradient_boosting_first`.
    summary = results.ComparisonSummary(
        **dict(
            summarize_arms(
                scores,
                [rows.scored[row].id for row in rows.order],
                reference=highest(scores, about.floors, ("acc1", "nes")),
            )
        ),
        beside=beside,
    )
    about = about.model_copy(update={"costs": costs})

    fold_of = {row: fold for fold, parts in enumerate(rows.folds) for row in parts.test}
    lines = []
    for place, row in enumerate(rows.order):
        sample, facts = rows.scored[row], facts_of(rows.scored[row])
        line = results.PredictedRow(
            row=row + 1,
            id=sample.id,
            label=canonical_plan(parse_plan(sample.raw_labels, setup.library), setup.library),
            fold=fold_of[row],
            facts=results.RowFacts(
                order_type=facts.order_type, hour=facts.hour, order_distance=facts.order_distance
            ),
            arms={
                name: results.ArmTexts(
                    constrained=[seed[place] for seed in constrained[name]],
                    free=[seed[place] for seed in free[name]],
                )
                for name in about.arms
            },
        )
        lines.append(line.model_dump())
    write_jsonl(out / results.PREDICTIONS, lines)
    points = {n: [point.model_dump() for point in curve] for n, curve in curves.items() if curve}
    write_json(out / results.CURVES, points)
    write_json(out / results.SUMMARY, summary.model_dump())
    tables = {
        results.TABLE: terminal_text(about, summary),
        results.MARKDOWN: markdown_text(about, summary),
    }
    for file, text in tables.items():
        write_text(out / file, text)
    _write_about(out, about)
    return ComparisonOutcome(about, summary)


def _read_arm(
    setup: ComparisonSetup, name: str
) -> tuple[list[list[str]], list[list[str]], results.ArmCost, list[results.CurvePoint]]:
    """An arm's constrained and free plan texts [S][N], its costs and its curves.

    The curves are those of the chosen trials, one a fold, which show a validation loss; without
    trials those of the fits that predict. The size is the largest over the folds, whose
    vocabularies differ.
    """

    def points(fold: int, seed: int, curve: list[dict[str, Any]]) -> list[results.CurvePoint]:
        return [results.CurvePoint(**{**point, "fold": fold, "seed": seed}) for point in curve]

    curves: list[results.CurvePoint] = []
    for fold in range(len(setup.rows.folds)):
        trials = results.read_part(results.FoldTrials, results.trials_path(setup.out, name, fold))
        curves += points(fold, 0, trials.trials[trials.chosen].curve)
    of_trials = bool(curves)
    constrained_S, free_S, fits = [], [], []
    for seed in range(setup.seeds_of(name)):
        constrained: dict[int, str] = {}
        free: dict[int, str] = {}
        for fold, parts in enumerate(setup.rows.folds):
            path = results.seed_path(setup.out, name, fold, seed)
            fit = results.read_part(results.SeedFit, path)
            if fit.rows != list(parts.test):
                raise GplanError(f"{path} is of other rows than its fold; remove the file.")
            constrained |= dict(zip(fit.rows, fit.constrained, strict=True))
            free |= dict(zip(fit.rows, fit.free, strict=True))
            curves += [] if of_trials else points(fold, seed, fit.curve)
            fits.append(fit)
        constrained_S.append([constrained[row] for row in setup.rows.order])
        free_S.append([free[row] for row in setup.rows.order])
    cost = results.ArmCost(
        parameters=max(fit.parameters or 0 for fit in fits),
        seconds=median(fit.seconds or 0.0 for fit in fits),
    )
    return constrained_S, free_S, cost, curves
