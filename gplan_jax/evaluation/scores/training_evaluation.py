"""Training with evaluation: the loop below calls back into the rooms above it from here."""

from __future__ import annotations

from pathlib import Path

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.task_files import Mode, Task
from gplan_jax.evaluation.scores.model_evaluation import labelled_rows
from gplan_jax.evaluation.scores.offline import check_rows, evaluate
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import IntentLibrary
from gplan_jax.inference.engine.planner import Planner
from gplan_jax.models import Qwen3
from gplan_jax.training.loop.loop import train
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
    if config.checkpoint.keep_best and config.checkpoint.best_metric not in LOGGED:
        raise GplanError(
            f"checkpoint.best_metric={config.checkpoint.best_metric} is no figure of an "
            f"evaluation; there are {', '.join(LOGGED)}."
        )
    if config.data.test is None:
        raise GplanError(
            "evaluation.every_epochs is set, but data.test names no rows: give data.test=FILE, "
            "or set evaluation.every_epochs=0."
        )
    library, encoder = IntentLibrary.load(config.data.library), ChatEncoder.load(config.model)
    faulty = FaultyRows(config.data.on_error)
    samples = labelled_rows(config.data.test, library, faulty=faulty, limit=config.evaluation.limit)
    faulty.report()
    # Pairs are no rows to fit floors on.
    pairs = Mode(config.mode) is Mode.SCDPO
    train_samples = (
        None
        if pairs
        else labelled_rows(config.data.train, library, faulty=FaultyRows(config.data.on_error))
    )
    # What would stop the evaluation is better found before an epoch than after it.
    check_rows(samples, train_samples, library)

    def score(model: Qwen3, task: Task, folder: Path) -> dict[str, float]:
        planner = Planner(
            model,
            encoder,
            task,
            max_new_tokens=config.evaluation.max_new_tokens,
            batch_size=config.evaluation.batch_size,
        )
        texts = planner.generate(samples)
        metrics = evaluate(samples, texts, train_samples, library, folder)
        return {name: metrics["model"][name] for name in LOGGED}

    return train(config, resume=resume, allow_changes=allow_changes, evaluate=score)
