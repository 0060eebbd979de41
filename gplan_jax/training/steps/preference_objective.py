"""The objective of SC-DPO and its family: preferences between the two plans of a context pair.

A batch holds N context pairs: two contexts that differ in time and place, and under each the plan
that fits it (chosen) and the one that fits the other (rejected). So there are four sequences a pair
and two preferences. Fields, with N pairs, 2 contexts, 2 responses:

    tokens [N, 2, 2, S], lengths [N, 2, 2]: the sequences, or what is left of them below a tree
    targets, target_positions, supervised [N, 2, 2, R]: response tokens, the states that predict
        them, and 1 where there is a token
    reference [N, 2, 2]: log-probabilities of the responses under the reference
    shared_tokens [N, H], shared_lengths [N], context_tokens [N, 2, C], context_lengths [N, 2]:
        what both prompts of a pair begin with, and what follows in each; absent in the plain layout
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import jax.numpy as jnp
from jax import Array

from gplan_jax.models import Qwen3
from gplan_jax.models.qwen3.model import LayeredContext
from gplan_jax.objectives.preference import preference_terms
from gplan_jax.training.steps.step import DeviceBatch, Metrics
from gplan_jax.training.steps.target_nll import target_nll
from gplan_jax.training.steps.train_config import PreferenceConfig

TREE_LEVELS = ("shared", "context")
SEQUENCE_FIELDS = ("tokens", "lengths", "targets", "target_positions", "supervised")
LEVEL_FIELDS = tuple(f"{level}_{what}" for level in TREE_LEVELS for what in ("tokens", "lengths"))
CHOSEN, REJECTED = 0, 1


@dataclass(frozen=True)
class PreferenceObjective:
    """The mean preference loss over the two directions of all pairs.

    Attributes:
        config: the loss and its coefficients.
        vocab_chunk: see ``chunked_token_nll``.
    """

    config: PreferenceConfig
    vocab_chunk: int
    row_fields: ClassVar[tuple[str, ...]] = (*SEQUENCE_FIELDS, *LEVEL_FIELDS, "reference")

    def scales(self, batch: DeviceBatch) -> Array:
        """How many preferences the batch holds."""
        return jnp.maximum(jnp.sum(_holds_pair(batch)), 1).astype(jnp.float32)

    def sums(
        self, model: Qwen3, rows: DeviceBatch, contexts: Sequence[LayeredContext]
    ) -> dict[str, Array]:
        """Every term of ``preference_terms``, summed over the preferences."""
        policy = pair_log_probs(model, rows, contexts, vocab_chunk=self.vocab_chunk)
        reference = rows["reference"]
        terms = preference_terms(
            self.config.loss,
            policy[..., CHOSEN],
            policy[..., REJECTED],
            reference[..., CHOSEN],
            reference[..., REJECTED],
            self.config,
        )
        there = _holds_pair(rows)
        return {name: jnp.sum(jnp.where(there, term, 0.0)) for name, term in terms.items()}

    def loss(self, sums: dict[str, Array], scales: Array) -> Array:
        """The mean loss."""
        return sums["loss"] / scales

    def metrics(self, sums: dict[str, Array], scales: Array) -> Metrics:
        """The mean of every term."""
        return {name: total / scales for name, total in sums.items()}


def pair_log_probs(
    model: Qwen3,
    rows: DeviceBatch,
    contexts: Sequence[LayeredContext] = (),
    *,
    vocab_chunk: int,
) -> Array:
    """float32 [N, 2, 2]: log p(response | prompt), summed over the response's tokens.

    ``sum_t log softmax(logits_t)[y_t]`` over latent prefix, plan and end token, as TRL has it.
    Segments of a level are computed once, however many sequences go on from them; their children
    stand side by side, so a context of n rows serves g*n rows without being copied.

    Args:
        model: policy or reference.
        rows: the fields of the module's head, without ``reference``.
        contexts: what all prompts begin with.
        vocab_chunk: see ``chunked_token_nll``.
    """
    ancestors = list(contexts)
    for level in TREE_LEVELS:
        if f"{level}_tokens" in rows:
            tokens, lengths = rows[f"{level}_tokens"], rows[f"{level}_lengths"]
            _, kept = model.branch(
                tokens.reshape(-1, tokens.shape[-1]), lengths.reshape(-1), ancestors, keep=True
            )
            assert kept is not None
            ancestors.append(kept)
    flat = {
        name: value.reshape(-1, *value.shape[3:])
        for name in SEQUENCE_FIELDS
        for value in [rows[name]]
    }
    nll_BxR = target_nll(model, flat, ancestors, vocab_chunk=vocab_chunk)
    summed_B = jnp.sum(jnp.where(flat["supervised"] > 0, nll_BxR, 0.0), axis=-1)
    return -summed_B.reshape(rows["lengths"].shape)


def _holds_pair(rows: DeviceBatch) -> Array:
    """bool [N, 2]: False for the rows that fill up the last batch of an epoch."""
    return rows["lengths"][..., CHOSEN] > 0
