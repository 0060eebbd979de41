"""One training loop and one frame for every arm with a network.

The loop is AdamW, early stopping, best weights. A step is compiled once for a model structure, a
loss and the shapes of a batch, and serves every later fit of the process: other weights, another
fold, another learning rate compile nothing.

The frame: rows, masks, seeds and batches are the same for all arms. An arm says how rows are read,
its network, its loss and its decoding, as a ``Recipe``.
"""

from __future__ import annotations

import functools
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeVar

import grain
import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from pydantic import Field

from gplan_jax.baselines.fitting.arms import Arm, Fitted
from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.baselines.rows.labelled_rows import LabelledRows, labelled_rows
from gplan_jax.baselines.rows.plan_mask import PlanMask, plan_mask
from gplan_jax.foundation.config import Config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample

Batch = dict[str, jax.Array]
# loss(model, batch, key, train) -> (sum of the losses, how many there are)
Loss = Callable[[Any, Batch, jax.Array, bool], tuple[jax.Array, jax.Array]]
Curve = list[dict[str, Any]]
M = TypeVar("M", bound=nnx.Module)

CLIP_NORM = 1.0
_DIRECTION = optax.chain(optax.clip_by_global_norm(CLIP_NORM), optax.scale_by_adam())


class FitSettings(Config):
    """How a network is fitted; models add their own sizes to it."""

    epochs: int = Field(30, ge=1)  # at most
    stop_after: int | None = Field(None, ge=1)  # fewer epochs; a cosine is still spread over all
    patience: int = Field(4, ge=1)  # stop after so many epochs without a new best validation loss
    batch_size: int = Field(64, ge=1)
    learning_rate: float = Field(1e-3, gt=0)  # after the warm-up
    weight_decay: float = Field(0.01, ge=0)  # of AdamW, on arrays of two or more dimensions
    warmup_steps: int = Field(20, ge=0)  # of linear rise
    schedule: Literal["constant", "cosine"] = "constant"  # half a cosine, down to 0
    max_steps: int = Field(4000, ge=1)  # so that many rows stay affordable


def fit_network(
    model: M,
    loss: Loss,
    train: Mapping[str, np.ndarray],
    validation: Mapping[str, np.ndarray] | None,
    settings: FitSettings,
    seed: int,
) -> tuple[M, Curve]:
    """Fits ``model``, which stays as it is; the weights of its best epoch, and the curve.

    A row of the curve is an epoch: "epoch" (from 1), "loss", "validation_loss" and "seconds" (since
    the start), losses as means over the counts. Without validation rows the last weights are kept.
    ``seed`` is that of the order of the rows and of the keys.

    ``loss`` is (model, batch, key, train) -> (summed loss, count), pure but for the model's own
    state; a module-level function (or an equal, hashable object), since the compiled step is kept
    under it. A batch has the arrays of ``train`` as [B, ...] and "weight" [B], which is 0 for a row
    that only fills it up and must not count. ``key`` is new at every step; ``train`` is a Python
    bool.
    """
    rows = _rows_of(train, "training")
    if validation is not None:
        _rows_of(validation, "validation")
    graph, params, rest = _split(model)
    fit_step, validate = _programs(graph, loss)
    state = _FitState(params, rest, _DIRECTION.init(params))
    key = jax.random.key(seed)
    an_epoch = math.ceil(rows / settings.batch_size)
    steps = min(settings.epochs * an_epoch, settings.max_steps)
    last = min(steps, (settings.stop_after or settings.epochs) * an_epoch)

    # Each epoch has another order, and whole batches: none runs into the next epoch. A batch is
    # gathered in no time, so threads that read ahead would cost more than they save.
    order = grain.MapDataset.range(rows).seed(seed).shuffle()
    order = order.batch(settings.batch_size, batch_fn=np.asarray).repeat(settings.epochs)
    gathered = order.map(functools.partial(_gather, train, settings.batch_size))
    reading = grain.ReadOptions(num_threads=0, prefetch_buffer_size=0)
    batches = iter(gathered.to_iter_dataset(reading))

    best: tuple[float, nnx.State, nnx.State] = (math.inf, params, rest)
    curve: Curve = []
    started, step, worse = time.perf_counter(), 0, 0
    while step < last and worse < settings.patience:
        totals = jnp.zeros(2)
        for _ in range(min(an_epoch, last - step)):
            pace = learning_rate(settings, step, steps), settings.weight_decay
            state, totals = fit_step(state, totals, next(batches), key, step, pace)
            step += 1
        judged = mean = _mean(totals)
        if validation is not None:
            totals = jnp.zeros(2)
            for batch, _ in batches_of(validation, settings.batch_size):
                totals = validate(state, totals, batch, key)
            judged = _mean(totals)
        if not (math.isfinite(mean) and math.isfinite(judged)):
            raise GplanError(
                f"The loss is not finite after epoch {len(curve) + 1} "
                f"(learning_rate={settings.learning_rate}); lower learning_rate."
            )
        curve.append({
            "epoch": len(curve) + 1,
            "loss": mean,
            "validation_loss": None if validation is None else judged,
            "seconds": time.perf_counter() - started,
        })  # fmt: skip
        if validation is None or judged < best[0]:
            best, worse = (judged, state.params, state.rest), 0
        else:
            worse += 1
    return nnx.merge(graph, best[1], best[2], copy=True), curve


def count_parameters(model: nnx.Module) -> int:
    """How many numbers a model learns."""
    return sum(leaf.size for leaf in jax.tree.leaves(nnx.state(model, nnx.Param)))


def batches_of(
    arrays: Mapping[str, np.ndarray], batch_size: int
) -> Iterator[tuple[dict[str, Any], int]]:
    """Yields (batch, rows that count) in order, all batches [batch_size, ...], with "weight"."""
    rows = _rows_of(arrays, "given")
    for start in range(0, rows, batch_size):
        chosen = np.arange(start, min(start + batch_size, rows))
        yield _gather(arrays, batch_size, chosen), len(chosen)


def learning_rate(settings: FitSettings, step: int, steps: int) -> float:
    """The rate of a step (from 0): peak * min((step + 1) / warm-up, 1), times half a cosine.

    The cosine runs from the end of the warm-up to ``steps`` and only with schedule=cosine.
    """
    warmup = settings.warmup_steps
    if step < warmup:
        return settings.learning_rate * (step + 1) / warmup
    if settings.schedule == "constant":
        return settings.learning_rate
    share = (step - warmup) / max(steps - warmup, 1)
    return settings.learning_rate * (1 + math.cos(math.pi * share)) / 2


class _FitState(NamedTuple):
    """What goes from step to step: learnt arrays, the model's other state, Adam's moments."""

    params: nnx.State
    rest: nnx.State
    moments: optax.OptState


@functools.cache
def _programs(graph: Any, loss: Loss) -> tuple[Callable[..., Any], Callable[..., jax.Array]]:
    """The compiled step and validation of a model structure under a loss."""

    @jax.jit
    def step(
        state: _FitState,
        totals: jax.Array,
        batch: Batch,
        key: jax.Array,
        number: jax.Array,
        pace: tuple[jax.Array, jax.Array],
    ) -> tuple[_FitState, jax.Array]:
        def mean_loss(params: nnx.State) -> tuple[jax.Array, tuple[nnx.State, jax.Array]]:
            model = nnx.merge(graph, params, state.rest, copy=True)
            total, count = loss(model, batch, jax.random.fold_in(key, number), True)
            seen = jnp.stack([total, count])
            return total / jnp.maximum(count, 1), (_split(model)[2], seen)

        gradients, (rest, seen) = jax.grad(mean_loss, has_aux=True)(state.params)
        directions, moments = _DIRECTION.update(gradients, state.moments)
        rate, decay = pace

        def move(param: jax.Array, direction: jax.Array) -> jax.Array:
            return param - rate * (direction + decay * param * (param.ndim > 1))

        params = jax.tree.map(move, state.params, directions)
        return _FitState(params, rest, moments), totals + seen

    @jax.jit
    def validate(state: _FitState, totals: jax.Array, batch: Batch, key: jax.Array) -> jax.Array:
        model = nnx.merge(graph, state.params, state.rest, copy=True)
        return totals + jnp.stack(loss(model, batch, key, False))

    return step, validate


def _split(model: nnx.Module) -> tuple[Any, nnx.State, nnx.State]:
    graph, *states = nnx.split(model, nnx.Param, ...)
    params, rest = states
    return graph, params, rest


def _mean(totals: jax.Array) -> float:
    total, count = np.asarray(totals, np.float64)
    return float(total / max(count, 1.0))


def _gather(
    arrays: Mapping[str, np.ndarray], batch_size: int, rows: np.ndarray
) -> dict[str, np.ndarray]:
    """The rows as a batch of ``batch_size``, filled up with the first of them at weight 0."""
    filled = np.resize(rows[:1], batch_size)
    filled[: len(rows)] = rows
    weight = (np.arange(batch_size) < len(rows)).astype(np.float32)
    return {**{name: array[filled] for name, array in arrays.items()}, "weight": weight}


def _rows_of(arrays: Mapping[str, np.ndarray], what: str) -> int:
    lengths = {name: len(array) for name, array in arrays.items()}
    if len(set(lengths.values())) != 1:
        raise GplanError(f"The {what} arrays have different numbers of rows: {lengths}.")
    [rows] = set(lengths.values())
    if not rows:
        raise GplanError(f"There are no {what} rows to fit a network on.")
    return rows


@dataclass(frozen=True)
class FitInput:
    """What a recipe is made from; ``train`` and ``validation`` are the rows with usable plans."""

    train: LabelledRows
    validation: LabelledRows | None
    atoms: Atoms
    mask: PlanMask
    mode: InputMode
    seed: int

    @property
    def parts(self) -> list[LabelledRows]:
        return [self.train, self.validation] if self.validation else [self.train]


@dataclass(frozen=True)
class Recipe:
    """What an arm is, once it has seen its training rows."""

    loss: Loss  # a module-level function of batches of inputs and targets
    decoding_batch: int  # rows that are decoded at a time
    # What the network reads of N rows, arrays [N, ...]; never their labels.
    inputs: Callable[[Sequence[Sample]], dict[str, np.ndarray]]
    # What it is to write for them, from plans of atoms, arrays [N, ...].
    targets: Callable[[Sequence[Sequence[int]]], dict[str, np.ndarray]]
    network: Callable[[nnx.Rngs], nnx.Module]  # with fresh weights
    # What the network (the two parts of ``nnx.split``) writes for a batch, int32 [B, T]; plans obey
    # every rule of the library where the last argument says so.
    decode: Callable[[nnx.GraphDef, nnx.State, Batch, bool], jax.Array]
    text: Callable[[Sequence[int]], str]  # the plan text of what was written for a row


@dataclass(frozen=True, eq=False)
class NetworkPredictor:
    """A fitted network that answers as an arm does."""

    network: nnx.Module
    recipe: Recipe

    @property
    def parameters(self) -> int:
        return count_parameters(self.network)

    def predict(self, samples: Sequence[Sample], *, constrained: bool) -> list[str]:
        if not samples:
            return []
        graph, weights = nnx.split(self.network)
        texts: list[str] = []
        for batch, rows in batches_of(self.recipe.inputs(samples), self.recipe.decoding_batch):
            found = np.asarray(self.recipe.decode(graph, weights, batch, constrained))
            texts += [self.recipe.text(tokens) for tokens in found[:rows].tolist()]
        return texts


def network_arm(
    name: str,
    title: str,
    settings: type[FitSettings],
    trials: tuple[dict[str, Any], ...],
    recipe: Callable[[FitInput, Any], Recipe],
) -> Arm:
    """An arm from its recipe, which is made of the rows and the arm's settings."""
    return Arm(name, title, settings, trials, functools.partial(fit_recipe, recipe))


def fit_recipe(
    recipe_of: Callable[[FitInput, Any], Recipe],
    train: Sequence[Sample],
    validation: Sequence[Sample],
    settings: FitSettings,
    mode: InputMode,
    library: IntentLibrary,
    seed: int,
) -> Fitted:
    """Fits a network on the rows with usable plans; what it knows of values is from ``train``."""
    atoms = Atoms.of(library)
    rows = labelled_rows(train, atoms)
    held_out = labelled_rows(validation, atoms) if validation else None
    given = FitInput(rows, held_out, atoms, plan_mask(atoms), mode, seed)
    recipe = recipe_of(given, settings)
    parts = [{**recipe.inputs(p.samples), **recipe.targets(p.plans)} for p in given.parts]
    network, curve = fit_network(
        recipe.network(nnx.Rngs(seed)),
        recipe.loss,
        parts[0],
        parts[1] if held_out else None,
        settings,
        seed,
    )
    return Fitted(NetworkPredictor(network, recipe), curve)
