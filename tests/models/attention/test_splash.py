"""Splash attention compiled for TPUs that aren't here.

Run by hand in an environment with libtpu (``pip install libtpu``):

    TPU_SKIP_MDS_QUERY=1 pytest -m slow tests/models/attention/test_splash.py

libtpu loads once a machine; ALLOW_MULTIPLE_LIBTPU_LOAD=1 lets a second process compile beside it.
"""

from __future__ import annotations

import importlib.util
import os
import re
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, Mesh, NamedSharding

from gplan_jax.models.attention.causal import Context, causal_attention
from gplan_jax.models.layers.sharding import partition_spec

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        importlib.util.find_spec("libtpu") is None,
        reason="compiles for a TPU: pip install libtpu, then pytest -m slow",
    ),
]

ROWS, QUERIES, KEYS, HEADS, KV_HEADS, HEAD_DIM = 8, 1152, 768, 16, 8, 128


@pytest.fixture(scope="module")
def devices() -> list[Any]:
    """Four v5e chips, of which only the compiler knows."""
    from jax.experimental.topologies import get_topology_desc

    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")
    return get_topology_desc(platform="tpu", topology_name="v5e:2x2").devices


@pytest.mark.parametrize("rows", [ROWS, 1])
@pytest.mark.parametrize("sizes", [(1, 2, 2), (1, 4, 1)])
def test_compiles_for_a_tpu_without_an_array_of_queries_by_keys(
    devices: list[Any], rows: int, sizes: tuple[int, int, int]
) -> None:
    axes = ("data", "fsdp", "tensor")
    mesh = Mesh(np.array(devices).reshape(sizes), axes, axis_types=(AxisType.Auto,) * 3)
    batch = "batch" if rows > 1 else None

    def array(shape: tuple[int, ...], *names: str | None, dtype: Any = jnp.bfloat16) -> Any:
        sharding = NamedSharding(mesh, partition_spec(*names))
        return jax.ShapeDtypeStruct(shape, dtype, sharding=sharding)

    query = array((rows, QUERIES, HEADS, HEAD_DIM), batch, None, "heads", None)
    own = array((rows, QUERIES, KV_HEADS, HEAD_DIM), batch, None, "kv_heads", None)
    shared = array((1, KEYS, KV_HEADS, HEAD_DIM), None, None, "kv_heads", None)
    lengths = array((rows,), batch, dtype=jnp.int32)

    def loss(query: Any, key: Any, value: Any, kv: Any, lengths: Any) -> jax.Array:
        context = Context(*kv, jnp.asarray([KEYS - 7]))
        mixed = causal_attention(query, key, value, lengths, [context], kernel="splash")
        return jnp.sum(mixed.astype(jnp.float32))

    with jax.set_mesh(mesh):
        gradient = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2, 3)))
        compiled = gradient.lower(query, own, own, (shared, shared), lengths).compile()
    text = compiled.as_text()
    for call in ("splash_mha_fwd", "splash_mha_dq", "splash_mha_dkv"):
        assert call in text
    for sizes_of in re.findall(r"\b(?:pred|[a-z]+\d+)\[([\d,]+)\]", text):
        assert sum(int(size) >= QUERIES for size in sizes_of.split(",")) < 2
    rows_here, heads_here = rows // sizes[1] or 1, HEADS // sizes[2]
    scores_bytes = rows_here * heads_here * QUERIES * (KEYS + QUERIES) * 4
    assert compiled.memory_analysis().temp_size_in_bytes < scores_bytes / 10
