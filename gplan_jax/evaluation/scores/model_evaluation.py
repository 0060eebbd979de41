"""From a model directory and a data file to scores, or to the answer for one row.

Training with evaluation begins here, as the loop below calls back into the rooms above it.
"""

from __future__ import annotations

import itertools
import platform
import shutil
import time
from itertools import islice
from pathlib import Path
from typing import Any

import jax

import gplan_jax
from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.data.tasks.registry import load_task
from gplan_jax.data.tasks.task import Example, Mode, Task
from gplan_jax.evaluation.scores.offline import PREDICTIONS, check_rows, evaluate_examples
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows, empty_data_set
from gplan_jax.foundation.files import (
    file_digest,
    read_json,
    read_jsonl,
    refuse_existing,
)
from gplan_jax.gsisr import RowForm, Sample, read_samples
from gplan_jax.gsisr.service import identity_of, record_service
from gplan_jax.inference.engine.planner import Planner
from gplan_jax.inference.prediction.predict import OF_TASK, predict
from gplan_jax.models import Qwen3
from gplan_jax.reasoning import GSISR_LATENTS, LatentVocabulary
from gplan_jax.training.loop.loop import train
from gplan_jax.training.steps.setup import task_of
from gplan_jax.training.steps.train_config import TrainConfig

LOGGED = (
    *("acc1", "ndcg3", "nes", "acc1_tool", "ndcg3_tool"),
    *("latent_valid", "exact", "filter_pass"),
)


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
    ``train_data``; ``planner_options``, those of ``predict``, are kept in metrics.json. Plans are
    made as ``predict`` makes them, into OUT.plans, which goes once they are scored: after a stop
    the same call goes on there.
    """
    refuse_existing(Path(out_dir))
    task = load_task(Path(model), **{name: planner_options.get(name) for name in OF_TASK})
    faulty = faulty or FaultyRows()
    latents = GSISR_LATENTS if isinstance(task, GsisrTask) else ChatEncoder.load(model).latents
    if train_data is not None and not isinstance(task, GsisrTask):
        raise GplanError(
            f"{model} is a model of the task {task.name}, which has no floors to fit on training "
            f"rows; it is scored by {', '.join(task.measures)}."
        )
    examples = labelled_rows(data, task, latents, faulty=faulty, limit=limit)
    train = None
    if train_data is not None:
        rows = labelled_rows(train_data, task, latents, faulty=faulty)
        train = [example.context for example in rows]
    faulty.report()
    if isinstance(task, GsisrTask):
        check_rows([example.context for example in examples], train, task.library)
    left_out = {error.row for error in faulty.errors if error.file == Path(data)}
    numbers = (number for number in itertools.count(1) if number not in left_out)
    numbered = dict(zip(numbers, examples, strict=False))
    contexts = [(number, row.id, row.context) for number, row in numbered.items()]
    plans, started = Path(f"{out_dir}.plans"), time.monotonic()
    manifest = predict(model, data, plans, contexts=contexts, faulty=faulty, **planner_options)
    texts = {
        answer["row"]: answer["text"]
        for part in manifest.parts or ()
        for answer in read_jsonl(plans / part.file)
        if answer.get("rank", 1) == 1
    }
    if not texts:
        raise empty_data_set(data, faulty.errors)
    run = {
        "model": str(model),
        **planner_options,
        "mode": manifest.run["mode"],
        "task": task.name,
        **(
            {"library": task.library.name, "service": identity_of(task.library)}
            if isinstance(task, GsisrTask)
            else {}
        ),
        **{key: manifest.run[key] for key in ("prompts", "prompt_length", "max_new_tokens")},
        "data": {"file": str(data), "sha256": manifest.run["data"]},
        "train_data": train_data and {"file": str(train_data), "sha256": file_digest(train_data)},
        "limit": limit,
        "rows_skipped": sum(error.file == Path(data) for error in faulty.errors),
        "seconds_of_decoding": round(time.monotonic() - started, 1),
        **environment(),
    }
    metrics = evaluate_examples(
        task,
        [numbered[number] for number in texts],
        list(texts.values()),
        train,
        ChatEncoder.load(model),
        out_dir,
        run=run,
        free=manifest.run["mode"] == "unconstrained",
    )
    shutil.rmtree(plans)
    if isinstance(task, GsisrTask):
        record_service(task.library, Path(out_dir) / PREDICTIONS)
    return metrics


def labelled_rows(
    path: str | Path,
    task: Task,
    latents: LatentVocabulary,
    *,
    faulty: FaultyRows | None = None,
    limit: int | None = None,
) -> list[Example]:
    """The first ``limit`` rows whose labels are right: a wrong label makes wrong figures."""
    return list(islice(task.read(path, latents, faulty), limit))


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
    path: str | Path,
    *,
    row: int | None = None,
    prompt_id: str | None = None,
    form: RowForm | None = None,
) -> Sample:
    """The sample in ``row`` (counted from 1), or the first with ``prompt_id``; else GplanError."""
    seen = 0
    for seen, sample in enumerate(read_samples(path, form=form), start=1):
        if seen == row or (row is None and sample.id == prompt_id):
            return sample
    wanted = f"row {row}" if row is not None else f"row with id {prompt_id}"
    raise GplanError(f"{path} has no {wanted}; its {seen} rows are counted from 1.")


def read_context(path: str | Path, form: RowForm | None = None) -> Sample:
    """A sample from a JSON object of column -> text; columns that are not given are empty."""
    context = read_json(path)
    if not isinstance(context, dict) or not all(isinstance(v, str) for v in context.values()):
        raise GplanError(f"{path} must be a JSON object whose values are texts, column by column.")
    try:
        return Sample.from_context(context, form)
    except GplanError as error:
        raise GplanError(f"{path}: {error}") from None


def train_and_evaluate(
    config: TrainConfig, *, resume: bool = False, allow_changes: bool = False
) -> Path:
    """Trains, evaluating on ``data.test`` as the config says; returns the model directory."""
    if not config.evaluation.every_epochs:
        return train(config, resume=resume, allow_changes=allow_changes)
    task = task_of(config)
    logged = [
        name
        for name in (LOGGED if isinstance(task, GsisrTask) else task.measures)
        if name != "latent_valid" or task.has_latents
    ]
    if config.checkpoint.keep_best and config.checkpoint.best_metric not in logged:
        raise GplanError(
            f"checkpoint.best_metric={config.checkpoint.best_metric} is no figure of an evaluation "
            f"of data.task={task.name}; there are {', '.join(logged)}."
        )
    if config.data.test is None:
        raise GplanError(
            "evaluation.every_epochs is set, but data.test names no rows: give data.test=FILE, "
            "or set evaluation.every_epochs=0."
        )
    encoder, faulty = ChatEncoder.load(config.model), FaultyRows(config.data.on_error)
    limit = config.evaluation.limit
    examples = labelled_rows(config.data.test, task, encoder.latents, faulty=faulty, limit=limit)
    faulty.report()
    samples, train_samples = [example.context for example in examples], None
    if isinstance(task, GsisrTask):
        # Pairs are no rows to fit floors on.
        if Mode(config.mode) is not Mode.SCDPO:
            faulty = FaultyRows(config.data.on_error)
            rows = labelled_rows(config.data.train, task, encoder.latents, faulty=faulty)
            train_samples = [example.context for example in rows]
        # What would stop the evaluation is better found before an epoch than after it.
        check_rows(samples, train_samples, task.library)

    def score(model: Qwen3, task: Task, folder: Path) -> dict[str, float]:
        planner = Planner(
            model,
            encoder,
            task,
            max_new_tokens=config.evaluation.max_new_tokens,
            batch_size=config.evaluation.batch_size,
        )
        texts = planner.generate(samples)
        metrics = evaluate_examples(task, examples, texts, train_samples, encoder, folder)
        return {name: metrics["model"][name] for name in logged}

    return train(config, resume=resume, allow_changes=allow_changes, evaluate=score)
