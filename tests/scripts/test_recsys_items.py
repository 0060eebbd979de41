"""Recommenders on item sequences: reading, packing, fits and ranks against brute force."""

from __future__ import annotations

import sys
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.baselines.sequential.arm import SequentialKind
from gplan_jax.baselines.sequential.encoder import UNSEEN, EncoderSettings
from gplan_jax.foundation import GplanError

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "scripts"))
from recsys_items import (
    ItemData,
    ItemFitSettings,
    ItemModelSettings,
    candidate_scores,
    fit_items,
    make_item_model,
    pack,
    rank_all,
    rank_candidates,
    ranking_metrics,
    ranks,
    read_items,
    represent_histories,
    training_batches,
    unseen_candidates,
)

ENCODER = EncoderSettings(hidden=8, layers=1, heads=1, inner=8, dropout=0.0)
FIT = ItemFitSettings(rows=2, epochs=2, validate_every=1, validation_users=20)


def test_reading_and_leaving_out(tmp_path: Path) -> None:
    file = tmp_path / "actions.txt"
    file.write_text("7 3\n7 1\n9 2\n7 4\n9 5\n\n")
    data = read_items(file)
    assert [history.tolist() for history in data.histories] == [[3, 1, 4], [2, 5]]
    assert data.items == 5 and data.actions == 5
    assert data.held_out().tolist() == [0]
    assert data.training(0).tolist() == [3] and data.training(1).tolist() == [2, 5]


@pytest.mark.parametrize("line", ["1 x", "1", "1 2 3", "0 4", "1 -2", "1 0"])
def test_a_bad_line_is_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "actions.txt"
    file.write_text(f"1 1\n{line}\n")
    with pytest.raises(GplanError, match="line 2"):
        read_items(file)
    file.write_text("")
    with pytest.raises(GplanError, match="no action"):
        read_items(file)


@given(st.lists(st.lists(st.integers(1, 99), min_size=1, max_size=12), min_size=1, max_size=20))
def test_packing_keeps_every_sequence_whole(sequences: list[list[int]]) -> None:
    packed = pack([np.array(s, np.int32) for s in sequences], length=10, longest=8)
    count = 0
    for number, sequence in enumerate(sequences):
        row, end = packed.row[number], packed.end[number]
        kept = sequence[-8:]
        where = slice(end - len(kept) + 1, end + 1)
        assert packed.items[row, where].tolist() == kept
        assert packed.positions[row, where].tolist() == list(range(8 - len(kept), 8))
        assert len(set(packed.segments[row, where].tolist())) == 1
        segment = packed.segments[row, end]
        assert (packed.segments[row] == segment).sum() == len(kept)
        count += len(kept)
    assert (packed.segments > 0).sum() == (packed.items > 0).sum() == count


def test_a_row_must_hold_the_longest() -> None:
    with pytest.raises(GplanError, match="longest is 9"):
        pack([np.array([1])], length=8, longest=9)


def test_candidates_are_different_and_unseen() -> None:
    data = ItemData((np.array([1, 2, 3]), np.array([4, 4, 5])), items=9)
    found = unseen_candidates(data, np.array([0, 1]), 6, seed=0)
    assert sorted(found[0].tolist()) == [4, 5, 6, 7, 8, 9]
    assert len(set(found[1].tolist())) == 6 and not {4, 5} & set(found[1].tolist())
    np.testing.assert_array_equal(found, unseen_candidates(data, np.array([0, 1]), 6, seed=0))
    with pytest.raises(GplanError, match="User 1 has seen 3 of 9"):
        unseen_candidates(data, np.array([0]), 7, seed=0)


def test_metrics_against_sorting() -> None:
    rng = np.random.default_rng(0)
    target, others = rng.normal(size=40), rng.normal(size=(40, 30))
    hits, gains = [], []
    for score, row in zip(target, others, strict=True):
        place = sorted([score, *row], reverse=True).index(score) + 1
        hits.append(place <= 10)
        gains.append(1 / np.log2(place + 1) if place <= 10 else 0)
    found = ranking_metrics(ranks(target, others))
    assert found == {"hr10": pytest.approx(np.mean(hits)), "ndcg10": pytest.approx(np.mean(gains))}


def test_equal_scores_and_closed_alternatives() -> None:
    alike = ranks(np.zeros(1), np.array([[0.0, 0.0, -np.inf, -1.0]]))
    assert alike.tolist() == [2]
    assert ranking_metrics(np.array([0, 9, 10])) == {
        "hr10": pytest.approx(2 / 3),
        "ndcg10": pytest.approx((1 + 1 / np.log2(11)) / 3),
    }


def test_candidates_are_the_target_and_the_shared_negatives_but_itself() -> None:
    table = jnp.arange(10.0).reshape(5, 2)
    x = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    found = np.asarray(candidate_scores(x, table, jnp.array([1, 3]), jnp.array([3, 4])))
    np.testing.assert_array_equal(found[0], [2.0, 6.0, 8.0])
    np.testing.assert_array_equal(found[1], np.array([7.0, UNSEEN, 9.0], np.float32))


def settings(kind: SequentialKind, loss: str = "sampled") -> ItemModelSettings:
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
    for batch in training_batches(
        data, settings(SequentialKind.SASREC), FIT, np.random.default_rng(1)
    ):
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
    for batch in training_batches(
        data, settings(SequentialKind.BERT4REC), fit, np.random.default_rng(1)
    ):
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


@pytest.mark.parametrize(
    "kind", [SequentialKind.SASREC, SequentialKind.BERT4REC, SequentialKind.REAREC_ERL]
)
def test_ranks_are_those_of_one_history_at_a_time(kind: SequentialKind) -> None:
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
    model, curve = fit_items(data, settings(SequentialKind.SASREC), fit, seed=0, out=out)
    assert len(curve) == 20 and curve[-1]["ndcg10"] > 0.8
    assert curve[-1]["loss"] < curve[0]["loss"] / 2
    stored = np.load(out)
    np.testing.assert_array_equal(stored["table"], np.asarray(model.table[...]))


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind", [SequentialKind.BERT4REC, SequentialKind.REAREC_ERL, SequentialKind.REAREC_PRL]
)
@pytest.mark.parametrize("loss", ["sampled", "bce", "softmax"])
def test_every_model_and_loss_learns(kind: SequentialKind, loss: str) -> None:
    data = cycles(400, 120)
    fit = ItemFitSettings(rows=4, epochs=60, learning_rate=0.01, validate_every=20)
    _, curve = fit_items(data, settings(kind, loss), fit, seed=0)
    assert curve[-1]["ndcg10"] > 0.7


def test_the_time_bound_ends_a_fit() -> None:
    fit = FIT.model_copy(update={"epochs": 50, "minutes": 0.0})
    _, curve = fit_items(cycles(), settings(SequentialKind.SASREC), fit, seed=0)
    assert len(curve) == 1 and "ndcg10" in curve[0]
