"""From model directories and files of context pairs to tables and curves of context sensitivity."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import islice
from pathlib import Path
from typing import Any

from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.evaluation.scores.learning_curves import (
    draw_preference_curves,
    load_pyplot,
    read_preference_logs,
)
from gplan_jax.evaluation.scores.model_evaluation import environment
from gplan_jax.evaluation.scores.offline import METRICS
from gplan_jax.evaluation.sensitivity.measures import (
    Measured,
    ask,
    difference,
    read_folder,
    score_pairs,
    summarize,
    write_folder,
)
from gplan_jax.evaluation.sensitivity.sensitivity_tables import sensitivity_view
from gplan_jax.foundation import files
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.tables import plain_text
from gplan_jax.gsisr import ContextPair, IntentLibrary, read_context_pairs
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
    _check_names(models, logs)
    if logs:
        load_pyplot()
        read_preference_logs(logs)
    library = _common_library(models)
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


def _check_names(models: Mapping[str, Path], logs: Mapping[str, Path]) -> None:
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


def _common_library(models: Mapping[str, Path]) -> IntentLibrary:
    libraries = {name: GsisrTask.load(Path(model)).library for name, model in models.items()}
    first, *rest = libraries
    for name in rest:
        if libraries[name] != libraries[first]:
            raise GplanError(
                f"{first} and {name} have different intent libraries, so their plans can't stand "
                "in one table."
            )
    return libraries[first]
