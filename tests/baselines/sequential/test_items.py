"""Item data: reading, packing, candidates, and metrics against brute force."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.baselines.sequential.items import (
    ItemData,
    pack,
    ranking_metrics,
    ranks,
    read_items,
    unseen_candidates,
)
from gplan_jax.foundation import GplanError


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
