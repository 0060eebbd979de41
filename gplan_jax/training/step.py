"""One optimizer step as a pure function: (state, batch) -> (state, metrics), compiled by jit.

Only hidden states of positions that predict a response token meet the vocabulary, a slice of it at
a time: [B, S, V] never exists.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from gplan_jax.objectives.section_loss import (
    Metrics,
    section_counts,
    section_loss_sums,
    section_metrics,
    section_weights,
    token_weights,
)
from gplan_jax.objectives.token_nll import chunked_token_nll
from gplan_jax.training.config import LossConfig
from gplan_jax.training.state import Params, TrainState

DeviceBatch = Mapping[str, Array]
TrainStep = Callable[[TrainState, DeviceBatch], tuple[TrainState, Metrics]]
DEVICE_FIELDS = ("tokens", "lengths", "targets", "target_positions", "sections")


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    *,
    loss: LossConfig,
    average: Literal["sections", "tokens"],
    accumulation_steps: int = 1,
) -> TrainStep:
    """Builds the step of a run.

    Args:
        graphdef: static part of the model, from ``nnx.split(model, nnx.Param)``.
        optimizer: turns gradients into updates.
        loss: section weights and vocabulary slice.
        average: "sections" for the section-normalized loss (PICD, equation 5), "tokens" for the
            mean over all response tokens (Direct-SFT, CoT-SFT).
        accumulation_steps: micro-batches that the rows are split into. Sums are added up and
            divided once by the counts of the whole batch, so the loss does not depend on it.

    Returns:
        A compiled function that donates the state. Batches hold ``DEVICE_FIELDS`` as
        ``data.pipeline.BatchLoader`` makes them. Metrics are scalars: ``loss``, those of
        ``section_metrics``, ``grad_norm``.
    """

    def step(state: TrainState, batch: DeviceBatch) -> tuple[TrainState, Metrics]:
        counts = section_counts(batch["sections"])
        if average == "sections":
            weights = section_weights(
                counts, reasoning_weight=loss.reasoning_weight, plan_weight=loss.plan_weight
            )
        else:
            weights = token_weights(counts)

        def weighted_loss(params: Params, rows: DeviceBatch) -> tuple[Array, Array]:
            sums = response_loss_sums(
                nnx.merge(graphdef, params), rows, vocab_chunk=loss.vocab_chunk
            )
            return jnp.sum(sums * weights), sums

        gradients, sums = _accumulate(weighted_loss, state.params, batch, accumulation_steps)
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

    return jax.jit(step, donate_argnums=0)


def response_loss_sums(model: Any, batch: DeviceBatch, *, vocab_chunk: int) -> Array:
    """float32 [2]: summed negative log-likelihood of the reasoning and of the plan tokens."""
    tokens_BxS = batch["tokens"]
    mask_BxS = jnp.arange(tokens_BxS.shape[1]) < batch["lengths"][:, None]
    hidden_BxSxD = model.hidden(tokens_BxS, mask_BxS)
    hidden_BxRxD = jnp.take_along_axis(hidden_BxSxD, batch["target_positions"][..., None], axis=1)
    nll_N = chunked_token_nll(
        hidden_BxRxD.reshape(-1, hidden_BxRxD.shape[-1]),
        model.head_VxD().astype(hidden_BxRxD.dtype),
        batch["targets"].reshape(-1),
        vocab_chunk=vocab_chunk,
    )
    return section_loss_sums(nll_N.reshape(batch["targets"].shape), batch["sections"])


def _accumulate(
    loss: Callable[[Params, DeviceBatch], tuple[Array, Array]],
    params: Params,
    batch: DeviceBatch,
    parts: int,
) -> tuple[Params, Array]:
    """Gradient and section sums of the whole batch, taken over ``parts`` micro-batches in turn."""
    gradient_of = jax.grad(loss, has_aux=True)
    if parts == 1:
        return gradient_of(params, batch)
    split = jax.tree.map(lambda x: x.reshape(parts, x.shape[0] // parts, *x.shape[1:]), dict(batch))

    def add(carry: tuple[Params, Array], rows: DeviceBatch) -> tuple[tuple[Params, Array], None]:
        return jax.tree.map(jnp.add, carry, gradient_of(params, rows)), None

    zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), params)
    total, _ = jax.lax.scan(add, (zeros, jnp.zeros(2, jnp.float32)), split)
    return total
