"""Attention on eight simulated devices equals attention on one, forward and gradient."""

from __future__ import annotations

import os
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import pytest

DEVICES = 8
MESHES = ((2, 2, 2), (1, 8, 1))
# The interpreted kernel takes long: one mesh.
CASES = [
    (kernel, rows, mesh)
    for rows in (16, 1)
    for mesh in MESHES
    for kernel in ("xla", "merged", "splash")
    if kernel != "splash" or mesh == MESHES[0]
]


@pytest.fixture(scope="module")
def report() -> str:
    """What a process with eight devices prints: jax fixes their number when it starts."""
    flags = f"{os.environ['XLA_FLAGS']} --xla_force_host_platform_device_count={DEVICES}"
    run = subprocess.run(
        [sys.executable, str(Path(__file__).resolve())],
        env=os.environ | {"XLA_FLAGS": flags},
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


@pytest.mark.parametrize(("kernel", "rows", "mesh"), CASES)
def test_equals_one_device(report: str, kernel: str, rows: int, mesh: tuple[int, ...]) -> None:
    assert f"{kernel} rows={rows} mesh={mesh}: equal\n" in report


def test_what_does_not_divide_is_named(report: str) -> None:
    assert "1 key/value heads don't divide by mesh tensor=2; choose another mesh" in report
    assert "3 rows don't divide by mesh ('data', 'fsdp')=4; choose another mesh" in report
    assert "2 rows of a context don't divide by mesh ('data', 'fsdp')=4; choose another" in report


def test_cudnn_is_called_on_a_devices_own_rows_and_heads(report: str) -> None:
    # Own keys, a context of all rows, one of every two rows, one of each row.
    assert "cudnn: ['4x2x16x8', '1x2x64x8', '2x2x32x8', '4x2x16x8']" in report


def main() -> None:
    """Compares, and prints a line for each comparison; run with eight devices."""
    import re

    import jax
    import jax.numpy as jnp
    import numpy as np
    from jax.sharding import AxisType
    from test_kernels import PLAIN_FLASH

    from gplan_jax.foundation import GplanError
    from gplan_jax.models.attention import kernels as attention_cudnn
    from gplan_jax.models.attention.causal import Context, causal_attention, over_mesh
    from gplan_jax.models.attention.kernels import splash_attention
    from gplan_jax.models.attention.merge import merged_attention
    from gplan_jax.models.layers.sharding import constrain

    queries, keys, heads, kv_heads, head_dim = 16, 6, 4, 2, 8
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> Any:
        return jnp.asarray(rng.normal(size=shape), jnp.float32)

    def operands(rows: int, kv_heads: int, *, pairs: int | None = None) -> Any:
        own = [normal(rows, queries, n, head_dim) for n in (heads, kv_heads, kv_heads)]
        pairs = max(rows // 2, 1) if pairs is None else pairs
        contexts = [normal(2, n, keys, kv_heads, head_dim) for n in (1, pairs, rows)]
        return (*own, contexts)

    calls = {
        "merged": partial(merged_attention, PLAIN_FLASH),
        "splash": partial(splash_attention, interpret=True),
        "cudnn": partial(merged_attention, attention_cudnn.CUDNN_FLASH),
    }

    def loss(kernel: str, query: Any, key: Any, value: Any, kv: Any) -> Any:
        rows = query.shape[0]
        batch = "batch" if rows > 1 else None
        # A lone row's tokens are split over the devices, as those of a shared prompt are.
        query = constrain(query, batch, None if batch else "shared_sequence", "heads", None)
        contexts = tuple(
            Context(*pair, (4 + 3 * jnp.arange(pair.shape[1])) % (keys + 1)) for pair in kv
        )
        if kernel == "xla":
            mixed = causal_attention(query, key, value, jnp.full(rows, queries), contexts)
        else:
            mixed = over_mesh(calls[kernel], query, key, value, contexts)
        return jnp.sum(jnp.sin(mixed) * query)

    def both(kernel: str, arrays: Any) -> Any:
        gradient = jax.value_and_grad(partial(loss, kernel), argnums=(0, 1, 2, 3))
        return jax.tree.leaves(jax.jit(gradient)(*arrays))

    axes = ("data", "fsdp", "tensor")
    meshes = {sizes: jax.make_mesh(sizes, axes, (AxisType.Auto,) * 3) for sizes in MESHES}
    arrays_of = {rows: operands(rows, kv_heads) for rows in (16, 1)}
    expected = {rows: both("xla", arrays) for rows, arrays in arrays_of.items()}
    for kernel, rows, sizes in CASES:
        with jax.set_mesh(meshes[sizes]):
            given = both(kernel, arrays_of[rows])
        for x, y in zip(given, expected[rows], strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-5, atol=1e-5)
        print(f"{kernel} rows={rows} mesh={sizes}: equal")
    for arrays in (operands(8, 1), operands(3, kv_heads), operands(8, kv_heads, pairs=2)):
        try:
            with jax.set_mesh(meshes[MESHES[0]]):
                both("merged", arrays)
        except GplanError as error:
            print(error)

    attention_cudnn._cudnn().check_cudnn_version = lambda: 91000  # there is none to ask
    low = jax.tree.map(lambda x: x.astype(jnp.bfloat16), arrays_of[16])
    with jax.set_mesh(meshes[MESHES[0]]):
        traced = jax.jit(partial(loss, "cudnn")).trace(*low)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    results = re.findall(r"@__cudnn\$fmhaSoftmax\(.*?-> \(tensor<([\dx]+)xbf16>", text)
    print(f"cudnn: {results}")


if __name__ == "__main__":
    main()
