"""T5 against logits of Hugging Face's T5, its identities, and its position buckets."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from gplan_jax.baselines.t5.model import T5, T5Config, dropout, relative_buckets, shift_right

# Compiled as a whole they are ready sooner than operation by operation.
decode = nnx.jit(T5.decode)

SOURCE = np.array(
    [[(7 * i + 3) % 10 + 1 for i in range(20)], [(3 * i + 5) % 10 + 1 for i in range(14)] + [0] * 6]
)
TARGET = np.array([[0, 4, 9, 2, 2, 7, 1, 3, 10, 5], [0, 8, 8, 1, 6, 3, 2, 9, 4, 7]])
# Logits of transformers' T5ForConditionalGeneration under the same weights: rows 0 and 1, first
# and last position, first four tokens.
GOLDEN = [
    [[-1.97275, -1.74202, -0.72935, 0.6107], [-1.58546, -1.87763, -1.327, -0.18072]],
    [[-1.92451, -1.78754, -0.8482, 0.47187], [1.88079, 0.84258, -0.57383, -1.73267]],
]


@nnx.jit
def encode(
    model: T5, tokens: np.ndarray, mask: np.ndarray, key: jax.Array | None = None
) -> jax.Array:
    return model.encode(model.embed(tokens), mask, key)


@pytest.fixture(scope="module")
def model() -> T5:
    """A T5 whose weights are a formula of their names: sin(0.7 i + letters of the name)."""
    config = T5Config(
        vocabulary_size=11, hidden_size=8, heads=2, head_dim=4, mlp_size=12, buckets=8,
        max_distance=16,
    )  # fmt: skip
    model = T5(config, rngs=nnx.Rngs(0))
    for path, parameter in nnx.to_flat_state(nnx.state(model, nnx.Param)):
        name = ".".join(map(str, path))
        wave = np.sin(0.7 * np.arange(parameter.size) + sum(map(ord, name)))
        if name.endswith("scale"):
            value = 1 + 0.1 * wave
        else:
            value = wave * (1 if name == "embedding" else 0.5)
        parameter[...] = jnp.asarray(value.reshape(parameter.shape), jnp.float32)
    return model


def test_logits_are_those_of_the_reference(model: T5) -> None:
    logits = decode(model, TARGET, encode(model, SOURCE, SOURCE > 0), SOURCE > 0)
    np.testing.assert_allclose(logits[:, [0, -1], :4], GOLDEN, atol=5e-5)


def test_cached_steps_are_teacher_forcing(model: T5) -> None:
    encoded = encode(model, SOURCE, SOURCE > 0)
    whole = decode(model, TARGET, encoded, SOURCE > 0)
    # Two beams a row: the target itself, and a nonsense one whose cache row is thrown away.
    cache = model.start(encoded, SOURCE > 0, beams=2, steps=TARGET.shape[1])
    step = jax.jit(lambda cache, tokens: model.step(cache, tokens))
    for t in range(TARGET.shape[1]):
        cache, logits = step(cache, jnp.asarray(np.repeat(TARGET[:, t], 2)))
        np.testing.assert_allclose(logits[::2], whole[:, t], atol=1e-4)
        np.testing.assert_allclose(logits[1::2], whole[:, t], atol=1e-4)
        cache = cache.reorder(jnp.array([0, 0, 3, 2]))


def test_padding_changes_nothing_wherever_it_stands(model: T5) -> None:
    row = SOURCE[1:, :14]
    short = encode(model, row, row > 0)
    padded = encode(model, np.pad(row, ((0, 0), (0, 5))), np.arange(19)[None] < 14)
    np.testing.assert_allclose(padded[:, :14], short, atol=1e-5)
    # On the left, positions stay relative and so does everything else.
    left = np.pad(row, ((0, 0), (5, 0)))
    np.testing.assert_allclose(encode(model, left, left > 0)[:, 5:], short, atol=1e-5)
    logits = decode(model, TARGET[1:], short, row > 0)
    np.testing.assert_allclose(
        decode(model, TARGET[1:], encode(model, left, left > 0), left > 0), logits, atol=1e-5
    )


def test_the_decoder_does_not_look_ahead(model: T5) -> None:
    encoded = encode(model, SOURCE, SOURCE > 0)
    before = decode(model, TARGET, encoded, SOURCE > 0)
    later = decode(model, np.where(np.arange(10) < 6, TARGET, 3), encoded, SOURCE > 0)
    np.testing.assert_array_equal(before[:, :6], later[:, :6])
    assert np.abs(before[:, 6:] - later[:, 6:]).max() > 1e-3


def test_a_key_drops_out_and_the_same_key_alike() -> None:
    config = T5Config(vocabulary_size=11, hidden_size=8, heads=2, head_dim=4, dropout=0.3)
    model = T5(config, rngs=nnx.Rngs(0))
    first, again = (encode(model, SOURCE, SOURCE > 0, jax.random.key(1)) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert np.abs(first - encode(model, SOURCE, SOURCE > 0)).max() > 0.1


def test_targets_are_shifted_behind_the_start() -> None:
    np.testing.assert_array_equal(shift_right(jnp.array([[5, 6, 7]]), 9), [[9, 5, 6]])


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
