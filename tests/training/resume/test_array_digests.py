"""Checksums see every changed bit and place, and no sharding, order or mesh."""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.training.resume.run_directory import digest_arrays


def checksum(x: np.ndarray) -> int:
    return digest_arrays({"x": jnp.asarray(x)})["x"].checksum


@given(st.integers(0, 59), st.integers(0, 31))
def test_any_flipped_bit_changes_the_checksum(word: int, bit: int) -> None:
    x = np.random.default_rng(0).normal(size=(3, 4, 5)).astype(np.float32)
    changed = x.copy()
    changed.view(np.uint32).reshape(-1)[word] ^= np.uint32(1) << np.uint32(bit)
    assert checksum(changed) != checksum(x)


def test_moved_numbers_and_lost_blocks_change_the_checksum() -> None:
    x = np.arange(24, dtype=np.float32).reshape(4, 6)
    lost = x.copy()
    lost[1] = 0
    others = [x.T.reshape(4, 6), x[::-1], x[:, ::-1], np.roll(x, 1), lost, np.zeros_like(x)]
    assert checksum(x) not in [checksum(other) for other in others]


@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int32", "int8", "bool"])
def test_every_dtype_has_a_digest(dtype: str) -> None:
    x = jnp.asarray([[0, 1, 1], [1, 0, 1]], dtype)
    digest = digest_arrays({"x": x})["x"]
    assert (digest.dtype, digest.shape, digest.finite) == (dtype, (2, 3), True)
    assert digest.checksum != digest_arrays({"x": x.at[1, 1].set(1)})["x"].checksum


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_is_seen(bad: float) -> None:
    x = jnp.ones((5, 5)).at[3, 4].set(bad)
    digests = digest_arrays({"x": x, "y": jnp.ones(3), "step": jnp.int32(4)})
    assert [name for name, digest in digests.items() if not digest.finite] == ["x"]
