"""Attention against a loop over heads, its masks, and which kernel serves where."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
import numpy as np
import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.models.attention.causal import causal_attention, resolve_kernel


def test_equals_a_loop_over_rows_and_heads() -> None:
    rng = np.random.default_rng(0)
    query = rng.normal(size=(2, 5, 6, 4)).astype(np.float32)
    key, value = rng.normal(size=(2, 2, 5, 2, 4)).astype(np.float32)
    mask = rng.random((2, 5, 5)) < 0.6
    mask[:, :, 0] = True
    expected = np.empty_like(query)
    for b, t, n in np.ndindex(2, 5, 6):
        group = n // 3  # 6 query heads share 2 key/value heads, neighbours together
        seen = mask[b, t]
        scores = key[b, seen, group] @ query[b, t, n] / 2.0
        weights = np.exp(scores) / np.exp(scores).sum()
        expected[b, t, n] = weights @ value[b, seen, group]
    np.testing.assert_allclose(attention(query, key, value, mask), expected, atol=1e-6)


def attention(query: Any, key: Any, value: Any, mask: np.ndarray) -> Any:
    lengths = jnp.full(len(query), query.shape[1])
    return causal_attention(query, key, value, lengths, own_mask_BxTxT=mask)


def test_a_row_that_sees_nothing_stays_finite() -> None:
    ones = jnp.ones((1, 2, 2, 4))
    assert jnp.isfinite(attention(ones, ones, ones, np.zeros((1, 2, 2), bool))).all()


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


@pytest.mark.parametrize(
    ("platform", "dtype", "head_dim", "kernel"),
    [
        ("gpu", jnp.bfloat16, 128, "cudnn"),
        ("cuda", jnp.float16, 64, "cudnn"),
        ("gpu", jnp.float32, 128, "xla"),
        ("gpu", jnp.bfloat16, 256, "xla"),
        ("gpu", jnp.bfloat16, 36, "xla"),
        ("tpu", jnp.bfloat16, 128, "splash"),
        ("tpu", jnp.float32, 64, "splash"),
        ("tpu", jnp.bfloat16, 16, "xla"),
        ("cpu", jnp.bfloat16, 128, "xla"),
    ],
)
def test_auto_is_the_kernel_that_can_run(
    platform: str, dtype: type, head_dim: int, kernel: str
) -> None:
    def resolve(name: str) -> str:
        return resolve_kernel(name, platform=platform, dtype=dtype, head_dim=head_dim)

    assert resolve("auto") == resolve(kernel) == kernel
    assert resolve("xla") == "xla"


@pytest.mark.parametrize(
    ("name", "platform", "dtype", "head_dim", "reason"),
    [
        ("cudnn", "cpu", jnp.bfloat16, 128, "needs an NVIDIA GPU and these devices are cpu"),
        ("cudnn", "gpu", jnp.float32, 128, "in bfloat16 or float16, not float32"),
        ("cudnn", "gpu", jnp.bfloat16, 136, "multiple of 8 up to 128, not of 136"),
        ("splash", "gpu", jnp.bfloat16, 128, "needs a TPU and these devices are gpu"),
        ("splash", "tpu", jnp.bfloat16, 96, "64 or a multiple of 128, not of 96"),
        ("flash", "gpu", jnp.bfloat16, 128, "is no kernel; choose auto, cudnn, splash, xla"),
    ],
)
def test_a_kernel_that_cannot_run_says_why(
    name: str, platform: str, dtype: type, head_dim: int, reason: str
) -> None:
    with pytest.raises(GplanError, match=f"precision.attention={name} .*{reason}"):
        resolve_kernel(name, platform=platform, dtype=dtype, head_dim=head_dim)
