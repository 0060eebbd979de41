"""One optimizer step as a pure function: (state, batch) -> (state, metrics), compiled by jit.

What is minimised is an ``Objective``; the step itself knows gradients, micro-batches and shared
prefixes. Where a batch has a prefix that all its rows share, the prefix runs once a step, forwards
and backwards, however many micro-batches the rows are split into.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar, Protocol

import jax
import jax.numpy as jnp
import optax
from flax import nnx
from jax import Array

from gplan_jax.models import Qwen3
from gplan_jax.models.qwen3.model import LayeredContext
from gplan_jax.training.steps.state import Params, TrainState

DeviceBatch = Mapping[str, Array]
Metrics = dict[str, Array]
TrainStep = Callable[..., tuple[TrainState, Metrics]]
KeysValues = tuple[tuple[Array, Array], ...]
SHARED_FIELDS = ("prefix", "prefix_length")


class Objective(Protocol):
    """A loss that is linear in sums over rows, so that micro-batches simply add up.

    Attributes:
        row_fields: the fields of a batch that hold something for each row; a batch may lack some.
    """

    row_fields: ClassVar[tuple[str, ...]]

    def scales(self, batch: DeviceBatch) -> Any:
        """What the sums are divided by or weighed with: asked of the whole batch, once."""
        ...

    def sums(self, model: Qwen3, rows: DeviceBatch, contexts: Sequence[LayeredContext]) -> Any:
        """Sums over some rows (a pytree); ``contexts`` is what every row continues."""
        ...

    def loss(self, sums: Any, scales: Any) -> Array:
        """The scalar loss, linear in the sums."""
        ...

    def metrics(self, sums: Any, scales: Any) -> Metrics:
        """Scalars to log, the loss among them."""
        ...


def make_train_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    objective: Objective,
    *,
    accumulation_steps: int = 1,
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
        state_shardings: where the state lives, so that it stays there; None on one device.

    Returns:
        A compiled function (state, batch, frozen=None) that donates the state; ``frozen`` is what
        ``nnx.split`` leaves beside the trained parameters, if anything. Batches hold the
        objective's ``row_fields``, and ``SHARED_FIELDS`` where their rows share a prefix. Metrics
        are scalars: those of the objective, and ``grad_norm``.
    """

    def step(
        state: TrainState, batch: DeviceBatch, frozen: Params = None
    ) -> tuple[TrainState, Metrics]:
        def model_of(params: Params) -> Qwen3:
            return nnx.merge(graphdef, params, *([] if frozen is None else [frozen]))

        scales = objective.scales(batch)

        def loss_of(params: Params, prefix: KeysValues, rows: DeviceBatch) -> tuple[Array, Any]:
            sums = objective.sums(model_of(params), rows, prefix_contexts(prefix, batch))
            return objective.loss(sums, scales), sums

        def run_prefix(params: Params) -> KeysValues:
            return prefix_keys_values(model_of(params), batch)

        prefix, pull_back = jax.vjp(run_prefix, state.params)
        rows = {name: batch[name] for name in objective.row_fields if name in batch}
        (gradients, prefix_cotangent), sums = _accumulate(
            loss_of, state.params, prefix, rows, accumulation_steps
        )
        if prefix:
            (through_prefix,) = pull_back(prefix_cotangent)
            gradients = jax.tree.map(jnp.add, gradients, through_prefix)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        metrics = {
            **objective.metrics(sums, scales),
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


def prefix_contexts(prefix: KeysValues, batch: DeviceBatch) -> list[LayeredContext]:
    """The prefix as what all rows continue."""
    return [LayeredContext(*kv, batch["prefix_length"][None]) for kv in prefix]


def _accumulate(
    loss: Callable[[Params, KeysValues, DeviceBatch], tuple[Array, Any]],
    params: Params,
    prefix: KeysValues,
    rows: DeviceBatch,
    parts: int,
) -> tuple[tuple[Params, KeysValues], Any]:
    """Gradients of weights and prefix, and sums, over ``parts`` micro-batches in turn."""
    gradient_of = jax.grad(loss, argnums=(0, 1), has_aux=True)
    if parts == 1:
        return gradient_of(params, prefix, rows)
    rows_by_part = jax.tree.map(lambda x: _split(x, parts), dict(rows))

    def add(carry: Any, part: DeviceBatch) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, carry, gradient_of(params, prefix, part)), None

    def float32_zeros(tree: Any) -> Any:
        return jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), tree)

    one_part = jax.tree.map(lambda x: x[0], rows_by_part)
    _, sums_like = jax.eval_shape(loss, params, prefix, one_part)
    nothing = (float32_zeros((params, prefix)), float32_zeros(sums_like))
    (gradients, sums), _ = jax.lax.scan(add, nothing, rows_by_part)
    gradients, cotangent = gradients
    # A cotangent has the dtype of what it belongs to.
    return (gradients, jax.tree.map(lambda c, x: c.astype(x.dtype), cotangent, prefix)), sums


def _split(x: Array, parts: int) -> Array:
    """[B, ...] -> [parts, B / parts, ...]; row r goes to part r % parts.

    So each part takes as many rows from every device, and no row moves to another.
    """
    return x.reshape(x.shape[0] // parts, parts, *x.shape[1:]).swapaxes(0, 1)
