"""One optimizer step as a pure function: (state, batch) -> (state, metrics), compiled by jit.

The optimizer and its learning rate are as the config says.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import optax
from flax import nnx, struct
from jax import Array
from jax.sharding import Mesh

from gplan_jax.data.batches import Batch, PairRows, SampleRows, SharedPrefix, check_shapes
from gplan_jax.foundation import GplanError
from gplan_jax.models import Qwen3
from gplan_jax.models.layers.sharding import named_shardings
from gplan_jax.models.qwen3.model import LayeredContext
from gplan_jax.objectives.curriculum import (
    CompressionCurriculum,
    calr_schedule,
    warmup_constant,
    warmup_cosine,
)
from gplan_jax.training.steps.objectives import Metrics, Objective
from gplan_jax.training.steps.train_config import OptimizerConfig

# Of a micro-batch, a CPU core: the states of more leave its cache (docs/lab/training.md).
CACHED_TOKENS = 512

Params = Any
KeysValues = Sequence[tuple[Array, Array]]


@functools.cache  # One object for equal arguments, so that runs can share a compiled step.
def make_schedule(
    config: OptimizerConfig,
    *,
    steps_per_epoch: int,
    total_steps: int,
    curriculum: CompressionCurriculum,
) -> optax.Schedule:
    """The learning rate of a run.

    GplanError where CALR has no curriculum that moves, or none that passes its target before the
    run ends: that would be a constant rate under CALR's name.
    """
    if config.schedule != "calr":
        single_phase = warmup_constant if config.schedule == "constant" else warmup_cosine
        return single_phase(
            config.learning_rate, total_steps=total_steps, warmup_ratio=config.warmup_ratio
        )
    if curriculum.epochs_per_stage is None:
        raise GplanError(
            "optimizer.schedule=calr follows a moving curriculum, which mode=picd, icot and pause "
            "have; choose optimizer.schedule=cosine or constant."
        )
    polish_epoch = curriculum.first_epoch_beyond(config.target_blocks)
    if polish_epoch * steps_per_epoch >= total_steps:
        raise GplanError(
            "optimizer.schedule=calr would never polish: its second phase begins after "
            f"{polish_epoch} epochs (optimizer.target_blocks={config.target_blocks}) and the run "
            f"has {total_steps // steps_per_epoch}. Train longer, lower target_blocks (the 90th "
            "percentile of a row's blocks), or write optimizer.schedule=constant, which has the "
            "same rates over so short a run."
        )
    return calr_schedule(
        steps_per_epoch=steps_per_epoch,
        total_steps=total_steps,
        structure_lr=config.learning_rate,
        polish_lr=config.polish_lr,
        target_blocks=config.target_blocks,
        warmup_ratio=config.warmup_ratio,
        polish_decay_epochs=config.polish_decay_epochs,
        curriculum=curriculum,
    )


@functools.cache
def make_optimizer(
    config: OptimizerConfig, schedule: optax.Schedule
) -> optax.GradientTransformation:
    """AdamW after clipping by the global norm; weight decay spares the norm weights."""
    return optax.chain(
        optax.clip_by_global_norm(config.clip_norm),
        optax.adamw(
            schedule,
            b1=config.b1,
            b2=config.b2,
            eps=config.eps,
            weight_decay=config.weight_decay,
            mask=decay_mask,
        ),
    )


def decay_mask(params: Params) -> Params:
    """True for every parameter that decays: all but those of the norms, by their name."""

    def decays(path: tuple[Any, ...], _: Any) -> bool:
        return not any("norm" in str(part) for part in path)

    return jax.tree_util.tree_map_with_path(decays, params)


@struct.dataclass
class TrainState:
    """Weights, optimizer state and the number of steps taken: a pytree, donated to each step."""

    params: Params
    optimizer: optax.OptState
    step: Array

    @classmethod
    def create(cls, params: Params, optimizer: optax.GradientTransformation) -> TrainState:
        return cls(params=params, optimizer=optimizer.init(params), step=jnp.zeros((), jnp.int32))

    @classmethod
    def shardings(
        cls, params: Params, optimizer: optax.GradientTransformation, mesh: Mesh
    ) -> TrainState:
        """Where each array of the state lives: optimizer moments lie where their weights do."""
        abstract = jax.eval_shape(lambda weights: cls.create(weights, optimizer), params)
        return named_shardings(abstract, mesh)


TrainStep = Callable[..., tuple[TrainState, Metrics]]


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    objective: Objective[Any, Any, Any],
    *,
    accumulation_steps: int = 1,
    most_tokens: int | None = None,
    state_shardings: TrainState | None = None,
) -> TrainStep:
    """Builds the step of a run.

    Args:
        graphdef: static part of the model, from ``nnx.split(model, nnx.Param)``, or from
            ``nnx.split(model, LoraParam, ...)`` where adapters train.
        optimizer: turns gradients into updates.
        objective: what is minimised.
        accumulation_steps: micro-batches that the rows are split into. Sums are added up and
            scaled once by what the whole batch says, so the loss does not depend on it.
        most_tokens: splits further, until a micro-batch has no more tokens or is a single row.
        state_shardings: where the state lives, so that it stays there; None on one device.

    Returns:
        A compiled function (state, batch, frozen=None) that donates the state; ``frozen`` is what
        ``nnx.split`` leaves beside the trained parameters, if anything. Metrics are scalars: those
        of the objective, and ``grad_norm``.
    """

    def step(state: TrainState, batch: Batch, frozen: Params = None) -> tuple[TrainState, Metrics]:
        check_shapes(batch)

        def model_of(params: Params) -> Qwen3:
            return nnx.merge(graphdef, params, *([] if frozen is None else [frozen]))

        # Section counts or the number of pairs: of the whole batch, so micro-batches only add up.
        scales = objective.scales(batch.rows)

        # The prefix that all rows share runs forwards once a step, however many micro-batches there
        # are. Its keys and values enter the loss as weights do, so their gradients add up too.
        def run_prefix(params: Params) -> KeysValues:
            contexts = prefix_contexts(model_of(params), batch.prefix)
            return [(context.key, context.value) for context in contexts]

        prefix, pull_prefix_back = jax.vjp(run_prefix, state.params)

        def loss_of(params: Params, prefix: KeysValues, rows: SampleRows | PairRows) -> Any:
            contexts = [LayeredContext(*kv, _length_1(batch.prefix)) for kv in prefix]
            sums = objective.sums(model_of(params), rows, contexts)
            with jax.named_scope("loss"):
                return objective.loss(sums, scales), sums

        gradient_of = jax.grad(loss_of, argnums=(0, 1), has_aux=True)
        parts = micro_batches(batch.rows, accumulation_steps, most_tokens)
        if parts == 1:
            (gradients, prefix_gradient), sums = gradient_of(state.params, prefix, batch.rows)
        else:
            rows_by_part = jax.tree.map(lambda x: _split(x, parts), batch.rows)

            def add(carry: Any, rows: SampleRows | PairRows) -> tuple[Any, None]:
                return jax.tree.map(jnp.add, carry, gradient_of(state.params, prefix, rows)), None

            one_part = jax.tree.map(lambda x: x[0], rows_by_part)
            _, sums_like = jax.eval_shape(loss_of, state.params, prefix, one_part)
            nothing = jax.tree.map(
                lambda x: jnp.zeros(x.shape, jnp.float32), ((state.params, prefix), sums_like)
            )
            ((gradients, prefix_gradient), sums), _ = jax.lax.scan(add, nothing, rows_by_part)
            # They were added up in float32; a cotangent has the dtype of what it belongs to.
            prefix_gradient = jax.tree.map(lambda g, x: g.astype(x.dtype), prefix_gradient, prefix)

        # And it runs backwards once.
        if batch.prefix is not None:
            (through_prefix,) = pull_prefix_back(prefix_gradient)
            gradients = jax.tree.map(jnp.add, gradients, through_prefix)

        with jax.named_scope("optimizer"):
            updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
            metrics = {**objective.metrics(sums, scales), "grad_norm": optax.global_norm(gradients)}
            params = optax.apply_updates(state.params, updates)
        return TrainState(params, optimizer_state, state.step + 1), metrics

    out_shardings = None if state_shardings is None else (state_shardings, None)
    return jax.jit(step, donate_argnums=0, out_shardings=out_shardings)


def prefix_contexts(model: Qwen3, prefix: SharedPrefix | None) -> list[LayeredContext]:
    """The prefix of a batch as what all its rows continue; nothing where there is none."""
    if prefix is None:
        return []
    _, context = model.branch(prefix.tokens_P[None], _length_1(prefix), keep=True)
    assert context is not None
    return [context]


def _length_1(prefix: SharedPrefix | None) -> Array:
    assert prefix is not None
    return prefix.length[None]


def micro_batches(rows: SampleRows | PairRows, at_least: int, most_tokens: int | None) -> int:
    """How many equal parts a batch's rows are taken in: the fewest, a multiple of ``at_least`` that
    divides, of which none has more than ``most_tokens`` (padding counted) or more than one row.
    """
    if most_tokens is None:
        return at_least
    each = len(jax.tree.leaves(rows)[0]) // at_least
    fit = max(1, min(each, most_tokens // rows.tokens_a_row))
    return at_least * next(n for n in range(-(-each // fit), each + 1) if each % n == 0)


def _split(x: Array, parts: int) -> Array:
    """[B, ...] -> [parts, B / parts, ...]; row r goes to part r % parts.

    So each part takes as many rows from every device, and no row moves to another.
    """
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
