"""Small planners as arms of a comparison: GPlan itself, trained in each of its ways.

`picd` is the method; `pause` has the same latent tokens but sees no reasoning, so what PICD gains
beyond it is what the reasoning taught; `direct_sft` has neither. All three begin with the same
random weights and take the same number of epochs. Without a pretrained checkpoint they say how the
ways of training compare, not how good GPlan is.
"""

from __future__ import annotations

import tempfile
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gplan_jax.baselines.fitting.arms import Arm, Fitted
from gplan_jax.baselines.fitting.network import count_parameters
from gplan_jax.baselines.rows.features import InputMode, history_only
from gplan_jax.data.tasks.task import Mode
from gplan_jax.foundation.config import Config
from gplan_jax.foundation.files import read_jsonl
from gplan_jax.gsisr import (
    IntentLibrary,
    PromptTemplate,
    Sample,
    canonical_plan,
    parse_plan,
    training_texts,
    write_samples,
)
from gplan_jax.inference.engine.planner import Planner
from gplan_jax.models import convert_checkpoint
from gplan_jax.models.checkpoints.tiny import write_tiny_checkpoint
from gplan_jax.reasoning import GSISR_LATENTS, split_response, write_trace
from gplan_jax.synthesis.amap.rules import Rules
from gplan_jax.training.loop.loop import train
from gplan_jax.training.steps.train_config import TrainConfig

MAX_NEW_TOKENS = 192
TRAINED = "run"


class PlannerSettings(Config):
    """A small Qwen3 from random weights and its training; rates as in configs/gsisr_small.yaml."""

    template: str = "compact_zh"
    layers: int = 3
    hidden_size: int = 128
    heads: int = 2
    head_dim: int = 64
    epochs: int = 24
    epochs_per_stage: int = 2
    target_blocks: int = 8  # the longest public rows; docs/baselines.md was measured with it
    batch_size: int = 16
    learning_rate: float = 1e-3
    polish_lr: float = 5e-4
    weight_decay: float = 0.1
    max_length: int = 512


TRIALS: tuple[dict[str, Any], ...] = (
    {},
    {"learning_rate": 2e-3, "polish_lr": 1e-3},
    {"epochs": 16, "epochs_per_stage": 1},
    {"weight_decay": 0.3},
)


@dataclass(frozen=True)
class PlannerPredictor:
    """A trained planner that answers as an arm does."""

    planner: Planner
    mode: InputMode

    @property
    def parameters(self) -> int:
        """Numbers in the model."""
        return count_parameters(self.planner.model)

    def predict(self, samples: Sequence[Sample], *, constrained: bool) -> list[str]:
        """Greedy plans, held to the grammar or not; latent tokens are left out of the texts."""
        planner = replace(self.planner, mode="constrained") if constrained else self.planner
        shown = [_shown(sample, self.mode) for sample in samples]
        library = planner.library
        return [canonical_plan(parse_plan(t, library), library) for t in planner.generate(shown)]


def planner_arm(way: Mode, title: str) -> Arm:
    """The arm that trains a small planner in one of GPlan's ways."""

    def fit(
        samples: Sequence[Sample],
        validation: Sequence[Sample],
        settings: PlannerSettings,
        mode: InputMode,
        library: IntentLibrary,
        seed: int,
    ) -> Fitted:
        """Trains for all epochs: a curriculum can't stop early, so ``validation`` isn't used."""
        del validation
        rows = [_row(sample, mode, library) for sample in samples]
        with tempfile.TemporaryDirectory(prefix="gplan-arm-") as scratch:
            folder = Path(scratch)
            model = _train(folder, rows, way, settings, library, seed)
            planner = Planner.load(model, max_new_tokens=MAX_NEW_TOKENS, batch_size=64)
            curve = _curve(folder / TRAINED / "log.jsonl")
        return Fitted(PlannerPredictor(planner, mode), curve)

    return Arm(way.value, title, PlannerSettings, TRIALS, fit, stops_early=False)


DIRECT_SFT = planner_arm(Mode.DIRECT_SFT, "Direct-SFT, small planner")
PAUSE = planner_arm(Mode.PAUSE, "Pause tokens, small planner")
PICD = planner_arm(Mode.PICD, "PICD, small planner")


def _shown(sample: Sample, mode: InputMode) -> Sample:
    return history_only(sample) if mode is InputMode.HISTORY else sample


def _row(sample: Sample, mode: InputMode, library: IntentLibrary) -> Sample:
    """What is trained on: the row as the mode shows it, with reasoning by the rules from that."""
    shown = _shown(sample, mode)
    plan = parse_plan(sample.raw_labels, library)
    own, _ = split_response(sample.raw_labels)
    if own is not None and mode is InputMode.FULL:
        return shown
    trace = write_trace(Rules(library).trace(shown, plan))
    return shown.with_label(trace + canonical_plan(plan, library))


def _train(
    folder: Path,
    rows: Sequence[Sample],
    way: Mode,
    settings: PlannerSettings,
    library: IntentLibrary,
    seed: int,
) -> Path:
    """The finished model directory under ``folder``."""
    write_samples(folder / "train.csv", rows)
    library.save(folder / "library.yaml")
    write_tiny_checkpoint(
        folder / "hugging_face",
        training_texts(rows, PromptTemplate.load(settings.template), library),
        layers=settings.layers,
        hidden_size=settings.hidden_size,
        heads=settings.heads,
        kv_heads=1,
        head_dim=settings.head_dim,
        seed=seed,
    )
    convert_checkpoint(
        folder / "hugging_face",
        folder / "start",
        new_tokens=GSISR_LATENTS.tokens,
        metadata={"latents": GSISR_LATENTS.to_dict()},
        seed=seed,
    )
    config = TrainConfig.model_validate(
        {
            "mode": way.value,
            "model": str(folder / "start"),
            "output": str(folder / TRAINED),
            "epochs": settings.epochs,
            "epochs_per_stage": settings.epochs_per_stage,
            "batch_size": settings.batch_size,
            "seed": seed,
            "data": {
                "train": str(folder / "train.csv"),
                "library": str(folder / "library.yaml"),
                "template": settings.template,
                "max_length": settings.max_length,
                "length_multiple": 64,
                "response_multiple": 64,
            },
            "optimizer": {
                "schedule": "calr" if way.has_curriculum else "cosine",
                "learning_rate": settings.learning_rate,
                "polish_lr": settings.polish_lr,
                "target_blocks": settings.target_blocks,
                "warmup_ratio": 0.02,
                "weight_decay": settings.weight_decay,
                "b2": 0.98,
            },
            "precision": {"params": "float32", "compute": "float32", "remat": "none"},
        }
    )
    return train(config)


def _curve(log: Path) -> list[dict[str, Any]]:
    """Mean loss of the steps of each epoch, counted from 1."""
    losses: defaultdict[int, list[float]] = defaultdict(list)
    for record in read_jsonl(log):
        if record["kind"] == "step":
            losses[record["epoch"] + 1].append(record["loss"])
    return [
        {"epoch": epoch, "loss": sum(values) / len(values), "validation_loss": None}
        for epoch, values in sorted(losses.items())
    ]
