"""Attention kernels checked where they are to run, by ``gplan doctor`` and by a run at first use.

Letters: B batch, T queries, C keys, N query heads, K key/value heads, H head size.
"""

from __future__ import annotations

from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from gplan_jax.models.attention.causal import causal_attention, over_mesh
from gplan_jax.models.attention.merge import Context, Flash, merged_attention
from gplan_jax.models.layers.compare import Comparison, compare, rounding

# More than one block of queries and of keys, and no multiple of one; tokens of four rows.
_QUERIES, _KEYS, _PAIR_KEYS, _FILLED = 160, 97, 64, (160, 128, 0, 81)


def check_attention(
    kernel: str,
    *,
    dtype: DTypeLike,
    heads: int,
    kv_heads: int,
    head_dim: int,
    platform: str,
    mesh: Mesh | None = None,
) -> Comparison:
    """Compares a kernel with that of XLA under one mask, in float32, on the default device.

    Four rows a part of the mesh, some padding, one empty, go on from a context that all share and
    from one for each pair of rows, every other one empty: what a prefix tree asks of a kernel.
    "merged" is ``merged_attention`` over a flash call in plain JAX. Whatever the kernel raises
    where it can't run comes through.
    """
    rows = len(_FILLED) * (1 if mesh is None else mesh.shape["data"] * mesh.shape["fsdp"])
    rng = np.random.default_rng(0)

    def normal(*shape: int) -> jax.Array:
        return jnp.asarray(rng.normal(size=(*shape, head_dim)), dtype)

    parts = ((rows, _QUERIES), (1, _KEYS), (rows // 2, _PAIR_KEYS))
    kv = [(normal(*part, kv_heads), normal(*part, kv_heads)) for part in parts]
    lengths = np.resize(np.asarray(_FILLED, np.int32), rows)
    seen = (np.full(1, _KEYS - 7, np.int32), np.arange(rows // 2, dtype=np.int32) % 2 * 61)
    call, reference = (partial(_attend, which, lengths, seen) for which in (kernel, None))
    operands = (normal(rows, _QUERIES, heads), kv)
    return compare(call, reference, operands, unit=rounding(dtype, platform), mesh=mesh)


@cache
def attention_fault(kernel: str, **sizes: Any) -> str | None:
    """What ``check_attention`` finds wrong, or why the kernel can't run; None where it is right."""
    try:
        found = check_attention(kernel, **sizes)
    except Exception as error:
        return f"{type(error).__name__}: {str(error).strip().partition(chr(10))[0][:200]}"
    return None if found.right else str(found)


def _attend(kernel: Any, lengths: Any, seen: Any, operands: Any) -> jax.Array:
    query, ((key, value), *kv) = operands
    contexts = tuple(Context(k, v, jnp.asarray(s)) for (k, v), s in zip(kv, seen, strict=True))
    if kernel == "merged":
        mixed = over_mesh(partial(merged_attention, PLAIN_FLASH), query, key, value, contexts)
        return jnp.where((jnp.arange(_QUERIES) < lengths[:, None])[..., None, None], mixed, 0)
    # The reference: all own keys at once under one mask, not in blocks.
    mask = jnp.tri(_QUERIES, dtype=bool)[None] if kernel is None else None
    kernel = kernel or "xla"
    return causal_attention(
        query, key, value, lengths, contexts, own_mask_BxTxT=mask, kernel=kernel
    )


def _weighted(lse: Any, key_lengths: Any, *qkv: jax.Array) -> tuple[jax.Array, jax.Array]:
    """sum_j P_j v_j and sum_j P_j with P_j = e^{s_j - lse} over the keys that ``Flash`` shows."""
    q, k, v = (x.astype(jnp.float32) for x in qkv)
    k, v = (jnp.repeat(x, q.shape[2] // x.shape[2], axis=2) for x in (k, v))
    scores = jnp.einsum("BTNH,BCNH->BNTC", q, k) * q.shape[-1] ** -0.5
    seen = jnp.tri(scores.shape[2], scores.shape[3], dtype=bool)
    if key_lengths is not None:
        seen = (jnp.arange(k.shape[1]) < key_lengths[:, None])[:, None, None]
    weights = jnp.where(seen, jnp.exp(scores - lse.swapaxes(1, 2)[..., None]), 0)
    return jnp.einsum("BNTC,BCNH->BTNH", weights, v), weights.sum(axis=-1).swapaxes(1, 2)


def _forward(query: Any, key: Any, value: Any, key_lengths: Any) -> tuple[jax.Array, jax.Array]:
    # Random operands have scores of about 1, so that their powers need no peak taken off.
    none = jnp.zeros(query.shape[:3])
    mixed, total = _weighted(none, key_lengths, query, key, value)
    return (mixed / total[..., None]).astype(value.dtype), jnp.log(total)


def _backward(query: Any, key: Any, value: Any, lengths: Any, o: Any, lse: Any, d_o: Any) -> Any:
    # The gradient of both sums is P_j (dP_j - rowsum(dO * O)), which a flash kernel computes.
    _, pull = jax.vjp(partial(_weighted, lse, lengths), query, key, value)
    d_o = d_o.astype(jnp.float32)
    return pull((d_o, -jnp.sum(o * d_o, axis=-1)))


PLAIN_FLASH = Flash(_forward, _backward)  # one that any device runs, to check the merge with
