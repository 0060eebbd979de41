"""Planners as arms of a comparison: GPlan itself, trained in each of its ways.

`picd` is the method; `pause` has the same latent tokens but sees no reasoning, so what PICD gains
beyond it is what the reasoning taught; `direct_sft` has neither. All begin with the same random
weights and take the same number of epochs. Without a pretrained checkpoint they say how the ways of
training compare, not how good GPlan is.
"""

from __future__ import annotations

import functools
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from gplan_jax.baselines.fitting.arms import Arm, Fitted
from gplan_jax.baselines.fitting.network import count_parameters
from gplan_jax.baselines.rows.features import InputMode, history_only
from gplan_jax.data.tasks.task import Mode
from gplan_jax.foundation.config import Config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import json_digest, read_jsonl
from gplan_jax.foundation.paths import PathText, alone_in
from gplan_jax.gsisr import (
    IntentLibrary,
    Sample,
    Service,
    canonical_plan,
    parse_plan,
    training_texts,
    write_samples,
)
from gplan_jax.inference.engine.planner import Planner
from gplan_jax.models.checkpoints.tiny import write_tiny_model
from gplan_jax.objectives.preference import PreferenceLoss
from gplan_jax.reasoning import GSISR_LATENTS, split_response, write_trace
from gplan_jax.synthesis.pairs.counterfactuals import write_counterfactuals
from gplan_jax.synthesis.rules.service_rules import ServiceRules
from gplan_jax.training.loop.loop import train
from gplan_jax.training.steps.train_config import DType, TrainConfig

Schedule = Literal["calr", "cosine", "constant"]


class PlannerSettings(Config):
    """A small Qwen3 from random weights and its training; rates as in configs/gsisr_small.yaml."""

    model: PathText | None = None  # a model directory to start from in place of random weights
    template: str = "compact"
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
    warmup_ratio: float = 0.02
    weight_decay: float = 0.1
    b2: float = 0.98
    max_length: int = 512
    length_multiple: int = 64
    max_new_tokens: int = 256  # reasoning in words has up to 232 in the simulated world
    compute: DType = "float32"
    remat: Literal["none", "full"] = "none"
    preference_lr: float = 2e-5  # of the arms that go on with pairs of contexts, for one epoch
    pairs_of_a_row: int = 2


TRIALS: tuple[dict[str, Any], ...] = (
    {},
    {"learning_rate": 2e-3, "polish_lr": 1e-3},
    {"epochs": 16, "epochs_per_stage": 1},
    {"weight_decay": 0.3},
)


@dataclass(frozen=True)
class PlannerRecipe:
    """A way of training: on rows, then, where ``preference`` is given, on pairs of contexts."""

    mode: Mode
    schedule: Schedule = "calr"
    preference: PreferenceLoss | None = None

    @property
    def run_name(self) -> str:
        """The folder of its last run."""
        return "-".join(filter(None, (self.mode.value, self.schedule, self.preference)))


@dataclass(frozen=True)
class PlannerPredictor:
    """A trained planner that answers as an arm does."""

    planner: Planner
    mode: InputMode

    @property
    def parameters(self) -> int:
        return count_parameters(self.planner.model)

    def predict(self, samples: Sequence[Sample], *, constrained: bool) -> list[str]:
        """Greedy plans held to the grammar, or free answers as they are, latent tokens included."""
        shown = [_shown(sample, self.mode) for sample in samples]
        if not constrained:
            return self.planner.generate(shown)
        texts = replace(self.planner, mode="constrained").generate(shown)
        library = self.planner.library
        return [canonical_plan(parse_plan(text, library), library) for text in texts]


def planner_arm(name: str, title: str, recipe: PlannerRecipe, runs: Path | None = None) -> Arm:
    """The arm that trains a planner by a recipe.

    ``runs`` keeps every run under a hash of what it depends on: one that was stopped goes on there,
    and arms share what they have in common, as SC-DPO does the PICD model that it begins with.
    """
    fit = functools.partial(fit_planner, recipe, runs)  # Pickled on its way to another process.
    # No grammar describes reasoning in words: there the plans are those of the free answers.
    constrains = recipe.mode.response != "reasoning"
    return Arm(name, title, PlannerSettings, TRIALS, fit, stops_early=False, constrains=constrains)


def fit_planner(
    recipe: PlannerRecipe,
    runs: Path | None,
    samples: Sequence[Sample],
    validation: Sequence[Sample],
    *arguments: Any,
) -> Fitted:
    """Trains for all epochs: a curriculum can't stop early, so ``validation`` isn't used."""
    del validation
    settings, mode, library, seed = arguments
    if library.folder is None:
        raise GplanError(f"The library {library.name} is of no service; name one with --service.")
    service = Service.load(library.folder)
    rules = functools.cache(lambda: ServiceRules(library))  # not asked where rows have reasoning
    rows = [_row(sample, mode, library, rules) for sample in samples]
    facts = [
        settings.model_dump(mode="json"),
        library.model_dump(mode="json"),
        [(row.id, row.raw_labels) for row in rows],
        seed,
    ]
    with _kept(runs, json_digest(facts)[:16]) as folder:
        data, start = folder / "train.csv", Path(settings.model or folder / "start")
        of_data = {
            "train": str(data),
            "cache": str(folder / "tokens"),
            "service": str(service.folder),
            "template": settings.template,
            "max_length": settings.max_length,
            "length_multiple": settings.length_multiple,
            "response_multiple": 64,
        }

        def trained(run: Path, values: dict[str, Any]) -> Path:
            """The model of ``run``, whose config holds these values."""
            precision = {"params": "float32", "compute": settings.compute, "remat": settings.remat}
            config = {
                "output": str(run),
                "batch_size": settings.batch_size,
                "seed": seed,
                "data": of_data,
                "precision": precision,
                **values,
            }
            resume = (run / "config.yaml").is_file()
            return train(TrainConfig.model_validate(config), resume=resume)

        # On the rows, from the start weights that the runs of this folder share.
        if not data.is_file():
            write_samples(data, rows)
        if settings.model is None and not start.is_dir():
            write_tiny_model(
                start,
                training_texts(rows, service.template(settings.template), library),
                new_tokens=GSISR_LATENTS.tokens,
                metadata={"latents": GSISR_LATENTS.to_dict()},
                seed=seed,
                layers=settings.layers,
                hidden_size=settings.hidden_size,
                heads=settings.heads,
                kv_heads=1,
                head_dim=settings.head_dim,
            )
        run = folder / replace(recipe, preference=None).run_name
        model = trained(
            run,
            {
                "mode": recipe.mode.value,
                "model": str(start),
                "epochs": settings.epochs,
                "epochs_per_stage": settings.epochs_per_stage,
                "optimizer": {
                    "schedule": recipe.schedule,
                    "learning_rate": settings.learning_rate,
                    "polish_lr": settings.polish_lr,
                    "target_blocks": settings.target_blocks,
                    "warmup_ratio": settings.warmup_ratio,
                    "weight_decay": settings.weight_decay,
                    "b2": settings.b2,
                },
            },
        )

        # One epoch over context pairs of the training rows, from that model.
        if recipe.preference:
            pairs, run = folder / "pairs.jsonl", folder / recipe.run_name
            if not pairs.is_file():
                count = settings.pairs_of_a_row
                write_counterfactuals(data, pairs, library, per_anchor=count, seed=seed)
            rate = {"learning_rate": settings.preference_lr, "warmup_ratio": 0.03}
            kept = str(folder / "reference")
            model = trained(
                run,
                {
                    "mode": Mode.SCDPO.value,
                    "model": str(model),
                    "epochs": 1,
                    "data": of_data | {"train": str(pairs), "length_multiple": 128},
                    "optimizer": {"schedule": "constant", **rate},
                    "preference": {"loss": recipe.preference, "reference_cache": kept},
                },
            )
        planner = Planner.load(model, max_new_tokens=settings.max_new_tokens, batch_size=64)
        losses: defaultdict[int, list[float]] = defaultdict(list)
        for record in read_jsonl(run / "log.jsonl"):
            if record["kind"] == "step":
                losses[record["epoch"] + 1].append(record["loss"])
        curve = [
            {"epoch": epoch, "loss": sum(values) / len(values), "validation_loss": None}
            for epoch, values in sorted(losses.items())
        ]
        return Fitted(PlannerPredictor(planner, mode), curve)


DIRECT_SFT = planner_arm(
    "direct_sft", "Direct-SFT, small planner", PlannerRecipe(Mode.DIRECT_SFT, "cosine")
)
COT_SFT = planner_arm("cot_sft", "CoT-SFT, small planner", PlannerRecipe(Mode.COT_SFT, "cosine"))
PAUSE = planner_arm("pause", "Pause tokens, small planner", PlannerRecipe(Mode.PAUSE))
PICD = planner_arm("picd", "PICD, small planner", PlannerRecipe(Mode.PICD))


@contextmanager
def _kept(runs: Path | None, digest: str) -> Iterator[Path]:
    """A folder for runs that have ``digest`` in common; another process waits until it is free."""
    if runs is None:
        with tempfile.TemporaryDirectory(prefix="gplan-arm-") as scratch:
            yield Path(scratch)
        return
    folder = runs / digest
    with alone_in(folder, wait=True):
        folder.mkdir(parents=True, exist_ok=True)
        yield folder


def _shown(sample: Sample, mode: InputMode) -> Sample:
    return history_only(sample) if mode is InputMode.HISTORY else sample


def _row(
    sample: Sample, mode: InputMode, library: IntentLibrary, rules: Callable[[], ServiceRules]
) -> Sample:
    """What is trained on: the row as the mode shows it, with reasoning by the rules from that."""
    shown = _shown(sample, mode)
    plan = parse_plan(sample.raw_labels, library)
    own, _ = split_response(sample.raw_labels)
    if own is not None and mode is InputMode.FULL:
        return shown
    trace = write_trace(rules().trace(shown, plan))
    return shown.with_label(trace + canonical_plan(plan, library))
