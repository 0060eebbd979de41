"""The objective of supervised training: negative log-likelihood by section of the response."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import jax.numpy as jnp
from jax import Array

from gplan_jax.models import Qwen3
from gplan_jax.models.qwen3.model import LayeredContext
from gplan_jax.objectives.section_loss import (
    section_counts,
    section_loss_sums,
    section_metrics,
    section_weights,
    token_weights,
)
from gplan_jax.training.steps.step import DeviceBatch, Metrics
from gplan_jax.training.steps.target_nll import target_nll
from gplan_jax.training.steps.train_config import LossConfig


@dataclass(frozen=True)
class SectionObjective:
    """Mean token losses of reasoning and plan, by weight.

    Attributes:
        config: section weights and vocabulary slice.
        average: "sections" for the section-normalized loss (PICD, equation 5), "tokens" for the
            mean over all response tokens (Direct-SFT, CoT-SFT).
    """

    config: LossConfig
    average: Literal["sections", "tokens"]
    row_fields: ClassVar[tuple[str, ...]] = (
        "tokens",
        "lengths",
        "targets",
        "target_positions",
        "sections",
    )

    def scales(self, batch: DeviceBatch) -> tuple[Array, Array]:
        """float32 [2] each: what a token of each section weighs, and how many there are."""
        counts = section_counts(batch["sections"])
        if self.average == "tokens":
            return token_weights(counts), counts
        weights = section_weights(
            counts,
            reasoning_weight=self.config.reasoning_weight,
            plan_weight=self.config.plan_weight,
        )
        return weights, counts

    def sums(self, model: Qwen3, rows: DeviceBatch, contexts: Sequence[LayeredContext]) -> Array:
        """float32 [2]: summed negative log-likelihood of the reasoning and of the plan tokens."""
        nll_BxR = target_nll(model, rows, contexts, vocab_chunk=self.config.vocab_chunk)
        return section_loss_sums(nll_BxR, rows["sections"])

    def loss(self, sums: Array, scales: tuple[Array, Array]) -> Array:
        """The weighted mean."""
        return jnp.sum(sums * scales[0])

    def metrics(self, sums: Array, scales: tuple[Array, Array]) -> Metrics:
        """``loss`` and those of ``section_metrics``."""
        return {"loss": self.loss(sums, scales), **section_metrics(sums, scales[1])}
