"""RMS norm by its formula; rotary embedding by what it is for: relative positions."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.models.layers.norms import rms_norm, rotate, rotation

RNG = np.random.default_rng(0)


def turn(x: np.ndarray, position: int) -> jnp.ndarray:
    cos_sin = rotation(jnp.asarray([[position]]), x.shape[-1], theta=1000.0)
    return rotate(jnp.asarray(x)[None, None, None], cos_sin)[0, 0, 0]


def test_rms_norm_formula() -> None:
    x, scale = RNG.normal(size=(3, 5)), RNG.normal(size=5)
    expected = x / np.sqrt((x**2).mean(-1, keepdims=True) + 0.1) * scale
    np.testing.assert_allclose(rms_norm(jnp.asarray(x), jnp.asarray(scale), 0.1), expected, 1e-5)


def test_rms_norm_of_bfloat16_is_computed_in_float32() -> None:
    x = jnp.asarray(RNG.normal(size=(4, 4096)), jnp.bfloat16)
    normed = rms_norm(x, jnp.ones(4096, jnp.bfloat16), 1e-6)
    assert normed.dtype == jnp.bfloat16
    exact = rms_norm(x.astype(jnp.float32), jnp.ones(4096), 1e-6)
    assert (normed == exact.astype(jnp.bfloat16)).all()


@given(st.integers(0, 4000), st.integers(0, 4000), st.integers(0, 90))
def test_products_depend_on_distance_only(first: int, second: int, shift: int) -> None:
    rng = np.random.default_rng(first)
    query, key = rng.normal(size=(2, 8)).astype(np.float32)
    here = turn(query, first) @ turn(key, second)
    there = turn(query, first + shift) @ turn(key, second + shift)
    np.testing.assert_allclose(here, there, atol=5e-3)


def test_position_zero_changes_nothing_and_lengths_are_kept() -> None:
    x = RNG.normal(size=8).astype(np.float32)
    np.testing.assert_array_equal(turn(x, 0), x)
    np.testing.assert_allclose(jnp.linalg.norm(turn(x, 321)), np.linalg.norm(x), rtol=1e-5)


def test_the_first_pair_turns_by_one_radian_a_position() -> None:
    x = np.zeros(8, np.float32)
    x[0] = 1.0
    turned = turn(x, 2)
    np.testing.assert_allclose([turned[0], turned[4]], [np.cos(2), np.sin(2)], atol=1e-6)
