"""Every kernel against one dense mask in float32: outputs and gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial
from typing import Any

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from gplan_jax.foundation import GplanError
from gplan_jax.models.attention import causal as attention_module
from gplan_jax.models.attention.causal import Context, causal_attention
from gplan_jax.models.attention.kernels import block_size, splash_attention
from gplan_jax.models.attention.merge import Flash, merged_attention

B, T, C, N, K, H = 3, 10, 5, 4, 2, 8


def dense(query: Any, key: Any, value: Any, lengths: Any, contexts: Any) -> jax.Array:
    """What every kernel must equal: all keys in one array, one mask [B, T, keys]."""
    batch, queries = query.shape[:2]
    keys, values, masks = [], [], []
    for context in contexts:
        size = context.key.shape[1]
        parent = np.arange(batch) // (batch // len(context.lengths))
        keys.append(context.key[parent])
        values.append(context.value[parent])
        seen = (jnp.arange(size) < context.lengths[parent][:, None])[:, None]
        masks.append(jnp.broadcast_to(seen, (batch, queries, size)))
    masks.append(jnp.broadcast_to(jnp.tri(queries, dtype=bool), (batch, queries, queries)))
    groups = query.shape[2] // key.shape[2]
    key = jnp.repeat(jnp.concatenate([*keys, key], axis=1), groups, axis=2)
    value = jnp.repeat(jnp.concatenate([*values, value], axis=1), groups, axis=2)
    scores = jnp.einsum("BTNH,BCNH->BNTC", query, key) * query.shape[-1] ** -0.5
    seen = jnp.concatenate(masks, axis=2)[:, None]
    weights = jax.nn.softmax(jnp.where(seen, scores, jnp.finfo(scores.dtype).min))
    mixed = jnp.einsum("BNTC,BCNH->BTNH", weights, value)
    return jnp.where((jnp.arange(queries) < lengths[:, None])[..., None, None], mixed, 0)


def _plain_scores(query: Any, key: Any, key_lengths: Any) -> jax.Array:
    _, queries, heads, head_dim = query.shape
    key = jnp.repeat(key, heads // key.shape[2], axis=2)
    scores = jnp.einsum("BTNH,BCNH->BNTC", query, key) * head_dim**-0.5
    if key_lengths is None:
        seen = jnp.tri(queries, dtype=bool)[None]
    else:
        seen = (jnp.arange(key.shape[1]) < key_lengths[:, None])[:, None]
    return jnp.where(seen[:, None], scores, -jnp.inf)


def _plain_forward(query: Any, key: Any, value: Any, key_lengths: Any) -> Any:
    scores = _plain_scores(query, key, key_lengths)
    value = jnp.repeat(value, query.shape[2] // value.shape[2], axis=2)
    mixed = jnp.einsum("BNTC,BCNH->BTNH", jax.nn.softmax(scores), value)
    return mixed, jax.nn.logsumexp(scores, axis=-1).swapaxes(1, 2)


def _plain_backward(
    query: Any, key: Any, value: Any, key_lengths: Any, output: Any, lse: Any, d_output: Any
) -> Any:
    """The flash backward pass as the paper has it, from the log-sum-exp and output it is given."""
    groups = query.shape[2] // key.shape[2]
    scale = query.shape[-1] ** -0.5
    weights = jnp.exp(_plain_scores(query, key, key_lengths) - lse.swapaxes(1, 2)[..., None])
    d_weights = jnp.einsum("BTNH,BCNH->BNTC", d_output, jnp.repeat(value, groups, axis=2))
    delta = jnp.einsum("BTNH,BTNH->BNT", output, d_output)
    d_scores = weights * (d_weights - delta[..., None]) * scale
    d_query = jnp.einsum("BNTC,BCNH->BTNH", d_scores, jnp.repeat(key, groups, axis=2))
    d_key = jnp.einsum("BNTC,BTNH->BCNH", d_scores, query)
    d_value = jnp.einsum("BNTC,BTNH->BCNH", weights, d_output)
    per_key_head = (*key.shape[:3], groups, key.shape[3])
    return d_query, d_key.reshape(per_key_head).sum(3), d_value.reshape(per_key_head).sum(3)


PLAIN_FLASH = Flash(_plain_forward, _plain_backward)


def _with_padding_silenced(call: Any) -> Callable[..., jax.Array]:
    """A kernel's bare call as ``causal_attention`` uses it."""

    def attend(query: Any, key: Any, value: Any, lengths: Any, contexts: Any) -> jax.Array:
        mixed = call(query, key, value, tuple(contexts))
        assert mixed.shape == query.shape
        inside = jnp.arange(query.shape[1]) < lengths[:, None]
        return jnp.where(inside[..., None, None], mixed, 0)

    return attend


KERNELS: dict[str, Callable[..., jax.Array]] = {
    "dense": dense,
    "xla": partial(causal_attention, kernel="xla"),
    "merged": _with_padding_silenced(partial(merged_attention, PLAIN_FLASH)),
    "splash": _with_padding_silenced(partial(splash_attention, interpret=True)),
}


@cache
def _both_passes(kernel: str) -> Callable[..., Any]:
    def both(arrays: Any, lengths: Any, context_lengths: Any, d_output: Any) -> Any:
        def forward(query: Any, key: Any, value: Any, kv: Any) -> jax.Array:
            contexts = [
                Context(*pair, shown) for pair, shown in zip(kv, context_lengths, strict=True)
            ]
            return KERNELS[kernel](query, key, value, lengths, contexts)

        output, pull = jax.vjp(forward, *arrays)
        return output, pull(d_output)

    # Compiling is nearly all of the time here.
    return jax.jit(both, compiler_options={"xla_backend_optimization_level": 0})


def random_operands(
    seed: int, context_rows: list[int], *, queries: int = T, rows: int = B
) -> tuple[Any, jax.Array]:
    rng = np.random.default_rng(seed)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    own = normal(rows, queries, N, H), normal(rows, queries, K, H), normal(rows, queries, K, H)
    kv = [(normal(n, C + i, K, H), normal(n, C + i, K, H)) for i, n in enumerate(context_rows)]
    return (*own, kv), normal(rows, queries, N, H)


def assert_equal(kernel: str, seed: int, lengths: Any, context_lengths: Any, **sizes: int) -> None:
    arrays, d_output = random_operands(seed, [len(shown) for shown in context_lengths], **sizes)
    lengths = jnp.asarray(lengths, jnp.int32)
    context_lengths = [jnp.asarray(shown, jnp.int32) for shown in context_lengths]
    expected, expected_gradients = _both_passes("dense")(arrays, lengths, context_lengths, d_output)
    output, gradients = _both_passes(kernel)(arrays, lengths, context_lengths, d_output)
    np.testing.assert_allclose(output, expected, rtol=1e-5, atol=3e-6)
    chex.assert_trees_all_close(gradients, expected_gradients, rtol=1e-4, atol=2e-5)


@st.composite
def visible_lengths(draw: st.DrawFn) -> tuple[list[int], list[list[int]]]:
    lengths = draw(st.lists(st.integers(0, T), min_size=B, max_size=B))
    context_rows = draw(st.sampled_from([[], [1], [B], [1, B]]))  # 1: shared
    contexts = [
        draw(st.lists(st.integers(0, C + i), min_size=rows, max_size=rows))
        for i, rows in enumerate(context_rows)
    ]
    return lengths, contexts


EMPTY_EVERYWHERE = ([0] * B, [[0], [0, 3, 0]])


@pytest.mark.parametrize("kernel", ["xla", "merged"])
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), lengths=visible_lengths())
@example(seed=0, lengths=EMPTY_EVERYWHERE)
def test_equals_one_dense_mask(kernel: str, seed: int, lengths: Any) -> None:
    assert_equal(kernel, seed, *lengths)


@pytest.mark.parametrize(
    ("lengths", "context_lengths"),
    [([T, 3, 1], []), ([T, 3, 1], [[4], [6, 0, 1]]), EMPTY_EVERYWHERE],
)
def test_splash_equals_one_dense_mask(lengths: Any, context_lengths: Any) -> None:
    assert_equal("splash", 0, lengths, context_lengths)


@pytest.mark.slow
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32), lengths=visible_lengths())
def test_splash_equals_one_dense_mask_at_random_lengths(seed: int, lengths: Any) -> None:
    assert_equal("splash", seed, *lengths)


def test_splash_over_several_blocks() -> None:
    queries = 300  # three blocks of queries; contexts start within a block of keys
    assert_equal("splash", 0, [queries, 7], [[4], [5, 0]], queries=queries, rows=2)


def test_xla_over_several_blocks_of_queries() -> None:
    queries = 2 * attention_module._QUERY_BLOCK + 3
    assert_equal("xla", 0, [queries, 0], [[4], [2, 6]], queries=queries, rows=2)


def test_xla_limits_the_number_of_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_module, "_QUERY_BLOCK", 1)
    monkeypatch.setattr(attention_module, "_MOST_BLOCKS", 4)
    calls = []
    block = attention_module._attend_block

    def counted(*args: Any) -> jax.Array:
        calls.append(args[1].shape[1])
        return block(*args)

    monkeypatch.setattr(attention_module, "_attend_block", counted)
    arrays, _ = random_operands(0, [])
    jax.eval_shape(causal_attention, *arrays[:3], jnp.full(B, T))
    assert calls == [3, 3, 3, 1]


@pytest.mark.parametrize("kernel", ["xla", "merged", "splash"])
def test_padding_neither_gives_nor_takes_gradient(kernel: str) -> None:
    arrays, d_output = random_operands(1, [1, B])
    lengths, shown = jnp.asarray([4, 0, T]), [jnp.asarray([3]), jnp.full(B, 3)]
    output, (d_query, d_key, d_value, d_kv) = _both_passes(kernel)(arrays, lengths, shown, d_output)
    padding = jnp.arange(T) >= lengths[:, None]
    for x in (output, d_query, d_key, d_value):
        assert not x[padding].any()
        assert x[~padding].any()
    for x in jax.tree.leaves(d_kv):
        assert not x[:, 3:].any()
        assert x[:, :3].any()


GROUPED_ROWS = 8


@pytest.mark.parametrize("kernel", ["xla", "merged", "splash"])
@pytest.mark.parametrize("context_rows", [[4], [1, 2, 4, 8]])
def test_a_context_of_some_rows_is_the_same_one_in_each_of_theirs(
    kernel: str, context_rows: list[int]
) -> None:
    (*own, kv), d_output = random_operands(2, context_rows, rows=GROUPED_ROWS)
    lengths = jnp.asarray([T, 0, 3, T, 1, T, T, 7])
    # Some rows of every context but the shared one are empty.
    shown = [(3 * jnp.arange(n) + 2 * (n == 1)) % (C + 1) for n in context_rows]
    each = [GROUPED_ROWS // n for n in context_rows]
    repeated = [
        tuple(jnp.repeat(x, b, axis=0) for x in pair) for pair, b in zip(kv, each, strict=True)
    ]
    shown_repeated = [jnp.repeat(x, b) for x, b in zip(shown, each, strict=True)]
    output, gradients = _both_passes(kernel)((*own, kv), lengths, shown, d_output)
    expected, by_row = _both_passes(kernel)((*own, repeated), lengths, shown_repeated, d_output)
    np.testing.assert_allclose(output, expected, atol=1e-6)
    chex.assert_trees_all_close(gradients[:3], by_row[:3], rtol=1e-6, atol=1e-6)
    for pair, pair_by_row, n in zip(gradients[3], by_row[3], context_rows, strict=True):
        for given_, wanted in zip(pair, pair_by_row, strict=True):
            summed = wanted.reshape(n, -1, *wanted.shape[1:]).sum(1)
            np.testing.assert_allclose(given_, summed, rtol=1e-6, atol=2e-6)


@pytest.mark.parametrize("kernel", ["xla", "merged", "splash"])
def test_contexts_of_some_rows_equal_one_dense_mask(kernel: str) -> None:
    lengths = [T, 3, 0, 1, T, T]
    assert_equal(kernel, 5, lengths, [[4], [0, 6, 2], [7, 0], [1, 2, 3, 4, 0, 8]], rows=6)


def test_rows_that_do_not_divide_are_named() -> None:
    (*own, kv), _ = random_operands(0, [2])
    context = Context(*kv[0], jnp.asarray([1, 2]))
    with pytest.raises(GplanError, match="context of 2 rows can't serve 3 rows"):
        causal_attention(*own, jnp.full(B, T), [context])


@pytest.mark.parametrize("kernel", ["xla", "merged", "splash"])
def test_large_scores_stay_finite(kernel: str) -> None:
    (query, *rest), d_output = random_operands(3, [1, B])
    operands = ((1000 * query, *rest), jnp.full(B, T), [jnp.asarray([4]), jnp.asarray([0, 6, 2])])
    expected, _ = _both_passes("dense")(*operands, d_output)
    output, gradients = _both_passes(kernel)(*operands, d_output)
    np.testing.assert_allclose(output, expected, atol=5e-3)
    assert all(jnp.isfinite(x).all() for x in jax.tree.leaves(gradients))


def test_bfloat16_keeps_its_dtype_and_the_float32_softmax() -> None:
    def low(x: jax.Array) -> jax.Array:
        return x.astype(jnp.bfloat16)

    arrays, d_output = random_operands(4, [1, B])
    lengths, shown = jnp.full(B, T), [jnp.asarray([5]), jnp.asarray([0, 6, 2])]
    arrays, d_output = jax.tree.map(low, (arrays, d_output))
    output, gradients = _both_passes("xla")(arrays, lengths, shown, d_output)
    assert {x.dtype for x in jax.tree.leaves((output, gradients))} == {jnp.dtype(jnp.bfloat16)}
    exact = jax.tree.map(lambda x: x.astype(jnp.float32), (arrays, d_output))
    expected, _ = _both_passes("dense")(exact[0], lengths, shown, exact[1])
    np.testing.assert_allclose(output.astype(jnp.float32), expected, atol=0.02)


def test_splash_blocks_are_large_where_padding_is_small() -> None:
    assert [block_size(n) for n in (1, 130, 1152, 1920, 1408, 2048)] == [
        *(128, 128, 384, 512, 512, 512)
    ]
