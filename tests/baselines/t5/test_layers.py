"""Relative position buckets against a slow formula, masks and dropout."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gplan_jax.baselines.t5.layers import dropout, relative_buckets


def _bucket(distance: int, bidirectional: bool, buckets: int, furthest: int) -> int:
    """Appendix of the T5 paper in exact steps: where each bucket begins, counted up one by one."""
    if bidirectional:
        half = buckets // 2
        side = half if distance > 0 else 0
        return side + _bucket(-abs(distance), False, half, furthest)
    back = max(-distance, 0)
    exact = buckets // 2
    if back < exact:
        return back
    bucket = exact
    while bucket < buckets - 1:
        begins = exact * (furthest / exact) ** ((bucket + 1 - exact) / (buckets - exact))
        if back < begins - 1e-6:
            break
        bucket += 1
    return bucket


@pytest.mark.parametrize("bidirectional", [True, False])
@settings(deadline=None, max_examples=20)
@given(quarter=st.integers(2, 12), furthest=st.integers(30, 300))
def test_buckets_are_those_of_a_slow_formula(
    bidirectional: bool, quarter: int, furthest: int
) -> None:
    distances = np.arange(-320, 321)
    fast = relative_buckets(
        jnp.asarray(distances),
        bidirectional=bidirectional,
        buckets=4 * quarter,
        max_distance=furthest,
    )
    slow = np.array([_bucket(int(d), bidirectional, 4 * quarter, furthest) for d in distances])
    # A distance right at a bucket's beginning may round to either side of it.
    apart = np.flatnonzero(np.asarray(fast) != slow)
    assert len(apart) <= 4 and np.all(np.abs(np.asarray(fast)[apart] - slow[apart]) == 1)


def test_buckets_of_t5s_own_settings() -> None:
    # From the reference implementation with 32 buckets up to a distance of 128.
    distances = jnp.array([-200, -128, -60, -20, -12, -8, -7, -1, 0, 1, 7, 8, 12, 20, 60, 128, 200])
    both = relative_buckets(distances, bidirectional=True, buckets=32, max_distance=128)
    causal = relative_buckets(distances, bidirectional=False, buckets=32, max_distance=128)
    assert both.tolist() == [15, 15, 13, 10, 9, 8, 7, 1, 0, 17, 23, 24, 25, 26, 29, 31, 31]
    assert causal.tolist() == [31, 31, 26, 17, 12, 8, 7, 1, *[0] * 9]


def test_dropout_keeps_the_mean_drops_features_of_all_tokens_and_needs_a_key() -> None:
    x = jnp.ones((200, 3, 200))
    dropped = dropout(x, 0.25, jax.random.key(0))
    assert set(np.unique(dropped).tolist()) == {0.0, np.float32(1 / 0.75)}
    assert math.isclose(float(dropped.mean()), 1, abs_tol=0.02)
    np.testing.assert_array_equal(dropped[:, 0], dropped[:, 2])
    assert dropout(x, 0.25, None) is x
