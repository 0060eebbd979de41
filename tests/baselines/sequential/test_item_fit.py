"""Fitting on items: batches teach what they should, ranks are those of plain sorting."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from gplan_jax.baselines.sequential.encoder import EncoderSettings
from gplan_jax.baselines.sequential.item_fit import (
    ItemFitSettings,
    fit_items,
    rank_all,
    rank_candidates,
    represent_histories,
    training_batches,
)
from gplan_jax.baselines.sequential.item_models import ItemModelSettings, make_item_model
from gplan_jax.baselines.sequential.items import ItemData, unseen_candidates
from gplan_jax.baselines.sequential.models import Kind

ENCODER = EncoderSettings(hidden=8, layers=1, heads=1, inner=8, dropout=0.0)
FIT = ItemFitSettings(rows=2, epochs=2, validate_every=1, validation_users=20)


def settings(kind: Kind, loss: str = "sampled") -> ItemModelSettings:
    return ItemModelSettings(kind=kind, encoder=ENCODER, longest=12, negatives=20, loss=loss)


def cycles(users: int = 60, items: int = 150) -> ItemData:
    """Every item is followed by the next one."""
    rng = np.random.default_rng(0)
    starts, sizes = rng.integers(0, items, users), rng.integers(4, 12, users)
    rows = zip(starts, sizes, strict=True)
    return ItemData(tuple((start + np.arange(size)) % items + 1 for start, size in rows), items)


def test_every_pair_of_neighbours_is_learnt_from_once() -> None:
    data = cycles()
    found: list[tuple[int, int]] = []
    for batch in training_batches(data, settings(Kind.SASREC), FIT, np.random.default_rng(1)):
        real = batch["weights"] > 0
        inputs = batch["items"].reshape(-1)[batch["where"][real]]
        found += zip(inputs.tolist(), batch["targets"][real].tolist(), strict=True)
    pairs = [pair for u in range(60) for pair in zip(data.training(u), data.training(u)[1:],
                                                     strict=False)]  # fmt: skip
    assert sorted(found) == sorted((int(a), int(b)) for a, b in pairs)


@pytest.mark.parametrize("mask_last", [0.0, 1.0])
def test_masks_hide_their_targets(mask_last: float) -> None:
    data = cycles()
    fit = FIT.model_copy(update={"mask_last": mask_last, "masked": 0.3})
    whole = {tuple(data.training(u).tolist()) for u in range(60)}
    masked = 0
    for batch in training_batches(data, settings(Kind.BERT4REC), fit, np.random.default_rng(1)):
        items, segments = batch["items"].copy(), batch["segments"]
        real = batch["weights"] > 0
        hidden = items == data.items + 1
        assert set(np.flatnonzero(hidden)) == set(batch["where"][real])
        items.reshape(-1)[batch["where"][real]] = batch["targets"][real]
        for row, own in zip(range(len(items)), segments, strict=True):
            for segment in range(1, own.max() + 1):
                places = np.flatnonzero(own == segment)
                assert tuple(items[row, places].tolist()) in whole
                assert hidden[row, places].any()
                if mask_last:
                    assert hidden[row, places].tolist() == [False] * (len(places) - 1) + [True]
                masked += 1
    assert masked == sum(len(data.training(u)) >= 2 for u in range(60))


@pytest.mark.parametrize("kind", [Kind.SASREC, Kind.BERT4REC, Kind.REAREC_ERL])
def test_ranks_are_those_of_one_history_at_a_time(kind: Kind) -> None:
    data = cycles(12)
    model = make_item_model(settings(kind), data.items, seed=0)
    users = data.held_out()
    targets = np.array([data.histories[user][-1] for user in users])
    candidates = unseen_candidates(data, users, 30, seed=0)
    among = rank_candidates(model, data, users, candidates, targets)
    full = rank_all(model, data, users, targets)
    table = np.asarray(model.table[...])
    for place, user in enumerate(users):
        [(_, x)] = represent_histories(model, [data.histories[user][:-1]], rows=1)
        scores = table @ x[0]
        own = scores[targets[place]]
        others = set(range(1, data.items + 1)) - set(data.histories[user].tolist())
        assert among[place] == sum(scores[c] > own for c in candidates[place])
        assert full[place] == sum(scores[item] > own for item in others)


def test_a_fit_learns_what_follows_and_keeps_its_best_weights(tmp_path: Path) -> None:
    data = cycles(400, 120)
    fit = ItemFitSettings(rows=4, epochs=20, learning_rate=0.01, validate_every=5)
    out = tmp_path / "best.npz"
    model, curve = fit_items(data, settings(Kind.SASREC), fit, seed=0, out=out)
    assert len(curve) == 20 and curve[-1]["ndcg10"] > 0.8
    assert curve[-1]["loss"] < curve[0]["loss"] / 2
    stored = np.load(out)
    np.testing.assert_array_equal(stored["table"], np.asarray(model.table[...]))


@pytest.mark.slow
@pytest.mark.parametrize("kind", [Kind.BERT4REC, Kind.REAREC_ERL, Kind.REAREC_PRL])
@pytest.mark.parametrize("loss", ["sampled", "bce", "softmax"])
def test_every_model_and_loss_learns(kind: Kind, loss: str) -> None:
    data = cycles(400, 120)
    fit = ItemFitSettings(rows=4, epochs=60, learning_rate=0.01, validate_every=20)
    _, curve = fit_items(data, settings(kind, loss), fit, seed=0)
    assert curve[-1]["ndcg10"] > 0.7


def test_the_time_bound_ends_a_fit() -> None:
    fit = FIT.model_copy(update={"epochs": 50, "minutes": 0.0})
    _, curve = fit_items(cycles(), settings(Kind.SASREC), fit, seed=0)
    assert len(curve) == 1 and "ndcg10" in curve[0]
