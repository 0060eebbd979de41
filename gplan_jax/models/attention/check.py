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
    """Compares a kernel with all keys in one array under one mask, on the default device.

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
    call = partial(_attend, kernel, lengths, seen)
    reference = partial(_dense, lengths, seen)
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
    if kernel != "merged":
        return causal_attention(query, key, value, lengths, contexts, kernel=kernel)
    mixed = over_mesh(partial(merged_attention, PLAIN_FLASH), query, key, value, contexts)
    return _no_padding(mixed, lengths)


def _dense(lengths: Any, seen: Any, operands: Any) -> jax.Array:
    query, parts = operands
    scores, values = [], []
    for (key, value), shown in zip(parts, (None, *seen), strict=True):
        each = len(query) // len(key)
        shown = None if shown is None else jnp.repeat(shown, each)
        scores.append(_scores(query, jnp.repeat(key, each, axis=0), shown))
        values.append(_by_head(jnp.repeat(value, each, axis=0), query))
    weights = jax.nn.softmax(jnp.concatenate(scores, axis=-1))
    mixed = jnp.einsum("BNTC,BCNH->BTNH", weights, jnp.concatenate(values, axis=1))
    return _no_padding(mixed, lengths)


def _no_padding(mixed: jax.Array, lengths: Any) -> jax.Array:
    return jnp.where((jnp.arange(_QUERIES) < lengths[:, None])[..., None, None], mixed, 0)


def _by_head(x_BxCxKxH: jax.Array, query: jax.Array) -> jax.Array:
    return jnp.repeat(x_BxCxKxH, query.shape[2] // x_BxCxKxH.shape[2], axis=2)


def _scores(query: jax.Array, key: jax.Array, key_lengths: Any) -> jax.Array:
    """Float32 [B, N, T, C] with -inf where a key isn't seen, as ``Flash`` says."""
    query, key = (x.astype(jnp.float32) for x in (query, _by_head(key, query)))
    scores = jnp.einsum("BTNH,BCNH->BNTC", query, key) * query.shape[-1] ** -0.5
    if key_lengths is None:
        return jnp.where(jnp.tri(query.shape[1], dtype=bool), scores, -jnp.inf)
    seen = jnp.arange(key.shape[1]) < key_lengths[:, None]
    return jnp.where(seen[:, None, None], scores, -jnp.inf)


def _weighted(lse: Any, key_lengths: Any, query: Any, key: Any, value: Any) -> Any:
    """sum_j P_j v_j and sum_j P_j with P_j = e^{s_j - lse}."""
    weights = jnp.exp(_scores(query, key, key_lengths) - lse.swapaxes(1, 2)[..., None])
    mixed = jnp.einsum("BNTC,BCNH->BTNH", weights, _by_head(value, query).astype(jnp.float32))
    return mixed.astype(value.dtype), weights.sum(axis=-1).swapaxes(1, 2)


def _forward(query: Any, key: Any, value: Any, key_lengths: Any) -> tuple[jax.Array, jax.Array]:
    lse = jax.nn.logsumexp(_scores(query, key, key_lengths), axis=-1).swapaxes(1, 2)
    return _weighted(lse, key_lengths, query, key, value)[0], lse


def _backward(query: Any, key: Any, value: Any, lengths: Any, o: Any, lse: Any, d_o: Any) -> Any:
    # With lse and rowsum(dO * O) held, the two sums' gradient is P_j (dP_j - rowsum(dO * O)).
    _, pull = jax.vjp(partial(_weighted, lse, lengths), query, key, value)
    return pull((d_o, -jnp.sum(o.astype(jnp.float32) * d_o, axis=-1)))


PLAIN_FLASH = Flash(_forward, _backward)  # one that any device runs, to check the merge with
