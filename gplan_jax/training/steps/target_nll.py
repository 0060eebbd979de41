"""Negative log-likelihood of the tokens that a batch supervises.

Only hidden states of positions that predict a response token meet the vocabulary, a slice of it at
a time: [B, S, V] never exists.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax.numpy as jnp
from jax import Array

from gplan_jax.models import Qwen3
from gplan_jax.models.layers.vocabulary import vocabulary_nll
from gplan_jax.models.qwen3.model import LayeredContext


def target_nll(
    model: Qwen3,
    rows: Mapping[str, Array],
    contexts: Sequence[LayeredContext],
    *,
    vocab_chunk: int,
) -> Array:
    """float32 [B, R]: -log p of every target, whether it counts or not.

    Args:
        model: the language model.
        rows: ``tokens`` [B, S] and their ``lengths`` [B], ``targets`` [B, R] and
            ``target_positions`` [B, R], where the states that predict them stand; positions count
            from each row's own first token.
        contexts: what the rows continue.
        vocab_chunk: see ``chunked_token_nll``.
    """
    hidden_BxSxD, _ = model.branch(rows["tokens"], rows["lengths"], contexts)
    hidden_BxRxD = jnp.take_along_axis(hidden_BxSxD, rows["target_positions"][..., None], axis=1)
    head_VxD = model.head_VxD().astype(hidden_BxRxD.dtype)
    return vocabulary_nll(hidden_BxRxD, head_VxD, rows["targets"], vocab_chunk=vocab_chunk)
