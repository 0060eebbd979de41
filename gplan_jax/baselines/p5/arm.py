"""P5 as an arm: text in, text out (Geng et al. 2022, "Recommendation as language processing")."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from pydantic import Field

from gplan_jax.baselines.fitting.network import Batch, FitSettings
from gplan_jax.baselines.fitting.network_arm import FitInput, Recipe, network_arm
from gplan_jax.baselines.p5.text import END, PAD, Text, prompt_fields
from gplan_jax.baselines.t5.model import T5, T5Config
from gplan_jax.baselines.t5.plans import PlanT5, plan_constraint, plan_decoder, plan_loss
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


def p5_recipe(given: FitInput, settings: P5Settings) -> Recipe:
    """How P5 reads rows and writes plans; its words and codes are those of the training rows."""
    library = given.atoms.library

    def fields(samples: Sequence[Sample]) -> list[tuple[str, ...]]:
        return [prompt_fields(sample, given.mode, library) for sample in samples]

    vocabulary = Text.fit(
        fields(given.train.samples),
        given.atoms,
        most_tokens=settings.prompt_tokens,
        least_count=settings.least_count,
    )
    config = T5Config(
        vocabulary_size=vocabulary.size,
        hidden_size=settings.hidden_size,
        heads=settings.heads,
        head_dim=settings.head_dim,
        mlp_size=settings.mlp_size,
        encoder_layers=settings.layers,
        decoder_layers=settings.layers,
        dropout=settings.dropout,
    )
    constraint = plan_constraint(vocabulary.codes, given.mask, vocabulary=vocabulary.size, end=END)

    def inputs(samples: Sequence[Sample]) -> dict[str, np.ndarray]:
        tokens, words = vocabulary.encode(fields(samples))
        return {"tokens": tokens, "words": words}

    return Recipe(
        loss=plan_loss,
        decoding_batch=settings.decoding_batch,
        inputs=inputs,
        targets=lambda plans: {"target": vocabulary.targets(plans)},
        network=lambda rngs: P5Network(config, rngs=rngs),
        decode=plan_decoder(vocabulary.codes, constraint, beams=settings.beams, end=END),
        text=vocabulary.plan_text,
    )


P5 = network_arm(
    "p5",
    "P5",
    P5Settings,
    ({}, {"learning_rate": 1.5e-3}, {"dropout": 0.0}, {"weight_decay": 0.1}),
    p5_recipe,
)
