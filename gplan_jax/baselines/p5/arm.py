"""P5 as an arm: text in, text out (Geng et al. 2022, "Recommendation as language processing")."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from pydantic import Field

from gplan_jax.baselines.fitting.network import Batch, FitSettings, Loss
from gplan_jax.baselines.fitting.network_arm import FitInput, network_arm
from gplan_jax.baselines.p5.text import END, PAD, Text, prompt_fields
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.baselines.t5.beam import Free
from gplan_jax.baselines.t5.model import T5, T5Config
from gplan_jax.baselines.t5.plans import (
    PlanConstraint,
    PlanT5,
    longest_plan,
    plan_constraint,
    plan_loss,
    search_plans,
)
from gplan_jax.gsisr import Sample

WHOLE_WORDS = 64


class P5Settings(FitSettings):
    """P5's sizes (see T5Config), its text, and its beam."""

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
    prompt_tokens: int = Field(default=128, ge=16)  # at most; the first fields go
    least_count: int = Field(default=3, ge=1)  # words that training has less often are unknown
    beams: int = Field(default=4, ge=1)
    decoding_batch: int = Field(default=64, ge=1)


class P5Network(PlanT5):
    """A T5, and a table [WHOLE_WORDS, D] whose row w is added to the source tokens of word w."""

    def __init__(self, config: T5Config, *, rngs: nnx.Rngs) -> None:
        self.t5 = T5(config, rngs=rngs)
        shape = (WHOLE_WORDS, config.hidden_size)
        self.whole_words = nnx.Param(jax.random.normal(rngs.params(), shape))

    def encode(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Reads "tokens" and "words" [B, S]; words beyond the table share its last row."""
        tokens_BxS, words_BxS = batch["tokens"], batch["words"]
        words_BxSxD = self.whole_words[...][jnp.minimum(words_BxS, WHOLE_WORDS - 1)]
        mask_BxS = tokens_BxS != PAD
        return self.t5.encode(self.t5.embed(tokens_BxS) + words_BxSxD, mask_BxS, key), mask_BxS


@dataclass(frozen=True, eq=False)
class P5Recipe:
    """How P5 reads rows and writes plans; its vocabulary is that of the training rows."""

    settings: P5Settings
    mode: InputMode
    vocabulary: Text
    constraint: PlanConstraint

    @classmethod
    def of(cls, given: FitInput, settings: P5Settings) -> P5Recipe:
        """Words and codes from the training rows."""
        library = given.atoms.library
        vocabulary = Text.fit(
            [prompt_fields(sample, given.mode, library) for sample in given.train.samples],
            given.atoms,
            most_tokens=settings.prompt_tokens,
            least_count=settings.least_count,
        )
        constraint = plan_constraint(
            vocabulary.codes, given.mask, vocabulary=vocabulary.size, end=END
        )
        return cls(settings, given.mode, vocabulary, constraint)

    @property
    def loss(self) -> Loss:
        return plan_loss

    @property
    def decoding_batch(self) -> int:
        return self.settings.decoding_batch

    def inputs(self, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
        library = self.vocabulary.library
        prompts = [prompt_fields(sample, self.mode, library) for sample in samples]
        tokens, words = self.vocabulary.encode(prompts)
        return {"tokens": tokens, "words": words}

    def targets(self, plans: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
        return {"target": self.vocabulary.targets(plans)}

    def network(self, rngs: nnx.Rngs) -> P5Network:
        settings = self.settings
        config = T5Config(
            vocabulary_size=self.vocabulary.size,
            hidden_size=settings.hidden_size,
            heads=settings.heads,
            head_dim=settings.head_dim,
            mlp_size=settings.mlp_size,
            encoder_layers=settings.layers,
            decoder_layers=settings.layers,
            dropout=settings.dropout,
        )
        return P5Network(config, rngs=rngs)

    def decode(
        self, graph: nnx.GraphDef, weights: nnx.State, batch: Batch, constrained: bool
    ) -> jax.Array:
        steps = longest_plan(self.vocabulary.codes, self.constraint.mask)
        rule = self.constraint if constrained else Free()
        return search_plans(
            graph, weights, batch, rule, beams=self.settings.beams, steps=steps, end=END
        )

    def text(self, tokens_T: Sequence[int]) -> str:
        """Free plans are read tolerantly and may break rules."""
        return self.vocabulary.plan_text(tokens_T)


P5 = network_arm(
    "p5",
    "P5",
    P5Settings,
    ({}, {"learning_rate": 1.5e-3}, {"dropout": 0.0}, {"weight_decay": 0.1}),
    P5Recipe.of,
)
