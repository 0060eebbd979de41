"""The one place where queries meet keys, and the choice of the kernel that does it.

``causal_attention`` serves training and decoding: rows of tokens, each after any number of contexts
that all its tokens see whole.

Letters: B batch, T queries, C keys, N query heads, K key/value heads (N = K * G), H head size.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial, reduce
from typing import Literal

import chex
import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

from gplan_jax.foundation import GplanError
from gplan_jax.models.attention.merge import Context, merged_attention
from gplan_jax.models.layers.sharding import axis_size, mesh_in_force, partition_spec

Kernel = Literal["xla", "cudnn", "splash"]
KernelCall = Callable[[jax.Array, jax.Array, jax.Array, tuple[Context, ...]], jax.Array]

# Finite, so that a row that may see nothing (a dummy row of a batch) gives numbers, not NaN.
_MASKED_SCORE = float(jnp.finfo(jnp.float32).min)

# Queries of one block of the XLA kernel: few enough that a block's scores stay near the processor.
_QUERY_BLOCK = 128
_MOST_BLOCKS = 16  # each block is compiled on its own


def resolve_kernel(name: str, *, platform: str, dtype: DTypeLike, head_dim: int) -> Kernel:
    """Returns the kernel that ``name`` means: "auto" is the fastest that can run, else ``name``.

    ``platform`` is "cpu", "gpu" ("cuda") or "tpu"; GplanError says why a named kernel can't run.
    """
    dtype = jnp.dtype(dtype)
    obstacles: dict[str, str | None] = {"cudnn": None, "splash": None, "xla": None}
    if platform not in ("gpu", "cuda"):
        obstacles["cudnn"] = f"cuDNN needs an NVIDIA GPU and these devices are {platform}"
    elif dtype not in (jnp.bfloat16, jnp.float16):
        obstacles["cudnn"] = f"cuDNN flash attention computes in bfloat16 or float16, not {dtype}"
    elif head_dim > 128 or head_dim % 8:
        obstacles["cudnn"] = f"cuDNN takes heads of a multiple of 8 up to 128, not of {head_dim}"
    if platform != "tpu":
        obstacles["splash"] = f"splash attention needs a TPU and these devices are {platform}"
    elif head_dim % 128 and head_dim != 64:
        obstacles["splash"] = (
            f"splash attention takes heads of 64 or a multiple of 128, not of {head_dim}"
        )
    kernels: tuple[Kernel, ...] = ("cudnn", "splash", "xla")
    for kernel in kernels:
        if name in ("auto", kernel) and obstacles[kernel] is None:
            return kernel
    if name not in obstacles:
        raise GplanError(
            f"precision.attention={name} is no kernel; choose auto, {', '.join(kernels)}."
        )
    raise GplanError(
        f"precision.attention={name} can't run here: {obstacles[name]}. Choose auto or xla."
    )


def causal_attention(
    query_BxTxNxH: jax.Array,
    key_BxTxKxH: jax.Array,
    value_BxTxKxH: jax.Array,
    lengths_B: jax.Array,
    contexts: Sequence[Context] = (),
    *,
    kernel: Kernel = "xla",
    own_mask_BxTxT: jax.Array | None = None,
) -> jax.Array:
    """Computes attention over a row's earlier tokens and everything in its contexts.

    out[t] = sum_j p[t, j] v[j], p = softmax(q k^T / sqrt(H)) over the visible keys: a query t sees
    its own row's keys j <= t and each context's keys c < its length. Queries and keys are rotated,
    rows right-padded; ``lengths_B`` counts a row's tokens and is 0 for a dummy row.
    ``own_mask_BxTxT``, True where query t sees key j, replaces j <= t for the tokens of a tree: few
    queries, by the XLA kernel.

    The result has the dtype of the values, with the softmax in float32. It is zero from a row's
    length on, so that padding sends no gradient anywhere. GplanError where the rows of a context
    don't divide those of the queries; under a mesh, where a kernel can't share out rows or heads
    equally.
    """
    batch, queries, _, head_dim = query_BxTxNxH.shape
    chex.assert_shape([key_BxTxKxH, value_BxTxKxH], (batch, queries, None, head_dim))
    chex.assert_shape(lengths_B, (batch,))
    for context in contexts:
        chex.assert_equal_shape([context.key, context.value])
        chex.assert_shape(context.lengths, context.key.shape[:1])
        if batch % context.key.shape[0]:
            raise GplanError(
                f"A context of {context.key.shape[0]} rows can't serve {batch} rows of queries; "
                "its rows must divide theirs."
            )
    operands = (query_BxTxNxH, key_BxTxKxH, value_BxTxKxH, tuple(contexts))
    if own_mask_BxTxT is not None:
        mixed = _attend(own_mask_BxTxT[:, None, :, None], *operands)
    elif kernel == "xla":
        mixed = _xla_attention(*operands)
    elif kernel == "cudnn":
        from gplan_jax.models.attention.kernels import CUDNN_FLASH

        mixed = over_mesh(partial(merged_attention, CUDNN_FLASH), *operands)
    else:
        from gplan_jax.models.attention.kernels import splash_attention

        mixed = over_mesh(splash_attention, *operands)
    inside_BxT = jnp.arange(mixed.shape[1]) < lengths_B[:, None]
    return jnp.where(inside_BxT[..., None, None], mixed, 0)


def over_mesh(
    call: KernelCall,
    query_BxTxNxH: jax.Array,
    key_BxTxKxH: jax.Array,
    value_BxTxKxH: jax.Array,
    contexts: tuple[Context, ...],
) -> jax.Array:
    """Runs a kernel that the compiler can't partition on each device's own rows and heads.

    Rows are split over the batch axes of the mesh in force and heads over its tensor axis, by the
    table of ``sharding``; GplanError where they don't divide by them. A context of one row goes
    whole to every device, one of more rows is split as the rows are, so that each stays with those
    that see it. A lone row is computed by all, since its tokens depend on one another.
    """
    mesh = mesh_in_force()
    if mesh is None or mesh.size == 1:
        return call(query_BxTxNxH, key_BxTxKxH, value_BxTxKxH, contexts)
    for what, axis, size in (
        ("rows", "batch", query_BxTxNxH.shape[0]),
        ("query heads", "heads", query_BxTxNxH.shape[2]),
        ("key/value heads", "kv_heads", key_BxTxKxH.shape[2]),
        *(("rows of a context", "batch", context.key.shape[0]) for context in contexts),
    ):
        names = partition_spec(axis)[0]
        if size % axis_size(mesh, names) and not (axis == "batch" and size == 1):
            raise GplanError(
                f"{size} {what} don't divide by mesh {names}={axis_size(mesh, names)}; choose "
                "another mesh, or precision.attention=xla."
            )

    rows = "batch" if query_BxTxNxH.shape[0] > 1 else None

    def spec_of(context: Context) -> Context:
        own_rows = rows if context.key.shape[0] > 1 else None
        kv = partition_spec(own_rows, None, "kv_heads", None)
        return Context(kv, kv, partition_spec(own_rows))  # type: ignore[arg-type]

    query = partition_spec(rows, None, "heads", None)
    kv = partition_spec(rows, None, "kv_heads", None)
    return jax.shard_map(
        call,
        in_specs=(query, kv, kv, tuple(map(spec_of, contexts))),
        out_specs=query,
        check_vma=False,  # the kernels don't say over which axes their results vary
    )(query_BxTxNxH, key_BxTxKxH, value_BxTxKxH, contexts)


def _xla_attention(
    query_BxTxNxH: jax.Array,
    key_BxTxKxH: jax.Array,
    value_BxTxKxH: jax.Array,
    contexts: tuple[Context, ...],
) -> jax.Array:
    """Attends a block of queries at a time, to its own keys up to the block's end only.

    Each block is computed again in the backward pass rather than kept: the same time, and no [T, C]
    scores between the passes (docs/architecture.md has figures).
    """
    batch, queries = query_BxTxNxH.shape[:2]
    block = max(_QUERY_BLOCK, math.ceil(queries / _MOST_BLOCKS))
    if batch == 1 and not jax.sharding.get_abstract_mesh().empty:
        block = queries  # a lone row's tokens may be split over the mesh: slices would move them
    mixed = []
    for start in range(0, queries, block):
        end = min(queries, start + block)
        attend = jax.checkpoint(partial(_attend_block, start))
        operands = (query_BxTxNxH[:, start:end], key_BxTxKxH[:, :end], value_BxTxKxH[:, :end])
        mixed.append(attend(*operands, contexts))
    return jnp.concatenate(mixed, axis=1)


def _attend_block(
    start: int,
    query_BxTxNxH: jax.Array,
    key_BxCxKxH: jax.Array,
    value_BxCxKxH: jax.Array,
    contexts: tuple[Context, ...],
) -> jax.Array:
    """Attends to contexts and own keys, the last T of which the queries are."""
    query_positions = start + jnp.arange(query_BxTxNxH.shape[1])
    seen = jnp.arange(key_BxCxKxH.shape[1]) <= query_positions[:, None]
    return _attend(seen[:, None], query_BxTxNxH, key_BxCxKxH, value_BxCxKxH, contexts)


def _attend(
    own_seen: jax.Array,
    query_BxTxNxH: jax.Array,
    key_BxCxKxH: jax.Array,
    value_BxCxKxH: jax.Array,
    contexts: tuple[Context, ...],
) -> jax.Array:
    """One softmax over the own keys that are seen and those of the contexts.

    Scores stay in one array a part, [n, K, b * T, G, C], the order that its matrix product gives:
    joining them on the key axis would copy the most memory there is here. A part's n rows of keys
    are each shared by b = B / n rows of queries, which are more queries of one row to it;
    ``own_seen`` is True where a query sees an own key, and broadcasts to the own part's scores.
    """
    shape = query_BxTxNxH.shape

    def by_part(x_BxTxN: jax.Array, key_nxCxKxH: jax.Array) -> jax.Array:
        """[B, T, N, ...] as the part has it: [n, b * T, K, G, ...]."""
        n, _, groups, _ = key_nxCxKxH.shape
        return x_BxTxN.reshape(n, -1, groups, shape[2] // groups, *x_BxTxN.shape[3:])

    def by_query(x_nxKxTxG: jax.Array) -> jax.Array:
        """[n, K, b * T, G], a number for each query of a part, as [B, T, N]."""
        return x_nxKxTxG.swapaxes(1, 2).reshape(shape[:-1])

    parts = [(key_BxCxKxH, value_BxCxKxH, own_seen)]
    for context in contexts:
        seen_nxC = jnp.arange(context.key.shape[1]) < context.lengths[:, None]
        parts.append((context.key, context.value, seen_nxC[:, None, None, None]))

    scores_of_parts = []
    for key, _, seen in parts:
        scores = jnp.einsum(
            "nTKGH,nCKH->nKTGC",
            by_part(query_BxTxNxH, key),
            key,
            preferred_element_type=jnp.float32,
        )
        scores_of_parts.append(jnp.where(seen, scores * shape[-1] ** -0.5, _MASKED_SCORE))

    peaks = [by_query(jnp.max(scores, axis=-1)) for scores in scores_of_parts]
    # Softmax does not depend on what is subtracted: no gradient.
    peak_BxTxN = jax.lax.stop_gradient(reduce(jnp.maximum, peaks))
    total_BxTxN, mixed_BxTxNxH = jnp.zeros_like(peak_BxTxN), jnp.zeros(shape, jnp.float32)
    for scores, (key, value, _) in zip(scores_of_parts, parts, strict=True):
        weights = jnp.exp(scores - by_part(peak_BxTxN, key).swapaxes(1, 2)[..., None])
        total_BxTxN += by_query(jnp.sum(weights, axis=-1))
        mixed_nxTxKxGxH = jnp.einsum(
            "nKTGC,nCKH->nTKGH",
            weights.astype(value.dtype),
            value,
            preferred_element_type=jnp.float32,
        )
        mixed_BxTxNxH += mixed_nxTxKxGxH.reshape(shape)
    return (mixed_BxTxNxH / total_BxTxN[..., None]).astype(value_BxCxKxH.dtype)
