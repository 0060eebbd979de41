"""The cuDNN path as far as a machine without a GPU can follow it: what it lowers to."""

from __future__ import annotations

import importlib.util
import re
from typing import Any

import jax
import jax.numpy as jnp
import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.models.attention import kernels as attention_cudnn
from gplan_jax.models.attention.causal import Context, causal_attention

# What the compiler must know of an H200, in XLA's GpuTargetConfigProto.
H200 = """
platform_name: "CUDA" device_description_str: "NVIDIA H200" dnn_version_info { major: 9 minor: 10 }
gpu_device_info {
  threads_per_block_limit: 1024 threads_per_warp: 32 shared_memory_per_block: 49152
  shared_memory_per_core: 233472 threads_per_core_limit: 2048 core_count: 132 fpus_per_core: 128
  block_dim_limit_x: 2147483647 block_dim_limit_y: 65535 block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000 l2_cache_size: 62914560 clock_rate_ghz: 1.98
  device_memory_size: 150000000000 shared_memory_per_block_optin: 232448
  cuda_compute_capability { major: 9 } registers_per_core_limit: 65536
  registers_per_block_limit: 65536
}
"""

BATCH, QUERIES, KEYS, HEADS, KV_HEADS, HEAD_DIM = 4, 384, 256, 4, 2, 64


def lowered_for_cuda(monkeypatch: pytest.MonkeyPatch, context_rows: list[int]) -> str:
    """Forward and backward pass as StableHLO for a GPU."""
    # jax asks the cuDNN on this machine for its version: there is none, and none is needed here.
    monkeypatch.setattr(attention_cudnn._cudnn(), "check_cudnn_version", lambda: 91000)

    def array(*shape: int, dtype: Any = jnp.bfloat16) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, dtype)

    def loss(query: Any, key: Any, value: Any, kv: Any, lengths: Any) -> jax.Array:
        contexts = [
            Context(*pair, jnp.full(rows, KEYS - 1))
            for pair, rows in zip(kv, context_rows, strict=True)
        ]
        mixed = causal_attention(query, key, value, lengths, contexts, kernel="cudnn")
        return jnp.sum(mixed.astype(jnp.float32))

    own = array(BATCH, QUERIES, KV_HEADS, HEAD_DIM)
    kv = [(array(rows, KEYS, KV_HEADS, HEAD_DIM),) * 2 for rows in context_rows]
    operands = array(BATCH, QUERIES, HEADS, HEAD_DIM), own, own, kv, array(BATCH, dtype=jnp.int32)
    traced = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3))).trace(*operands)
    return traced.lower(lowering_platforms=("cuda",)).as_text()


@pytest.mark.parametrize("context_rows", [[], [1], [BATCH], [1, 2, BATCH]])
def test_lowers_to_one_flash_call_a_part_and_pass(
    monkeypatch: pytest.MonkeyPatch, context_rows: list[int]
) -> None:
    text = lowered_for_cuda(monkeypatch, context_rows)
    calls = re.findall(r"custom_call @__cudnn\$(\w+)", text)
    parts = 1 + len(context_rows)
    assert sorted(calls) == ["fmhaSoftmax"] * parts + ["fmhaSoftmaxBackward"] * parts
    masks = re.findall(r"mask_type\\22: \\22(\w+)\\22", text)
    assert sorted(masks) == ["CAUSAL"] * 2 + ["PADDING"] * 2 * len(context_rows)


def test_has_no_array_of_queries_by_keys(monkeypatch: pytest.MonkeyPatch) -> None:
    text = lowered_for_cuda(monkeypatch, [1, 2, BATCH])
    shapes = {
        tuple(map(int, sizes.rstrip("x").split("x")))
        for sizes in re.findall(r"tensor<((?:\d+x)+)\w+>", text)
    }
    assert (BATCH, QUERIES, HEADS, HEAD_DIM) in shapes
    assert (1, BATCH * QUERIES, HEADS, HEAD_DIM) in shapes  # a shared context: one row of queries
    assert (2, 2 * QUERIES, HEADS, HEAD_DIM) in shapes  # one that two rows share, not repeated
    assert (2, KEYS, KV_HEADS, HEAD_DIM) in shapes
    assert (BATCH, KEYS, KV_HEADS, HEAD_DIM) in shapes  # a context of each row
    long = (QUERIES, KEYS, QUERIES + KEYS, 2 * QUERIES, BATCH * QUERIES)
    for shape in shapes:
        assert sum(size in long for size in shape) < 2


def test_another_jax_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(attention_cudnn._cudnn(), "_dot_product_attention_bwd_p_wrapper")
    with pytest.raises(GplanError, match=r"_bwd_p_wrapper.*constraints\.txt"):
        attention_cudnn._cudnn()


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("jax_cuda13_plugin") is None,
    reason='compiles for a GPU: pip install "jax[cuda13]", then pytest -m slow',
)
def test_compiles_for_an_h200() -> None:
    from jax.experimental.topologies import get_topology_desc

    devices = get_topology_desc(
        platform="cuda", topology_name="h200", target_config=H200, topology="1x1x1"
    ).devices
    sharding = jax.sharding.SingleDeviceSharding(devices[0])

    def array(*shape: int) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, jnp.bfloat16, sharding=sharding)

    def loss(query: Any, key: Any, value: Any, kv: Any) -> jax.Array:
        context = Context(*kv, jnp.asarray([KEYS - 7]))
        lengths = jnp.full(BATCH, QUERIES)
        mixed = causal_attention(query, key, value, lengths, [context], kernel="cudnn")
        return jnp.sum(mixed.astype(jnp.float32))

    own, shared = (array(rows, n, KV_HEADS, HEAD_DIM) for rows, n in ((BATCH, QUERIES), (1, KEYS)))
    gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
    query = array(BATCH, QUERIES, HEADS, HEAD_DIM)
    text = gradient.lower(query, own, own, (shared, shared)).compile().as_text()
    calls = re.findall(r'custom_call_target="__cudnn\$(\w+)"', text)
    assert sorted(calls) == ["fmhaSoftmax"] * 2 + ["fmhaSoftmaxBackward"] * 2
