"""What training minimises: section losses of samples, or preferences between plans of pairs.

An objective is linear in sums over rows. So micro-batches simply add up, and what the sums are
divided by (``scales``) is asked of the whole batch once.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, TypeVar

import jax.numpy as jnp
from flax import struct
from jax import Array

from gplan_jax.data.batches import CHOSEN, REJECTED, PairRows, SampleRows
from gplan_jax.data.tasks.task import Mode
from gplan_jax.models import Qwen3
from gplan_jax.models.layers.vocabulary import vocabulary_nll
from gplan_jax.models.qwen3.model import LayeredContext
from gplan_jax.objectives.preference import preference_terms
from gplan_jax.objectives.section_loss import (
    section_counts,
    section_loss_sums,
    section_metrics,
    section_weights,
    token_weights,
)
from gplan_jax.training.steps.train_config import LossConfig, PreferenceConfig, TrainConfig

Metrics = dict[str, Array]
Rows = TypeVar("Rows", bound=SampleRows | PairRows, contravariant=True)
Sums = TypeVar("Sums")
Scales = TypeVar("Scales")


class Objective(Protocol[Rows, Sums, Scales]):
    """A loss that is linear in sums over rows."""

    def scales(self, rows: Rows) -> Scales:
        """What the sums are divided by or weighed with, of all rows of a batch."""

    def sums(self, model: Qwen3, rows: Rows, contexts: Sequence[LayeredContext]) -> Sums:
        """Sums over some rows; ``contexts`` is what every row continues."""

    def loss(self, sums: Sums, scales: Scales) -> Array:
        """The scalar loss, linear in the sums."""

    def metrics(self, sums: Sums, scales: Scales) -> Metrics:
        """Scalars to log, the loss among them."""


def make_objective(config: TrainConfig) -> SectionObjective | PreferenceObjective:
    """What a config's mode minimises."""
    mode = Mode(config.mode)
    if mode is Mode.SCDPO:
        return PreferenceObjective(config.preference, vocab_chunk=config.loss.vocab_chunk)
    return SectionObjective(config.loss, "sections" if mode.has_curriculum else "tokens")


@struct.dataclass
class SectionScales:
    """What a token of each section weighs, and how many there are; float32 [2] each."""

    weights_2: Array
    counts_2: Array


@dataclass(frozen=True)
class SectionObjective:
    """Mean token losses of reasoning and plan, by weight; its sums are float32 [2]."""

    config: LossConfig  # section weights and vocabulary slice
    # "sections" for the section-normalized loss (PICD, equation 5), "tokens" for the mean over
    # all response tokens (Direct-SFT, CoT-SFT)
    average: Literal["sections", "tokens"]

    def scales(self, rows: SampleRows) -> SectionScales:
        counts_2 = section_counts(rows.sections_BxR)
        if self.average == "tokens":
            return SectionScales(token_weights(counts_2), counts_2)
        weights_2 = section_weights(
            counts_2,
            reasoning_weight=self.config.reasoning_weight,
            plan_weight=self.config.plan_weight,
        )
        return SectionScales(weights_2, counts_2)

    def sums(self, model: Qwen3, rows: SampleRows, contexts: Sequence[LayeredContext]) -> Array:
        nll_BxR = target_nll(model, rows, contexts, vocab_chunk=self.config.vocab_chunk)
        return section_loss_sums(nll_BxR, rows.sections_BxR)

    def loss(self, sums: Array, scales: SectionScales) -> Array:
        return jnp.sum(sums * scales.weights_2)

    def metrics(self, sums: Array, scales: SectionScales) -> Metrics:
        return {"loss": self.loss(sums, scales), **section_metrics(sums, scales.counts_2)}


@dataclass(frozen=True)
class PreferenceObjective:
    """The mean preference loss of SC-DPO and its family over the two directions of all pairs.

    Its sums are those of every term of ``preference_terms``, its scale the number of preferences.
    """

    config: PreferenceConfig
    vocab_chunk: int

    def scales(self, rows: PairRows) -> Array:
        return jnp.maximum(jnp.sum(_holds_pair(rows)), 1).astype(jnp.float32)

    def sums(
        self, model: Qwen3, rows: PairRows, contexts: Sequence[LayeredContext]
    ) -> dict[str, Array]:
        policy_Nx2x2 = pair_log_probs(model, rows, contexts, vocab_chunk=self.vocab_chunk)
        reference_Nx2x2 = rows.reference_Nx2x2
        terms = preference_terms(
            self.config.loss,
            policy_Nx2x2[..., CHOSEN],
            policy_Nx2x2[..., REJECTED],
            reference_Nx2x2[..., CHOSEN],
            reference_Nx2x2[..., REJECTED],
            self.config,
        )
        there_Nx2 = _holds_pair(rows)
        return {name: jnp.sum(jnp.where(there_Nx2, term, 0.0)) for name, term in terms.items()}

    def loss(self, sums: dict[str, Array], scales: Array) -> Array:
        return sums["loss"] / scales

    def metrics(self, sums: dict[str, Array], scales: Array) -> Metrics:
        return {name: total / scales for name, total in sums.items()}


def target_nll(
    model: Qwen3, rows: SampleRows, contexts: Sequence[LayeredContext], *, vocab_chunk: int
) -> Array:
    """float32 [B, R]: -log p of every target, whether it counts or not.

    Only states of positions that predict a response token are multiplied with the vocabulary, a
    slice of it at a time: [B, S, V] never exists. Positions count from each row's first token.
    """
    hidden_BxSxD, _ = model.branch(rows.tokens_BxS, rows.lengths_B, contexts)
    positions_BxRx1 = rows.target_positions_BxR[..., None]
    hidden_BxRxD = jnp.take_along_axis(hidden_BxSxD, positions_BxRx1, axis=1)
    head_VxD = model.head_VxD().astype(hidden_BxRxD.dtype)
    return vocabulary_nll(hidden_BxRxD, head_VxD, rows.targets_BxR, vocab_chunk=vocab_chunk)


def pair_log_probs(
    model: Qwen3, rows: PairRows, contexts: Sequence[LayeredContext] = (), *, vocab_chunk: int
) -> Array:
    """float32 [N, 2, 2]: log p(response | prompt), summed over the response's tokens.

    ``sum_t log softmax(logits_t)[y_t]`` over latent prefix, plan and end token, as TRL has it;
    ``contexts`` is what all prompts begin with.
    """
    ancestors = list(contexts)
    if rows.tree is not None:
        # A segment is computed once, however many sequences go on from it. Its children stand side
        # by side, so a context of n rows serves g * n rows without being copied.
        for tokens, lengths in (
            (rows.tree.shared_tokens_NxH, rows.tree.shared_lengths_N),
            (rows.tree.context_tokens_Nx2xC, rows.tree.context_lengths_Nx2),
        ):
            _, kept = model.branch(
                tokens.reshape(-1, tokens.shape[-1]), lengths.reshape(-1), ancestors, keep=True
            )
            assert kept is not None
            ancestors.append(kept)
    # Four sequences a pair are four rows of a batch, B = 4 N.
    sequences = SampleRows(
        rows.tokens_Nx2x2xS.reshape(-1, rows.tokens_Nx2x2xS.shape[-1]),
        rows.lengths_Nx2x2.reshape(-1),
        *(
            of_targets.reshape(-1, of_targets.shape[-1])
            for of_targets in (
                rows.targets_Nx2x2xR,
                rows.target_positions_Nx2x2xR,
                rows.supervised_Nx2x2xR,
            )
        ),
    )
    nll_BxR = target_nll(model, sequences, ancestors, vocab_chunk=vocab_chunk)
    summed_B = jnp.sum(jnp.where(sequences.sections_BxR > 0, nll_BxR, 0.0), axis=-1)
    return -summed_B.reshape(rows.lengths_Nx2x2.shape)


def _holds_pair(rows: PairRows) -> Array:
    """bool [N, 2]: False for the rows that fill up the last batch of an epoch."""
    return rows.lengths_Nx2x2[..., CHOSEN] > 0
