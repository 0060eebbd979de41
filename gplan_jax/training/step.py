"""One optimizer step as a pure function: (state, batch) -> (state, metrics), compiled by jit.

Only hidden states of positions that predict a response token meet the vocabulary, a slice of it at
a time: [B, S, V] never exists. Where a batch has a prefix that all its rows share, the prefix runs
once a step, forwards and backwards, however many micro-batches the rows are split into.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from gplan_jax.models import Qwen3
from gplan_jax.models.cache import LayeredContext
from gplan_jax.models.vocab_parallel import vocabulary_nll
from gplan_jax.objectives.section_loss import (
    Metrics,
    section_counts,
    section_loss_sums,
    section_metrics,
    section_weights,
    token_weights,
)
from gplan_jax.training.config import LossConfig
from gplan_jax.training.state import Params, TrainState

DeviceBatch = Mapping[str, Array]
TrainStep = Callable[..., tuple[TrainState, Metrics]]
KeysValues = tuple[tuple[Array, Array], ...]
ROW_FIELDS = ("tokens", "lengths", "targets", "target_positions", "sections")
SHARED_FIELDS = ("prefix", "prefix_length")


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    *,
    loss: LossConfig,
    average: Literal["sections", "tokens"],
    accumulation_steps: int = 1,
    state_shardings: TrainState | None = None,
) -> TrainStep:
    """Builds the step of a run.

    Args:
        graphdef: static part of the model, from ``nnx.split(model, nnx.Param)``, or from
            ``nnx.split(model, LoraParam, ...)`` where adapters train.
        optimizer: turns gradients into updates.
        loss: section weights and vocabulary slice.
        average: "sections" for the section-normalized loss (PICD, equation 5), "tokens" for the
            mean over all response tokens (Direct-SFT, CoT-SFT).
        accumulation_steps: micro-batches that the rows are split into. Sums are added up and
            divided once by the counts of the whole batch, so the loss does not depend on it.
        state_shardings: where the state lives, so that it stays there; None on one device.

    Returns:
        A compiled function (state, batch, frozen=None) that donates the state; ``frozen`` is what
        ``nnx.split`` leaves beside the trained parameters, if anything. Batches hold
        ``ROW_FIELDS``, and ``SHARED_FIELDS`` where their rows share a prefix, as
        ``data.pipeline.BatchLoader`` makes them. Metrics are scalars: ``loss``, those of
        ``section_metrics``, ``grad_norm``.
    """

    def step(
        state: TrainState, batch: DeviceBatch, frozen: Params = None
    ) -> tuple[TrainState, Metrics]:
        def model_of(params: Params) -> Qwen3:
            return nnx.merge(graphdef, params, *([] if frozen is None else [frozen]))

        counts = section_counts(batch["sections"])
        if average == "sections":
            weights = section_weights(
                counts, reasoning_weight=loss.reasoning_weight, plan_weight=loss.plan_weight
            )
        else:
            weights = token_weights(counts)

        def weighted_loss(
            params: Params, prefix: KeysValues, rows: DeviceBatch
        ) -> tuple[Array, Array]:
            contexts = [LayeredContext(*kv, batch["prefix_length"][None]) for kv in prefix]
            sums = response_loss_sums(
                model_of(params), rows, contexts, vocab_chunk=loss.vocab_chunk
            )
            return jnp.sum(sums * weights), sums

        def run_prefix(params: Params) -> KeysValues:
            return prefix_keys_values(model_of(params), batch)

        prefix, pull_back = jax.vjp(run_prefix, state.params)
        rows = {name: batch[name] for name in ROW_FIELDS}
        (gradients, prefix_cotangent), sums = _accumulate(
            weighted_loss, state.params, prefix, rows, accumulation_steps
        )
        if prefix:
            (through_prefix,) = pull_back(prefix_cotangent)
            gradients = jax.tree.map(jnp.add, gradients, through_prefix)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        metrics = {
            "loss": jnp.sum(sums * weights),
            **section_metrics(sums, counts),
            "grad_norm": optax.global_norm(gradients),
        }
        state = TrainState(
            params=optax.apply_updates(state.params, updates),
            optimizer=optimizer_state,
            step=state.step + 1,
        )
        return state, metrics

    out_shardings = None if state_shardings is None else (state_shardings, None)
    return jax.jit(step, donate_argnums=0, out_shardings=out_shardings)


def prefix_keys_values(model: Qwen3, batch: DeviceBatch) -> KeysValues:
    """Keys and values of the prefix that all rows share, one pair; empty where there is none."""
    if "prefix" not in batch:
        return ()
    tokens_1xP, length_1 = batch["prefix"][None], batch["prefix_length"][None]
    _, context = model.branch(tokens_1xP, length_1, keep=True)
    assert context is not None
    return ((context.key, context.value),)


def response_loss_sums(
    model: Qwen3,
    batch: DeviceBatch,
    contexts: Sequence[LayeredContext] = (),
    *,
    vocab_chunk: int,
) -> Array:
    """float32 [2]: summed negative log-likelihood of the reasoning and of the plan tokens.

    Args:
        model: the language model.
        batch: ``ROW_FIELDS``; positions count from each row's own first token.
        contexts: what every row continues.
        vocab_chunk: see ``chunked_token_nll``.
    """
    hidden_BxSxD, _ = model.branch(batch["tokens"], batch["lengths"], contexts)
    hidden_BxRxD = jnp.take_along_axis(hidden_BxSxD, batch["target_positions"][..., None], axis=1)
    nll_BxR = vocabulary_nll(
        hidden_BxRxD,
        model.head_VxD().astype(hidden_BxRxD.dtype),
        batch["targets"],
        vocab_chunk=vocab_chunk,
    )
    return section_loss_sums(nll_BxR, batch["sections"])


def _accumulate(
    loss: Callable[[Params, KeysValues, DeviceBatch], tuple[Array, Array]],
    params: Params,
    prefix: KeysValues,
    rows: DeviceBatch,
    parts: int,
) -> tuple[tuple[Params, KeysValues], Array]:
    """Gradients of weights and prefix, and section sums, over ``parts`` micro-batches in turn."""
    gradient_of = jax.grad(loss, argnums=(0, 1), has_aux=True)
    if parts == 1:
        return gradient_of(params, prefix, rows)

    def add(carry: Any, part: DeviceBatch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, carry, gradient_of(params, prefix, part)), None

    float32_zeros = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), (params, prefix))
    (gradients, sums), _ = jax.lax.scan(
        add,
        (float32_zeros, jnp.zeros(2, jnp.float32)),
        jax.tree.map(lambda x: _split(x, parts), dict(rows)),
    )
    gradients, cotangent = gradients
    # A cotangent has the dtype of what it belongs to.
    return (gradients, jax.tree.map(lambda c, x: c.astype(x.dtype), cotangent, prefix)), sums


def _split(x: Array, parts: int) -> Array:
    """[B, ...] -> [parts, B / parts, ...]; row r goes to part r % parts.

    So each part takes as many rows from every device, and no row moves to another.
    """
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
