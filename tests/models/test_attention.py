"""Attention against a loop over heads, and its masks."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from gplan_jax.models.attention import attention, causal_mask


def test_equals_a_loop_over_rows_and_heads() -> None:
    rng = np.random.default_rng(0)
    query = rng.normal(size=(2, 3, 6, 4)).astype(np.float32)
    key, value = rng.normal(size=(2, 2, 5, 2, 4)).astype(np.float32)
    mask = rng.random((2, 3, 5)) < 0.6
    mask[:, :, 0] = True
    expected = np.empty_like(query)
    for b, t, n in np.ndindex(2, 3, 6):
        group = n // 3  # 6 query heads share 2 key/value heads, neighbours together
        seen = mask[b, t]
        scores = key[b, seen, group] @ query[b, t, n] / 2.0
        weights = np.exp(scores) / np.exp(scores).sum()
        expected[b, t, n] = weights @ value[b, seen, group]
    np.testing.assert_allclose(attention(query, key, value, mask), expected, atol=1e-6)


def test_a_row_that_sees_nothing_stays_finite() -> None:
    ones = jnp.ones((1, 2, 2, 4))
    assert jnp.isfinite(attention(ones, ones, ones, jnp.zeros((1, 2, 2), bool))).all()


def test_bfloat16_values_are_mixed_with_a_float32_softmax() -> None:
    rng = np.random.default_rng(1)
    query, key, value = rng.normal(size=(3, 1, 64, 2, 8)).astype(np.float32)
    mask = np.ones((1, 64, 64), bool)
    low = attention(*(jnp.asarray(x, jnp.bfloat16) for x in (query, key, value)), mask)
    assert low.dtype == jnp.bfloat16
    exact = attention(
        *(jnp.asarray(x, jnp.bfloat16).astype(jnp.float32) for x in (query, key, value)), mask
    )
    np.testing.assert_allclose(low.astype(jnp.float32), exact, atol=0.01)


def test_causal_mask_hides_the_future_and_padding() -> None:
    mask = causal_mask(jnp.asarray([[1, 1, 0]]))
    assert mask.tolist() == [
        [[True, False, False], [True, True, False], [True, True, False]],
    ]
