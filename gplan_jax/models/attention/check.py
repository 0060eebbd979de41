"""Attention kernels checked where they are to run, by ``gplan doctor`` and by a run at first use: a
computation beside its reference, forward and gradient, and how far they may lie apart.

The bound is measured, not guessed. A kernel is right where its result is the exact one of operands
a few roundings from its own: products round their operands to what the matrix unit takes, and what
else differs (the order of a sum, probabilities in bfloat16, a part's output rounded before the
merge) is of that size too. So the reference is computed again from operands of which each number
is moved by one rounding u, up or down at random, which shows what it makes of their errors:

    bound = u + 4 max |f(x (1 + u e)) - f(x)| / max |f(x)|,  e = +-1.

FlashAttention's tests are of this kind: at most twice the error of a plain computation.

Letters: B batch, T queries, C keys, N query heads, K key/value heads, H head size.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

from gplan_jax.models.attention.causal import causal_attention, over_mesh
from gplan_jax.models.attention.merge import Context, Flash, merged_attention

_ROUNDINGS = 4  # of operands, probabilities, parts and outputs
_ORDER_OF_SUMS = 16  # the root of some 256 float32 terms, each sum of which is rounded
# More than one block of queries and of keys, and no multiple of one; tokens of four rows.
_QUERIES, _KEYS, _PAIR_KEYS, _FILLED = 160, 97, 64, (160, 128, 0, 81)


@dataclass(frozen=True)
class Comparison:
    """Largest differences, as shares of the largest value, and their bounds; ``gradient`` is that
    of the operand nearest to its bound, if there is one."""

    error: float
    bound: float
    gradient: tuple[float, float] | None = None

    @property
    def right(self) -> bool:
        """Whether all is within its bound; what is no number is not."""
        error, bound = self.gradient or (0, 0)
        return self.error <= self.bound and error <= bound

    def __str__(self) -> str:
        gradient = ", gradient {:.0e} of {:.0e}".format(*self.gradient) if self.gradient else ""
        return f"error {self.error:.0e} of {self.bound:.0e}{gradient}"


def rounding(dtype: DTypeLike, platform: str) -> float:
    """u: by which share a product's operands in ``dtype`` are rounded.

    float32 is multiplied as TensorFloat-32 on a GPU and as bfloat16 on a TPU, unless
    jax_default_matmul_precision asks for more.
    """
    if jnp.dtype(dtype) != jnp.float32:
        return float(jnp.finfo(dtype).eps) / 2
    precision = jax.config.jax_default_matmul_precision  # type: ignore[attr-defined]
    coarse = {"tpu": 2.0**-8, "gpu": 2.0**-11, "cuda": 2.0**-11}
    if precision in (None, "default", "fastest") and platform in coarse:
        return coarse[platform]
    return _ORDER_OF_SUMS * 2.0**-24


def compare(
    call: Callable[[Any], jax.Array],
    reference: Callable[[Any], jax.Array],
    operands: Any,
    *,
    unit: float,
    gradient: bool = True,
    mesh: Mesh | None = None,
) -> Comparison:
    """Compares ``call(operands)`` with ``reference`` of the same numbers in float32.

    ``operands`` is a pytree of arrays of floats, ``unit`` the ``rounding`` of their dtype. The
    gradient is that of a random cotangent. ``mesh`` is in force for the call alone.
    """
    rng = np.random.default_rng(1)
    exact = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), operands)
    e = [-unit, unit]
    moved = jax.tree.map(lambda x: x * (1 + rng.choice(e, x.shape)).astype(np.float32), exact)
    with jax.default_matmul_precision("highest"):
        shape = jax.eval_shape(reference, exact).shape
        dtype = jax.tree.leaves(operands)[0].dtype
        cotangent = jnp.asarray(rng.normal(size=shape), dtype).astype(jnp.float32)
        true, near = (_both_passes(reference, gradient, x, cotangent) for x in (exact, moved))
    with jax.set_mesh(mesh) if mesh is not None else nullcontext():
        found = _both_passes(call, gradient, operands, cotangent)
    pairs = []
    for parts in zip(*map(jax.tree.leaves, (found, near, true)), strict=True):
        x, y, z = (np.asarray(part, np.float32) for part in parts)
        error, step = (float(np.abs(part - z).max() / (np.abs(z).max() or 1.0)) for part in (x, y))
        pairs.append((error, unit + _ROUNDINGS * step))
    # What is no number is furthest from its bound.
    worst = max(
        pairs[1:], key=lambda pair: np.nan_to_num(pair[0] / pair[1], nan=np.inf), default=None
    )
    return Comparison(*pairs[0], worst)


@partial(jax.jit, static_argnums=(0, 1))
def _both_passes(call: Any, gradient: bool, operands: Any, cotangent: jax.Array) -> Any:
    if not gradient:
        return call(operands), ()
    output, pull = jax.vjp(call, operands)
    return output, pull(cotangent.astype(output.dtype))[0]


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
