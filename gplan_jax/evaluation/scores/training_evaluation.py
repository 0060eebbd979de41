"""Training with evaluation: the loop below calls back into the rooms above it from here."""

from __future__ import annotations

from pathlib import Path

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.data.tasks.task import Mode, Task
from gplan_jax.evaluation.scores.model_evaluation import labelled_rows
from gplan_jax.evaluation.scores.offline import check_rows, evaluate_examples
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.inference.engine.planner import Planner
from gplan_jax.models import Qwen3
from gplan_jax.training.loop.loop import train
from gplan_jax.training.steps.setup import task_of
from gplan_jax.training.steps.train_config import TrainConfig

LOGGED = (
    *("acc1", "ndcg3", "nes", "acc1_tool", "ndcg3_tool"),
    *("latent_valid", "exact", "filter_pass"),
)


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
