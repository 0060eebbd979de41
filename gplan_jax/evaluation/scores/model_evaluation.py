"""From a model directory and a data file to scores, or to the answer for one row."""

from __future__ import annotations

import platform
import time
from itertools import islice
from pathlib import Path
from typing import Any

import jax

import gplan_jax
from gplan_jax.data.task_files import load_task
from gplan_jax.evaluation.scores.offline import check_rows, evaluate
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import file_digest, read_json, refuse_existing
from gplan_jax.gsisr import IntentLibrary, Sample, read_labelled_samples, read_samples
from gplan_jax.inference.engine.planner import Planner


def evaluate_model(
    model: str | Path,
    data: str | Path,
    out_dir: str | Path,
    *,
    train_data: str | Path | None = None,
    limit: int | None = None,
    faulty: FaultyRows | None = None,
    **planner_options: Any,
) -> dict[str, Any]:
    """Plans the rows of ``data`` and evaluates the answers into ``out_dir``; returns the metrics.

    All that can be wrong with the input is found before the model starts. The floors are fitted on
    ``train_data``; ``planner_options``, those of ``Planner.load``, are kept in metrics.json.
    """
    refuse_existing(Path(out_dir))
    library = load_task(Path(model), library=planner_options.get("library")).library
    faulty = faulty or FaultyRows()
    samples = labelled_rows(data, library, faulty=faulty, limit=limit)
    train = None
    if train_data is not None:
        train = labelled_rows(train_data, library, faulty=faulty)
    faulty.report()
    check_rows(samples, train, library)
    planner = Planner.load(model, **planner_options)
    started = time.monotonic()
    texts = planner.generate(samples)
    run = {
        "model": str(model),
        **planner_options,
        "prompt_length": planner.task.prompt_length,
        "max_new_tokens": planner.max_new_tokens,
        "library": planner.library.name,
        "data": {"file": str(data), "sha256": file_digest(data)},
        "train_data": train_data and {"file": str(train_data), "sha256": file_digest(train_data)},
        "limit": limit,
        "rows_skipped": sum(error.file == Path(data) for error in faulty.errors),
        "seconds_of_decoding": round(time.monotonic() - started, 1),
        **environment(),
    }
    latents = planner.encoder.latents
    return evaluate(samples, texts, train, planner.library, out_dir, latents=latents, run=run)


def labelled_rows(
    path: str | Path,
    library: IntentLibrary,
    *,
    faulty: FaultyRows | None = None,
    limit: int | None = None,
) -> list[Sample]:
    """The first ``limit`` rows whose labels are right: a wrong label makes wrong figures."""
    pairs = read_labelled_samples(path, library, faulty=faulty)
    return [sample for sample, _ in islice(pairs, limit)]


def environment() -> dict[str, Any]:
    """What the figures were computed with: versions, and the devices that JAX uses."""
    devices = jax.devices()
    return {
        "gplan_jax": gplan_jax.__version__,
        "jax": jax.__version__,
        "python": platform.python_version(),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
    }


def find_sample(
    path: str | Path, *, row: int | None = None, prompt_id: str | None = None
) -> Sample:
    """The sample in ``row`` (counted from 1), or the first with ``prompt_id``; else GplanError."""
    seen = 0
    for seen, sample in enumerate(read_samples(path), start=1):
        if seen == row or (row is None and sample.id == prompt_id):
            return sample
    wanted = f"row {row}" if row is not None else f"row with id {prompt_id}"
    raise GplanError(f"{path} has no {wanted}; its {seen} rows are counted from 1.")


def read_context(path: str | Path) -> Sample:
    """A sample from a JSON object of column -> text; columns that are not given are empty."""
    context = read_json(path)
    if not isinstance(context, dict) or not all(isinstance(v, str) for v in context.values()):
        raise GplanError(f"{path} must be a JSON object whose values are texts, column by column.")
    try:
        return Sample.from_context(context)
    except GplanError as error:
        raise GplanError(f"{path}: {error}") from None
