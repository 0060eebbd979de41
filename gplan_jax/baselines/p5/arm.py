"""P5 as an arm: text in, text out (Geng et al. 2022, "Recommendation as language processing")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from flax import nnx
from pydantic import Field

from gplan_jax.baselines.fitting.arms import Arm, Fitted
from gplan_jax.baselines.fitting.network import (
    FitSettings,
    batches_of,
    count_parameters,
    fit_network,
)
from gplan_jax.baselines.p5.model import P5Network, generate, p5_loss
from gplan_jax.baselines.p5.prompt import prompt_fields
from gplan_jax.baselines.p5.text import END, Text
from gplan_jax.baselines.rows.atoms import Atoms, labelled_rows
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.baselines.rows.plan_mask import plan_mask
from gplan_jax.baselines.t5 import (
    Free,
    PlanConstraint,
    T5Config,
    longest_plan,
    plan_constraint,
)
from gplan_jax.gsisr import IntentLibrary, Sample


class P5Settings(FitSettings):
    """P5's sizes (see T5Config), its text, and its beam.

    Attributes:
        prompt_tokens: a prompt's tokens at most; the first fields go.
        least_count: words that come less often in the training prompts are unknown.
        beams: hypotheses of a row.
        decoding_batch: rows that are decoded at a time.
    """

    epochs: int = Field(default=18, ge=1)
    batch_size: int = Field(default=32, ge=1)
    learning_rate: float = Field(default=3e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    hidden_size: int = 64
    heads: int = 4
    head_dim: int = 16
    mlp_size: int = 128
    layers: int = 2
    dropout: float = Field(default=0.05, ge=0, lt=1)
    prompt_tokens: int = Field(default=128, ge=16)
    least_count: int = Field(default=3, ge=1)
    beams: int = Field(default=4, ge=1)
    decoding_batch: int = Field(default=64, ge=1)

    def network(self, vocabulary_size: int) -> T5Config:
        """The shape of the T5."""
        return T5Config(
            vocabulary_size=vocabulary_size,
            hidden_size=self.hidden_size,
            heads=self.heads,
            head_dim=self.head_dim,
            mlp_size=self.mlp_size,
            encoder_layers=self.layers,
            decoder_layers=self.layers,
            dropout=self.dropout,
        )


@dataclass(frozen=True, eq=False)
class P5Predictor:
    """A fitted P5."""

    network: P5Network
    text: Text
    constraint: PlanConstraint
    settings: P5Settings
    mode: InputMode

    @property
    def parameters(self) -> int:
        """How many numbers were learnt."""
        return count_parameters(self.network)

    def predict(self, samples: Sequence[Sample], *, constrained: bool) -> list[str]:
        """A plan text for each row; free ones are read tolerantly and may break rules."""
        if not samples:
            return []
        graph, state = nnx.split(self.network)
        constraint = self.constraint if constrained else Free()
        steps = longest_plan(self.text.codes, self.constraint.mask)
        tokens, words = self.text.encode(_prompts(samples, self.mode, self.text.library))
        texts: list[str] = []
        for batch, rows in batches_of(
            {"tokens": tokens, "words": words}, self.settings.decoding_batch
        ):
            found = generate(
                graph,
                state,
                batch["tokens"],
                batch["words"],
                constraint,
                beams=self.settings.beams,
                steps=steps,
            )
            texts += [self.text.plan_text(row) for row in np.asarray(found)[:rows]]
        return texts


def fit(
    train: Sequence[Sample],
    validation: Sequence[Sample],
    settings: P5Settings,
    mode: InputMode,
    library: IntentLibrary,
    seed: int,
) -> Fitted:
    """Fits P5 on the rows with usable plans; the vocabulary is that of the training rows.

    Without validation rows the last epoch's weights are kept.

    Raises:
        GplanError: no training row has a usable plan, or what ``fit_network`` raises.
    """
    atoms = Atoms.of(library)
    rules = plan_mask(atoms)
    rows = labelled_rows(train, atoms)
    prompts = _prompts(rows.samples, mode, library)
    text = Text.fit(
        prompts, atoms, most_tokens=settings.prompt_tokens, least_count=settings.least_count
    )
    constraint = plan_constraint(text.codes, rules, vocabulary=text.size, end=END)
    judged = None
    if validation:
        held_out = labelled_rows(validation, atoms)
        judged = _arrays(text, _prompts(held_out.samples, mode, library), held_out.plans)
    network, curve = fit_network(
        P5Network(settings.network(text.size), rngs=nnx.Rngs(seed)),
        p5_loss,
        _arrays(text, prompts, rows.plans),
        judged,
        settings,
        seed,
    )
    predictor = P5Predictor(network, text, constraint, settings, mode)
    return Fitted(predictor, curve)


P5 = Arm(
    name="p5",
    title="P5",
    settings=P5Settings,
    trials=({}, {"learning_rate": 1.5e-3}, {"dropout": 0.0}, {"weight_decay": 0.1}),
    fit=fit,
)


def _prompts(
    samples: Sequence[Sample], mode: InputMode, library: IntentLibrary
) -> list[tuple[str, ...]]:
    return [prompt_fields(sample, mode, library) for sample in samples]


def _arrays(
    text: Text, prompts: Sequence[Sequence[str]], plans: Sequence[Sequence[int]]
) -> dict[str, np.ndarray]:
    tokens, words = text.encode(prompts)
    return {"tokens": tokens, "words": words, "target": text.targets(plans)}
