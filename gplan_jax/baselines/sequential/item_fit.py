"""Fits an item model: packed batches, a time bound, and the best weights by validation."""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from gplan_jax.baselines.sequential.item_models import (
    ItemModel,
    ItemModelSettings,
    item_loss,
    make_item_model,
)
from gplan_jax.baselines.sequential.items import (
    ItemData,
    batches,
    pack,
    ranking_metrics,
    ranks,
    unseen_candidates,
)
from gplan_jax.baselines.sequential.models import Kind
from gplan_jax.foundation.config import Config
from gplan_jax.foundation.files import atomic_write
from gplan_jax.foundation.progress import ProgressBar

ROW_LENGTH = 64
CANDIDATES = 100


class ItemFitSettings(Config):
    """How an item model is fitted.

    Attributes:
        epochs, minutes: whichever ends first; minutes of processor time, validation included, so
            that a busy machine changes nothing.
        rows: packed rows of 64 positions a batch.
        learning_rate, weight_decay: of AdamW with beta2 0.98 and gradients clipped to norm 5.
        validate_every: epochs between validations (NDCG@10 among 101 candidates).
        patience: validations without a better one that end the fit.
        masked, mask_last: BERT4Rec's share of masked items, and the share of its sequences of
            which only the last item is masked, as in prediction.
    """

    epochs: int = 200
    minutes: float = 1e9
    rows: int = 32
    learning_rate: float = 1e-3
    weight_decay: float = 0.0
    validate_every: int = 4
    patience: int = 8
    masked: float = 0.2
    mask_last: float = 0.2
    validation_users: int = 5000


def fit_items(
    data: ItemData,
    model_settings: ItemModelSettings,
    settings: ItemFitSettings,
    seed: int,
    out: Path | None = None,
) -> tuple[ItemModel, list[dict[str, float]]]:
    """The weights that validated best, and the curve; ``out`` keeps the best weights as they come.

    A fit that its time bound ends is a bounded one: the curve's last rows say whether it still
    rose.
    """
    model = make_item_model(model_settings, data.items, seed)
    graph, weights = nnx.split(model)
    optimizer = optax.chain(
        optax.clip_by_global_norm(5.0),
        optax.adamw(settings.learning_rate, b2=0.98, weight_decay=settings.weight_decay),
    )
    state = optimizer.init(weights)
    rng, key = np.random.default_rng(seed), jax.random.key(seed)
    held = data.held_out()
    sample = rng.permutation(held)[: settings.validation_users]
    candidates = unseen_candidates(data, sample, CANDIDATES, seed)
    curve: list[dict[str, float]] = []
    best, best_ndcg, waited, steps = weights, -1.0, 0, 0
    started = time.process_time()
    with ProgressBar(f"Fit {model_settings.kind}", settings.epochs) as bar:
        for epoch in range(1, settings.epochs + 1):
            losses = []
            for batch in training_batches(data, model_settings, settings, rng):
                weights, state, loss = _step(
                    graph, optimizer, weights, state, batch, jax.random.fold_in(key, steps)
                )
                losses.append(loss)
                steps += 1
            seconds = time.process_time() - started
            row = {"epoch": epoch, "loss": float(jnp.stack(losses).mean()), "seconds": seconds}
            last = epoch == settings.epochs or seconds > 60 * settings.minutes
            if epoch % settings.validate_every == 0 or last:
                fitted = nnx.merge(graph, weights)
                targets = np.array([data.histories[u][-2] for u in sample])
                scored = rank_candidates(fitted, data, sample, candidates, targets, drop=2)
                row |= ranking_metrics(scored)
                waited += 1
                if row["ndcg10"] > best_ndcg:
                    best, best_ndcg, waited = weights, row["ndcg10"], 0
                    if out is not None:
                        save_weights(out, weights)
            curve.append(row)
            bar.advance(f"loss {row['loss']:.4f}, best validation NDCG@10 {best_ndcg:.4f}")
            if last or waited >= settings.patience:
                break
    return nnx.merge(graph, best), curve


@functools.partial(jax.jit, static_argnums=(0, 1), donate_argnums=(3,))
def _step(graph, optimizer, weights, state, batch, key):  # type: ignore[no-untyped-def]
    def mean_loss(weights):  # type: ignore[no-untyped-def]
        total, count = item_loss(nnx.merge(graph, weights), batch, key)
        return total / jnp.maximum(count, 1)

    loss, gradients = jax.value_and_grad(mean_loss)(weights)
    updates, state = optimizer.update(gradients, state, weights)
    return optax.apply_updates(weights, updates), state, loss


def training_batches(
    data: ItemData,
    model_settings: ItemModelSettings,
    settings: ItemFitSettings,
    rng: np.random.Generator,
) -> Iterator[dict[str, np.ndarray]]:
    """One epoch of batches in a new order, every sequence once; all have the same shapes."""
    masks = model_settings.kind is Kind.BERT4REC
    sequences = [data.training(user) for user in range(len(data.histories))]
    sequences = [sequence for sequence in sequences if len(sequence) >= 2]
    order = rng.permutation(len(sequences))
    longest, width = model_settings.longest, settings.rows * ROW_LENGTH
    shuffled = [sequences[i] for i in order]
    shuffled = shuffled if masks else [s[-longest - 1 :] for s in shuffled]
    inputs = pack(shuffled if masks else [s[:-1] for s in shuffled], ROW_LENGTH, longest)
    if masks:
        wanted, targets = _hidden(inputs, settings, rng), inputs.items
    else:
        wanted = inputs.segments > 0
        targets = pack([s[1:] for s in shuffled], ROW_LENGTH, longest).items
    predictions = width // 2 if masks else width
    for rows in batches(len(inputs.items), settings.rows):
        where, items = np.flatnonzero(wanted[rows])[:predictions], inputs.items[rows].copy()
        if masks:
            items.reshape(-1)[where] = data.items + 1
        yield {
            "items": _filled(items, settings.rows),
            "segments": _filled(inputs.segments[rows], settings.rows),
            "positions": _filled(inputs.positions[rows], settings.rows),
            "where": _filled(where, predictions),
            "targets": _filled(targets[rows].reshape(-1)[where], predictions),
            "weights": _filled(np.ones(len(where), np.float32), predictions),
            "negatives": rng.integers(1, data.items + 1, model_settings.negatives, np.int32),
        }


def _hidden(inputs: Any, settings: ItemFitSettings, rng: np.random.Generator) -> np.ndarray:
    """Which positions BERT4Rec must guess: a random share, or of some sequences just the last."""
    only_last = rng.random(len(inputs.row)) < settings.mask_last
    is_last = np.zeros(inputs.items.shape, bool)
    is_last[inputs.row, inputs.end] = True
    # Every position knows its sequence by counting the ends before it.
    ends_before = np.cumsum(is_last.reshape(-1)) - is_last.reshape(-1)
    of_position = np.minimum(ends_before, len(inputs.row) - 1).reshape(is_last.shape)
    drawn = rng.random(inputs.items.shape) < settings.masked
    # A sequence of which chance masks nothing has its last item masked, so each teaches something.
    counts = np.bincount(of_position[drawn & (inputs.segments > 0)], minlength=len(inputs.row))
    only_last |= counts == 0
    return np.where(only_last[of_position], is_last, drawn) & (inputs.segments > 0)


def _filled(values: np.ndarray, size: int) -> np.ndarray:
    if len(values) == size:
        return values
    missing = np.zeros((size - len(values), *values.shape[1:]), values.dtype)
    return np.concatenate([values, missing])


def represent_histories(
    model: ItemModel, histories: list[np.ndarray], rows: int = 64
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Pairs of (places in ``histories``, representations (n, D)) of what would come next."""
    graph, weights = nnx.split(model)
    if model.settings.kind is Kind.BERT4REC:
        mask = np.array([model.items + 1], np.int32)
        histories = [np.concatenate([history, mask]) for history in histories]
    packed = pack(histories, ROW_LENGTH, model.settings.longest)
    for part in batches(len(packed.items), rows):
        batch = {
            "items": _filled(packed.items[part], rows),
            "segments": _filled(packed.segments[part], rows),
            "positions": _filled(packed.positions[part], rows),
        }
        places = np.flatnonzero((packed.row >= part.start) & (packed.row < part.stop))
        found = np.asarray(_represent(graph, weights, batch))
        yield places, found[packed.row[places] - part.start, packed.end[places]]


@functools.partial(jax.jit, static_argnums=(0,))
def _represent(graph, weights, batch):  # type: ignore[no-untyped-def]
    model = nnx.merge(graph, weights)
    chain, _ = model(batch)
    return model.recommends(chain.reshape(-1, *chain.shape[2:])).reshape(*chain.shape[:2], -1)


def rank_candidates(
    model: ItemModel,
    data: ItemData,
    users: np.ndarray,
    candidates: np.ndarray,
    targets: np.ndarray,
    *,
    drop: int = 1,
) -> np.ndarray:
    """Rank of each user's target among the candidates; the ``drop`` last items are hidden."""
    table = np.asarray(model.table[...])
    found = np.zeros(len(users), np.int64)
    histories = [data.histories[user][:-drop] for user in users]
    for places, x in represent_histories(model, histories):
        target = np.einsum("nd,nd->n", x, table[targets[places]])
        others = np.einsum("nd,ncd->nc", x, table[candidates[places]])
        found[places] = ranks(target, others)
    return found


def rank_all(
    model: ItemModel, data: ItemData, users: np.ndarray, targets: np.ndarray
) -> np.ndarray:
    """Rank of each user's last item among all items that are not in the history before it."""
    table = np.asarray(model.table[...])[: model.items + 1]
    found = np.zeros(len(users), np.int64)
    histories = [data.histories[user][:-1] for user in users]
    for places, x in represent_histories(model, histories):
        scores = x @ table.T
        target = np.einsum("nd,nd->n", x, table[targets[places]])
        found[places] = ranks(
            target, _unseen(scores, [histories[p] for p in places], targets[places])
        )
    return found


def _unseen(scores: np.ndarray, histories: list[np.ndarray], targets: np.ndarray) -> np.ndarray:
    """Scores with padding, the target itself and items seen before at -inf."""
    scores = scores.copy()
    scores[:, 0] = -np.inf
    rows = np.repeat(np.arange(len(histories)), [len(h) for h in histories])
    scores[rows, np.concatenate(histories)] = -np.inf
    scores[np.arange(len(targets)), targets] = -np.inf
    return scores


def save_weights(path: Path, weights: nnx.State) -> None:
    """All weights in one npz file, named by their paths."""
    flat = {".".join(map(str, k)): np.asarray(v[...]) for k, v in weights.flat_state()}
    with atomic_write(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, allow_pickle=False, **flat)
