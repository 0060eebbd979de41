"""The quickstart over several seeds: what vanilla DPO and SC-DPO do to a PICD model, with spread.

    python scripts/preference_seeds.py --seeds 0 1 2 3 4 --out runs/seeds

Each seed has a world, weights and shuffles of its own. A seed that is finished is not run again, so
the command can be stopped and given anew. About five minutes a seed on two quiet cores. At the end
OUT/results.txt and OUT/results.json hold, of the last quarter of the preference steps, the reward
shifts against the reference (each pair is seen once, before the step that learns from it), and the
differences from PICD in plans for held-out contexts; for each the mean over the seeds, the 95%
t-interval of that mean, the least and the greatest seed.
"""

from __future__ import annotations

import argparse
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console, Group
from rich.table import Table

from gplan_jax.cli.quickstart_run import LOSSES, quickstart
from gplan_jax.evaluation.scores.intervals import t_interval
from gplan_jax.evaluation.sensitivity.model_comparison import RESULTS as SENSITIVITY
from gplan_jax.foundation.files import atomic_write, read_json, write_json
from gplan_jax.foundation.tables import plain_text
from gplan_jax.training.loop.metrics_log import read_log

RUN_FIGURES = {
    "rewards/chosen": "Shift of the matched plan",
    "rewards/rejected": "Shift of the other context's plan",
    "rejected_slope": "Its change over 10 steps, second half",
    "rewards/margins": "Margin",
    "gap/inside": "Share of margins inside the band",
    "gap/above": "Share above",
    "center": "Center",
    "anchor_violations": "Share of matched plans pushed down",
}
PLAN_FIGURES = {
    ("figures", "right_context"): "Right context",
    ("figures", "changed"): "Changed when it should",
    ("figures", "stayed"): "Stayed when it should",
    ("figures", "exact_own"): "The context's own plan",
    ("labels", "acc1"): "Acc@1",
    ("labels", "ndcg3"): "NDCG@3",
    ("labels", "nes"): "NES",
    ("labels", "latent_valid"): "Latent-Valid",
    ("labels", "filter_pass"): "Filter pass",
}
Figure = dict[str, Any]


def main() -> None:
    """Runs what is missing, then writes and prints the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    parser.add_argument("--out", type=Path, default=Path("runs/seeds"))
    parser.add_argument("--rows", type=int, default=1000, help="simulated rows of each seed")
    options = parser.parse_args()
    if len(options.seeds) < 2:
        parser.error("take two seeds or more")
    console = Console()
    runs = {seed: options.out / f"seed-{seed}" for seed in options.seeds}
    for seed, run in runs.items():
        if not (run / "sensitivity" / SENSITIVITY).is_file():
            console.rule(f"Seed {seed}")
            quickstart(run, rows=options.rows, seed=seed, full=True, console=console)
    results = {
        loss: {
            "run": over_seeds({seed: run_figures(run / loss) for seed, run in runs.items()}),
            "plans": over_seeds({seed: plan_figures(run, loss) for seed, run in runs.items()}),
        }
        for loss in LOSSES
    }
    write_json(options.out / "results.json", results)
    view = Group(
        table("Reward shifts in the last quarter of the steps", results, "run", RUN_FIGURES),
        "",
        table("Held-out plans, difference from PICD", results, "plans", PLAN_FIGURES),
    )
    with atomic_write(options.out / "results.txt") as temporary:
        temporary.write_text(plain_text(view), encoding="utf-8")
    console.print(view)
    console.print(f"Finished. The result is in {options.out}: results.txt, results.json, seed-N/")


def run_figures(run: Path) -> dict[str, float]:
    """Means over the last quarter of the steps, and how the rejected plan still moves."""
    steps = [record for record in read_log(run / "log.jsonl") if record["kind"] == "step"]
    last = steps[-(len(steps) // 4) :]
    figures = {
        name: statistics.fmean(record[name] for record in last)
        for name in RUN_FIGURES
        if name != "rejected_slope"
    }
    half = steps[len(steps) // 2 :]
    shifts = [record["rewards/rejected"] for record in half]
    slope = np.polyfit([record["step"] for record in half], shifts, deg=1)[0]
    return figures | {"rejected_slope": 10 * float(slope)}


def plan_figures(run: Path, loss: str) -> dict[str, float]:
    """Mean differences from PICD on the held-out pairs."""
    difference = read_json(run / "sensitivity" / SENSITIVITY)[loss]["difference"]
    return {key: difference[group][key]["mean"] for group, key in PLAN_FIGURES}


def over_seeds(by_seed: Mapping[int, Mapping[str, float]]) -> dict[str, Figure]:
    """Mean, 95% t-interval of the mean, least and greatest, and each seed's value."""
    names = next(iter(by_seed.values()))
    found: dict[str, Figure] = {}
    for name in names:
        values = [figures[name] for figures in by_seed.values()]
        found[name] = {
            "mean": statistics.fmean(values),
            "interval": list(t_interval(np.asarray(values))),
            "least": min(values),
            "greatest": max(values),
            "seeds": dict(zip(map(str, by_seed), values, strict=True)),
        }
    return found


def table(
    title: str,
    results: Mapping[str, Any],
    group: str,
    rows: Mapping[str, str] | Mapping[tuple[str, str], str],
) -> Table:
    """One row a figure, one column a loss: mean [interval], and below it least to greatest."""
    losses: Sequence[str] = list(results)
    shown = Table(title=title, title_justify="left")
    shown.add_column("")
    for loss in losses:
        shown.add_column(f"{loss}\nmean [95%], seeds", justify="right", no_wrap=True)
    for key, words in rows.items():
        name = key if isinstance(key, str) else key[1]
        cells = []
        for loss in losses:
            figure = results[loss][group][name]
            low, high = figure["interval"]
            seeds = f"{figure['least']:+.3f} to {figure['greatest']:+.3f}"
            cells.append(f"{figure['mean']:+.3f} [{low:+.3f}, {high:+.3f}]\n{seeds}")
        shown.add_row(words, *cells)
    return shown


if __name__ == "__main__":
    main()
