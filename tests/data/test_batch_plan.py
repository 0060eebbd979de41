from __future__ import annotations

import pickle

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.data.batch_plan import EMPTY_ROW, BatchPlan
from gplan_jax.objectives import CompressionCurriculum


def make_plan(
    samples: int, batch: int, *, epochs: int = 3, seed: int = 0, window: int = 2, stages: int = 3
) -> BatchPlan:
    rng = np.random.default_rng(samples)
    lengths = rng.integers(1, 300, size=(samples, stages, 2))
    return BatchPlan(
        lengths,
        CompressionCurriculum(samples),
        batch_size=batch,
        epochs=epochs,
        seed=seed,
        window_batches=window,
        length_multiple=16,
        response_multiple=8,
    )


@given(samples=st.integers(1, 40), batch=st.integers(1, 9), seed=st.integers(0, 99))
def test_every_row_is_seen_once_an_epoch_at_its_stage(samples: int, batch: int, seed: int) -> None:
    plan = make_plan(samples, batch, seed=seed)
    for epoch in range(plan.epochs):
        steps = range(epoch * plan.steps_per_epoch, (epoch + 1) * plan.steps_per_epoch)
        batches = [plan.batch(step) for step in steps]
        rows = np.concatenate([b.rows for b in batches])
        assert sorted(rows[rows != EMPTY_ROW]) == list(range(samples))
        assert {b.stage for b in batches} == {b.epoch for b in batches} == {epoch}
        assert all(len(b.rows) == batch for b in batches)


@given(samples=st.integers(1, 40), batch=st.integers(1, 9))
def test_rows_fit_and_shapes_are_few(samples: int, batch: int) -> None:
    plan = make_plan(samples, batch)
    for step in range(plan.total_steps):
        spec = plan.batch(step)
        lengths = plan.lengths_NxGx2[spec.rows[spec.rows != EMPTY_ROW], min(spec.stage, 2)]
        assert lengths.sum(axis=1).max() <= spec.sequence_length
        assert lengths[:, 1].max() <= spec.response_length
        assert spec.sequence_length % 16 == 0 and spec.response_length % 8 == 0
        assert spec.sequence_length < lengths.sum(axis=1).max() + 16


def test_batches_do_not_depend_on_the_order_of_asking() -> None:
    forward, backward = make_plan(23, 4), make_plan(23, 4)
    steps = range(forward.total_steps)
    there = [forward.batch(step).rows.tolist() for step in steps]
    back = [backward.batch(step).rows.tolist() for step in reversed(steps)]
    assert there == back[::-1]
    sent = pickle.loads(pickle.dumps(forward))
    assert sent.batch(5).rows.tolist() == there[5]


def test_epochs_and_seeds_shuffle_differently() -> None:
    plan, other = make_plan(64, 8), make_plan(64, 8, seed=1)
    first = [plan.batch(step).rows.tolist() for step in range(8)]
    second = [plan.batch(step).rows.tolist() for step in range(8, 16)]
    assert first != second
    assert first != [other.batch(step).rows.tolist() for step in range(8)]


def test_windows_pad_less_than_a_plain_shuffle() -> None:
    def padded(window: int) -> int:
        plan = make_plan(256, 8, window=window)
        return sum(plan.batch(step).sequence_length for step in range(plan.steps_per_epoch))

    assert padded(16) < 0.8 * padded(1)


def test_refuses_lengths_of_other_samples() -> None:
    with pytest.raises(ValueError, match="number of samples"):
        BatchPlan(np.ones((3, 1, 2), int), CompressionCurriculum(4), batch_size=2, epochs=1, seed=0)
