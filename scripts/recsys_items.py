"""Sequential recommenders on item sequences of public data: reading, models, fits and ranks.

Every user's items are a sequence; several lie in one packed row, so that no position is padding.

Letters: B packed rows, L positions, T representations a position (1 but for ReaRec), N predictions,
C classes, S sampled negatives, D width.
"""

from __future__ import annotations

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx
from jax import Array

from gplan_jax.baselines.sequential.arm import SequentialKind
from gplan_jax.baselines.sequential.encoder import (
    UNSEEN,
    EncoderSettings,
    Reasoner,
    bce_loss,
    progressive_loss,
    see_all,
    see_earlier,
    softmax_loss,
    steps_apart,
    views_apart,
)
from gplan_jax.foundation.config import Config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import atomic_write
from gplan_jax.foundation.progress import ProgressBar

ROW_LENGTH = 64
CANDIDATES = 100


@dataclass(frozen=True)
class ItemData:
    """Every user's items in time order; items are numbered from 1, 0 is padding."""

    histories: tuple[np.ndarray, ...]
    items: int

    @property
    def actions(self) -> int:
        return sum(len(history) for history in self.histories)

    def held_out(self) -> np.ndarray:
        """Users with three items or more: the last is for test, the one before for validation."""
        return np.array([u for u, h in enumerate(self.histories) if len(h) >= 3], np.int64)

    def training(self, user: int) -> np.ndarray:
        """What may be learnt from: all but the last two items, or all where there are only two."""
        history = self.histories[user]
        return history[:-2] if len(history) >= 3 else history


def read_items(path: str | Path) -> ItemData:
    """Reads lines of ``user item``, a user's lines in time order; both are whole numbers from 1.

    Raises:
        GplanError: a line is not two whole numbers above 0, or the file has none.
    """
    histories: dict[int, list[int]] = {}
    with open(path, encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            fields = line.split()
            if not fields:
                continue
            if len(fields) != 2 or not all(f.isascii() and f.isdigit() and int(f) for f in fields):
                raise GplanError(
                    f"{path}, line {number}: {line.strip()!r}. A line is a user and an item, two "
                    "whole numbers from 1."
                )
            histories.setdefault(int(fields[0]), []).append(int(fields[1]))
    if not histories:
        raise GplanError(f"{path} holds no action; give a file of lines 'user item'.")
    rows = tuple(np.array(history, np.int32) for history in histories.values())
    return ItemData(rows, int(max(row.max() for row in rows)))


class Packed(NamedTuple):
    """Several sequences in each row: no position is wasted on padding, and one shape is compiled.

    Attributes:
        items, segments, positions: (R, L); segments count a row's sequences from 1, 0 is padding;
            positions count so that a sequence's last one is ``longest - 1``.
        row, end: (sequences,) where each sequence's last position lies.
    """

    items: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    row: np.ndarray
    end: np.ndarray


def pack(sequences: Sequence[np.ndarray], length: int, longest: int) -> Packed:
    """Lays sequences one after another into rows of ``length``; the next row begins where one does
    not fit. Of a sequence above ``longest`` the last items are kept. None may be empty.

    Raises:
        GplanError: ``longest`` is above ``length``.
    """
    if longest > length:
        raise GplanError(f"longest is {longest}, but a row has {length} positions.")
    sizes = np.array([min(len(sequence), longest) for sequence in sequences], np.int64)
    row, start, segment = _places(sizes, length)
    shape = (int(row[-1]) + 1 if len(row) else 0, length)
    items, segments, positions = (np.zeros(shape, np.int32) for _ in range(3))
    for number, sequence in enumerate(sequences):
        size = sizes[number]
        where = row[number], slice(start[number], start[number] + size)
        items[where] = sequence[-size:]
        segments[where] = segment[number]
        positions[where] = np.arange(longest - size, longest)
    return Packed(items, segments, positions, row, start + sizes - 1)


def _places(sizes: np.ndarray, length: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    row, start, segment = (np.zeros(len(sizes), np.int64) for _ in range(3))
    here = used = count = 0
    for number, size in enumerate(sizes.tolist()):
        if used + size > length:
            here, used, count = here + 1, 0, 0
        count += 1
        row[number], start[number], segment[number] = here, used, count
        used += size
    return row, start, segment


def batches(rows: int, size: int) -> Iterator[slice]:
    """Slices of ``size`` rows; the last may be short."""
    for begin in range(0, rows, size):
        yield slice(begin, min(begin + size, rows))


def unseen_candidates(data: ItemData, users: np.ndarray, count: int, seed: int) -> np.ndarray:
    """For each user ``count`` different items that the user never saw, (users, count).

    Drawn evenly from all items but those of the user's whole history, test item included.

    Raises:
        GplanError: a user has seen so much that fewer than ``count`` items are left.
    """
    rng = np.random.default_rng(seed)
    found = np.zeros((len(users), count), np.int32)
    for place, user in enumerate(users):
        seen = set(data.histories[user].tolist())
        if data.items - len(seen) < count:
            raise GplanError(
                f"User {user + 1} has seen {len(seen)} of {data.items} items; {count} others are "
                "not left. Ask for fewer candidates."
            )
        drawn: dict[int, None] = {}
        while len(drawn) < count:
            more = rng.integers(1, data.items + 1, 2 * count).tolist()
            drawn.update(dict.fromkeys(item for item in more if item not in seen))
        found[place] = list(drawn)[:count]
    return found


def ranks(target_N: np.ndarray, others_NxC: np.ndarray) -> np.ndarray:
    """Rank of each target among its alternatives, 0 the best; equal scores stand before it.

    So a model that scores everything alike gains nothing. Alternatives that don't count are -inf.
    """
    return (others_NxC >= target_N[:, None]).sum(-1)


def ranking_metrics(rank_N: np.ndarray, k: int = 10) -> dict[str, float]:
    """HR@k, the share of ranks below k, and NDCG@k, the mean of 1 / log2(rank + 2) over those."""
    hit = rank_N < k
    gains = np.where(hit, 1 / np.log2(rank_N + 2.0), 0.0)
    return {f"hr{k}": float(hit.mean()), f"ndcg{k}": float(gains.mean())}


class ItemModelSettings(Config):
    """What an item model is.

    Attributes:
        longest: items of a history that are read, the last ones (and BERT4Rec's mask).
        loss: "softmax" over all items, "sampled" over the target and shared negatives, or "bce".
        negatives: negatives drawn for a batch, shared by its predictions (sampled and bce).
        steps, kl_weight: ReaRec's reasoning steps, and the weight of ERL's term.
        scale, noise, contrast: PRL's temperature ratio between steps, the noise of its second
            view, and the weight of the contrast.
    """

    kind: SequentialKind
    encoder: EncoderSettings = EncoderSettings(hidden=50, heads=1, inner=50)
    longest: int = 50
    loss: str = "sampled"
    negatives: int = 512
    steps: int = 2
    kl_weight: float = 0.05
    scale: float = 5.0
    noise: float = 0.01
    contrast: float = 0.1


class ItemModel(nnx.Module):
    """Item and position embeddings, an encoder, and the item embeddings again as its output."""

    def __init__(self, settings: ItemModelSettings, items: int, rngs: nnx.Rngs) -> None:
        self.settings, self.items = settings, items
        start = nnx.initializers.normal(0.02)
        width = settings.encoder.hidden
        # Row 0 is padding, row items + 1 is BERT4Rec's mask.
        self.table = nnx.Param(start(rngs.params(), (items + 2, width)))
        self.positions = nnx.Param(start(rngs.params(), (settings.longest, width)))
        reasons = settings.kind in (SequentialKind.REAREC_ERL, SequentialKind.REAREC_PRL)
        self.reasoner = Reasoner(settings.encoder, settings.steps if reasons else 0, rngs)

    def __call__(
        self, batch: dict[str, Array], key: Array | None = None
    ) -> tuple[Array, Array | None]:
        """Representations (B, L, T, D) of every position, and PRL's noisy view while training."""
        kind, segments = self.settings.kind, batch["segments"]
        x = self.table[batch["items"]] * self.table.shape[-1] ** 0.5
        x = x + self.positions[batch["positions"]]
        mask = see_all(segments) if kind is SequentialKind.BERT4REC else see_earlier(segments)
        noise = self.settings.noise if kind is SequentialKind.REAREC_PRL else 0.0
        return self.reasoner(x, mask, key, noise=noise)

    def recommends(self, x_NxTxD: Array) -> Array:
        """What the items are compared with, (N, D): ERL's mean of the steps, else the last step."""
        return (
            x_NxTxD.mean(1) if self.settings.kind is SequentialKind.REAREC_ERL else x_NxTxD[:, -1]
        )


def item_loss(model: ItemModel, batch: dict[str, Array], key: Array) -> tuple[Array, Array]:
    """Sum of the losses of a batch's predictions, and how many there are.

    Args:
        batch: ``items``, ``segments`` and ``positions`` (B, L); ``where`` (N,) flat positions of
            the predictions, ``targets`` and ``weights`` (N,); ``negatives`` (S,).
    """
    settings = model.settings
    chain, noisy = model(batch, key)
    x = chain.reshape(-1, *chain.shape[2:])[batch["where"]]
    targets, weights = batch["targets"], batch["weights"]
    table = jnp.asarray(model.table)[: model.items + 1]
    losses = _one_loss(settings, model.recommends(x), table, batch)
    if x.shape[1] > 1:
        count, steps = x.shape[:2]
        scores = candidate_scores(
            x.reshape(count * steps, -1), table, jnp.repeat(targets, steps), batch["negatives"]
        ).reshape(count, steps, -1)
        if settings.kind is SequentialKind.REAREC_ERL:
            losses -= settings.kl_weight * steps_apart(scores)
        else:
            first = jnp.zeros_like(targets)
            losses += progressive_loss(scores, first, scale=settings.scale)
    if noisy is not None:
        other = noisy.reshape(-1, *noisy.shape[2:])[batch["where"]]
        losses += settings.contrast * views_apart(x, other, weights, temperature=0.07)
    return (losses * weights).sum(), weights.sum()


def _one_loss(
    settings: ItemModelSettings, x_NxD: Array, table: Array, batch: dict[str, Array]
) -> Array:
    if settings.loss == "softmax":
        scores = (x_NxD @ table.T).at[:, 0].set(-jnp.inf)
        return softmax_loss(scores, batch["targets"])
    scores = candidate_scores(x_NxD, table, batch["targets"], batch["negatives"])
    if settings.loss == "bce":
        return bce_loss(scores)
    return softmax_loss(scores, jnp.zeros_like(batch["targets"]))


def make_item_model(settings: ItemModelSettings, items: int, seed: int) -> ItemModel:
    """A model with fresh weights."""
    return ItemModel(settings, items, nnx.Rngs(params=jax.random.key(seed)))


def candidate_scores(x_NxD: Array, table_CxD: Array, targets_N: Array, negatives_S: Array) -> Array:
    """Scores (N, 1 + S) of each target, first, and of the negatives that all N share.

    A negative that happens to be a prediction's own target is closed for it (``UNSEEN``).
    """
    positive = jnp.einsum("nd,nd->n", x_NxD, table_CxD[targets_N])
    negative = x_NxD @ table_CxD[negatives_S].T
    negative = jnp.where(negatives_S[None] == targets_N[:, None], UNSEEN, negative)
    return jnp.concatenate([positive[:, None], negative], axis=-1)


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
    masks = model_settings.kind is SequentialKind.BERT4REC
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
    if model.settings.kind is SequentialKind.BERT4REC:
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
