"""From model directories and files of context pairs to tables and curves of context sensitivity, as
the terminal shows them: several models on the same pairs.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.text import Text

from gplan_jax.data.tasks.gsisr_task import MODEL_MEASURES, GsisrTask
from gplan_jax.evaluation.scores.learning_curves import (
    draw_preference_curves,
    load_pyplot,
    read_preference_logs,
)
from gplan_jax.evaluation.scores.model_evaluation import environment
from gplan_jax.evaluation.scores.offline import METRICS
from gplan_jax.evaluation.scores.score_tables import HEADINGS, cells, run_rows
from gplan_jax.evaluation.sensitivity.measures import (
    Measured,
    ask,
    difference,
    read_folder,
    score_pairs,
    summarize,
    write_folder,
)
from gplan_jax.foundation import files
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.tables import NOTHING, Cell, TextTable, plain_text
from gplan_jax.gsisr import ContextPair, read_context_pairs
from gplan_jax.inference.engine.planner import Planner
from gplan_jax.reasoning import LatentVocabulary

RESULTS, TABLES, CURVES = "results.json", "results.txt", "preference_curves.png"
# What a model's figures depend on, and how a refusal calls it.
IDENTITY = {
    "model": "another model",
    "pairs": "another file of pairs",
    "unchanged": "another file of pairs with equal plans",
    "limit": "another --limit",
    "max_new_tokens": "another --max-new-tokens",
}
PLAN_HEADINGS = {key: words for key, words in HEADINGS.items() if key in MODEL_MEASURES}
PAIR_HEADINGS = {
    "changed": "Changed\n%",
    "stayed": "Stayed\n%",
    "right_context": "Right\ncontext %",
    "exact_own": "Own\nplan %",
    "exact_other": "Other's\nplan %",
}
# What is known without a model; how often one plan for both is the right one depends on the plan.
LANDMARKS = {
    "one plan for both": {"changed": 0.0, "stayed": 1.0, "right_context": 0.5},
    "the teacher": {**dict.fromkeys(PAIR_HEADINGS, 1.0), "exact_other": 0.0},
}


def compare_sensitivity(
    models: Mapping[str, Path],
    pairs: str | Path,
    out: str | Path,
    *,
    unchanged: str | Path | None = None,
    logs: Mapping[str, Path] | None = None,
    limit: int | None = None,
    faulty: FaultyRows | None = None,
    batch_size: int = 16,
    max_new_tokens: int | None = None,
) -> dict[str, dict[str, Any]]:
    """Measures each model on the same pairs; what ``out`` holds already is not planned again.

    Writes OUT/NAME/ for each model, then OUT/results.json (all metrics), OUT/results.txt (their
    tables) and, with ``logs`` of preference runs, OUT/preference_curves.png. All that can be wrong
    with the input is found before the first model starts. The teacher's plans differ in ``pairs``
    and are equal in ``unchanged``. Returns each model's metrics, those of ``summarize`` with "run"
    and, from the second model on, "difference" from the first.
    """
    out, logs = Path(out), logs or {}
    if not models:
        raise GplanError("Name at least one model directory.")
    for name in models:
        if not name or name in (".", "..", RESULTS, TABLES, CURVES) or {"/", "\\"} & set(name):
            raise GplanError(f"{name!r} can't name a model's folder; use NAME=DIR.")
    if unknown := [name for name in logs if name not in models]:
        raise GplanError(
            f"There is no model {', '.join(unknown)} for the log of that name; the models are "
            f"{', '.join(models)}."
        )
    if logs:
        load_pyplot()
        read_preference_logs(logs)
    libraries = {name: GsisrTask.load(at).library for name, at in models.items()}
    one, library = next(iter(libraries.items()))
    if others := [name for name, other in libraries.items() if other != library]:
        raise GplanError(
            f"{one} and {others[0]} have different intent libraries, so their plans can't stand "
            "in one table."
        )
    asked: dict[str, Any] = {
        "pairs": files.file_digest(pairs),
        "unchanged": unchanged and files.file_digest(unchanged),
        "limit": limit,
        "max_new_tokens": max_new_tokens,
    }
    identities = {name: {"model": files.folder_hash(at), **asked} for name, at in models.items()}
    standing = {name for name in models if _stands(out / name, identities[name])}
    faulty = faulty or FaultyRows()
    differ = list(islice(read_context_pairs(pairs, library, plans="differ", faulty=faulty), limit))
    equal: list[ContextPair] = []
    if unchanged:
        found = read_context_pairs(unchanged, library, plans="equal", faulty=faulty)
        equal = list(islice(found, limit))
    faulty.report()
    for name, model in models.items():
        if name in standing:
            continue
        options: dict[str, Any] = {"batch_size": batch_size, "max_new_tokens": max_new_tokens}
        planner = Planner.load(model, **options)
        started = time.monotonic()
        predictions, asked_pairs = ask(differ, equal, planner.generate)
        latents = planner.encoder.latents if planner.task.has_latents else None
        run = {
            "model": str(model),
            "identity": identities[name],
            "pairs": str(pairs),
            "unchanged": unchanged and str(unchanged),
            "pairs_skipped": faulty.total,
            **options,
            "latents": latents and latents.to_dict(),
            "seconds_of_decoding": round(time.monotonic() - started, 1),
            **environment(),
        }
        measured = score_pairs(predictions, asked_pairs, library, latents)
        write_folder(measured, library, out / name, run)

    # What the folders' texts give, those of earlier calls too.
    metrics: dict[str, dict[str, Any]] = {}
    first: tuple[str, Measured] | None = None
    for name in models:
        run = files.read_json(out / name / METRICS)["run"]
        stored = run["latents"]
        measured = read_folder(out / name, library, stored and LatentVocabulary.from_dict(stored))
        metrics[name] = {**summarize(measured), "run": run}
        if first is None:
            first = name, measured
        else:
            metrics[name]["difference"] = {"from": first[0], **difference(first[1], measured)}
    files.write_json(out / RESULTS, metrics)
    files.write_text(out / TABLES, plain_text(sensitivity_view(metrics)))
    if logs:
        draw_preference_curves(logs, out / CURVES)
    return metrics


def _stands(folder: Path, identity: Mapping[str, Any]) -> bool:
    """Whether ``folder`` holds the figures of ``identity``; GplanError where it holds others."""
    if not (folder / METRICS).is_file():
        files.refuse_existing(folder)
        return False
    metrics = files.read_json(folder / METRICS)
    try:
        found = metrics["run"]["identity"]
        other = [words for key, words in IDENTITY.items() if found[key] != identity[key]]
    except (KeyError, TypeError):
        raise GplanError(
            f"{folder / METRICS} is not of gplan sensitivity; name another --out."
        ) from None
    if other:
        raise GplanError(
            f"{folder} was made from {' and '.join(other)}; name another --out, or remove it to "
            "measure again."
        )
    return True


def sensitivity_view(
    runs: Mapping[str, Mapping[str, Any]], *, by_perturbation: bool = True
) -> RenderableType:
    """Tables: figures of the pairs, by perturbation, against the labels, and differences."""
    first = next(iter(runs.values()))
    rows: list[Sequence[Cell] | None] = []
    for name, metrics in runs.items():
        rows += run_rows(name, *_means_and_bounds(metrics["figures"]), PAIR_HEADINGS)
    rows += [None, *([name, *cells(means, PAIR_HEADINGS)] for name, means in LANDMARKS.items())]
    caption = (
        f"Stayed: of {first['pairs']['equal']} pairs whose teacher plans are equal; the others: "
        f"of {first['pairs']['differ']} whose plans differ; {first['anchors']} ids. Below the "
        "line: what a planner that ignores the change gets, and what a perfect one gets."
    )
    headings = ["", *PAIR_HEADINGS.values()]
    tables = [TextTable(headings, rows, title="Context sensitivity", caption=caption)]

    if by_perturbation:
        rows = []
        for perturbation, part in first["by_perturbation"].items():
            pairs = f"{part['pairs']['differ']} + {part['pairs']['equal']}"
            rows += [None, (Text(perturbation, style="bold"), pairs)]
            for name, metrics in runs.items():
                means, _ = _means_and_bounds(metrics["by_perturbation"][perturbation]["figures"])
                rows.append((f"  {name}", "", *cells(means, PAIR_HEADINGS)))
        caption = (
            "Pairs: whose teacher plans differ + whose plans are equal. The intervals, wide for so "
            f"few pairs, are in {METRICS}."
        )
        headings = ["", "Pairs", *PAIR_HEADINGS.values()]
        title = "By perturbation"
        tables.append(TextTable(headings, rows, words=2, keys=2, title=title, caption=caption))

    rows = []
    for name, metrics in runs.items():
        rows += run_rows(name, *_means_and_bounds(metrics["labels"]), PLAN_HEADINGS)
    caption = (
        f"All {first['contexts']} contexts against their own teacher plans. There are no floors "
        "here, for want of training rows; gplan evaluate has them."
    )
    title = "Plans against the teacher's"
    tables.append(TextTable(["", *PLAN_HEADINGS.values()], rows, title=title, caption=caption))

    if compared := {n: m["difference"] for n, m in runs.items() if "difference" in m}:
        rows = []
        for part, words in (("figures", PAIR_HEADINGS), ("labels", PLAN_HEADINGS)):
            rows.append(None)
            for measure, heading in words.items():
                figures = [difference[part].get(measure) for difference in compared.values()]
                name = heading.replace("-\n", "-").replace("\n", " ")
                rows.append([name, *(_difference(heading, figure) for figure in figures)])
        title = f"Difference from {next(iter(compared.values()))['from']}"
        caption = "Mean and 95% interval of the difference pair by pair; * where that excludes 0."
        tables.append(TextTable(["", *compared], rows, title=title, caption=caption))
    parts = [part for table in tables for part in ("", table.rich())]
    return Group(*parts[1:])


def _difference(heading: str, figure: Mapping[str, Any] | None) -> str:
    if figure is None:
        return NOTHING
    scale, digits = (100, 1) if "%" in heading else (1, 3)
    low, high = figure["interval"]
    mean, low, high = (
        f"{scale * value + 0.0:+.{digits}f}" for value in (figure["mean"], low, high)
    )
    sure = "*" if figure["interval"][0] > 0 or figure["interval"][1] < 0 else " "
    return f"{mean} [{low}, {high}]{sure}"


def _means_and_bounds(
    figures: Mapping[str, Mapping[str, Any]],
) -> tuple[dict[str, float], dict[str, list[float]]]:
    means = {measure: figure["mean"] for measure, figure in figures.items()}
    return means, {measure: figure["interval"] for measure, figure in figures.items()}
