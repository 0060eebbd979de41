"""Flash attention of accelerators: cuDNN's of NVIDIA GPUs as a pair of calls for ``merge``, and
Pallas splash attention, the kernel of TPUs, over [contexts..., own keys] in one call.

cuDNN's two calls go to jax's private module under its public attention: see ``layers.private_jax``.

Splash's static mask is causal with an offset, computed from positions inside the kernel; keys
past a context's length are hidden by segment ids: all queries and visible keys are segment 1.

Letters: B batch, T queries, C keys, N query heads, K key/value heads, H head size.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from gplan_jax.models.attention.merge import ATTENTION_RESIDUALS, Context, Flash
from gplan_jax.models.layers.private_jax import private_jax

_LANES = 128  # the kernel's blocks are multiples of it
_LARGEST_BLOCK = 512
_HIDDEN, _VISIBLE = 0, 1


def _cudnn() -> ModuleType:
    return private_jax("cudnn.fused_attention_stablehlo", ", or set precision.attention to xla")


def _forward(
    q_BxTxNxH: jax.Array,
    k_BxCxKxH: jax.Array,
    v_BxCxKxH: jax.Array,
    key_lengths_B: jax.Array | None,
) -> tuple[jax.Array, jax.Array]:
    module = _cudnn()
    o_BxTxNxH, lse_BxNxT = module.dot_product_attention(
        q_BxTxNxH,
        k_BxCxKxH,
        v_BxCxKxH,
        scale=q_BxTxNxH.shape[-1] ** -0.5,
        return_residual=True,
        **_mask(module, q_BxTxNxH, key_lengths_B),
    )
    return o_BxTxNxH, lse_BxNxT.swapaxes(1, 2)


def _backward(
    q_BxTxNxH: jax.Array,
    k_BxCxKxH: jax.Array,
    v_BxCxKxH: jax.Array,
    key_lengths_B: jax.Array | None,
    o_BxTxNxH: jax.Array,
    lse_BxTxN: jax.Array,
    d_o_BxTxNxH: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    module = _cudnn()
    mask = _mask(module, q_BxTxNxH, key_lengths_B)
    known = inspect.signature(module.dot_product_attention).parameters
    none = jnp.zeros(0, q_BxTxNxH.dtype)  # what the primitive takes for an absent operand
    d_q_BxTxNxH, d_k_BxCxKxH, d_v_BxCxKxH = module._dot_product_attention_bwd_p_wrapper.bind(
        q_BxTxNxH,
        k_BxCxKxH,
        v_BxCxKxH,
        none,  # bias
        mask.get("q_seqlen", none),
        mask.get("kv_seqlen", none),
        *(none, none, none, none),  # packing offsets and page tables
        lse_BxTxN.swapaxes(1, 2),
        o_BxTxNxH,
        d_o_BxTxNxH,
        scale=q_BxTxNxH.shape[-1] ** -0.5,
        seed=42,  # without dropout, unused
        dropout_rate=0.0,
        variadic_args=(False, False),  # no bias, no gradient of it
        mask_type=mask["mask_type"],
        layout=module.AttentionLayout.BTNH.value,
        sliding_window_length=None,
        # jax 0.12's primitive wants a function over scores; None is none, as before it.
        **({"score_mod": None} if "score_mod" in known else {}),
    )
    return d_q_BxTxNxH, d_k_BxCxKxH, d_v_BxCxKxH


def _mask(
    module: ModuleType, q_BxTxNxH: jax.Array, key_lengths_B: jax.Array | None
) -> dict[str, Any]:
    if key_lengths_B is None:
        # Right-padded rows need no lengths: only padding queries see padding keys.
        return {"mask_type": module.MaskType.CAUSAL}
    return {
        "mask_type": module.MaskType.PADDING,
        "q_seqlen": jnp.full(q_BxTxNxH.shape[:1], q_BxTxNxH.shape[1], jnp.int32),
        "kv_seqlen": key_lengths_B.astype(jnp.int32),
    }


CUDNN_FLASH = Flash(_forward, _backward)


def splash_attention(
    query_BxTxNxH: jax.Array,
    key_BxTxKxH: jax.Array,
    value_BxTxKxH: jax.Array,
    contexts: tuple[Context, ...],
    *,
    interpret: bool = False,
) -> jax.Array:
    """Computes causal attention over own keys and contexts; see ``causal.causal_attention``.

    Queries and keys are padded to whole blocks: own keys at their end, where no real query looks,
    contexts at their front, hidden. A context that rows share is repeated for each: T + C keys a
    row, the least that one kernel call can read. ``interpret`` runs the kernel's steps as plain
    JAX, for tests without a TPU.
    """
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    batch, queries, heads, head_dim = query_BxTxNxH.shape
    block_q = block_size(queries)
    queries_padded = _round_up(queries, block_q)
    context_keys = sum(context.key.shape[1] for context in contexts)
    block_kv = block_size(context_keys + queries_padded)
    keys_padded = _round_up(context_keys + queries_padded, block_kv)
    offset = keys_padded - queries_padded
    front, end = offset - context_keys, queries_padded - queries

    def by_row(x: jax.Array) -> jax.Array:
        return jnp.repeat(x, batch // x.shape[0], axis=0)

    def joined(own: jax.Array, of_contexts: list[jax.Array]) -> jax.Array:
        whole = [by_row(x) for x in of_contexts]
        x = jnp.concatenate([*whole, own], axis=1)
        return jnp.pad(x, ((0, 0), (front, end), (0, 0), (0, 0))).swapaxes(1, 2)

    key_BxKxCxH = joined(key_BxTxKxH, [context.key for context in contexts])
    value_BxKxCxH = joined(value_BxTxKxH, [context.value for context in contexts])
    # The kernel does not scale: queries are, in float32 so that it costs one rounding.
    query_BxTxNxH = (query_BxTxNxH.astype(jnp.float32) * head_dim**-0.5).astype(query_BxTxNxH.dtype)
    query_BxNxTxH = jnp.pad(query_BxTxNxH, ((0, 0), (0, end), (0, 0), (0, 0))).swapaxes(1, 2)

    visible = [jnp.full((batch, front), _HIDDEN)]
    for context in contexts:
        seen = jnp.arange(context.key.shape[1]) < context.lengths[:, None]
        visible.append(jnp.where(by_row(seen), _VISIBLE, _HIDDEN))
    visible.append(jnp.full((batch, queries_padded), _VISIBLE))
    segments = splash.SegmentIds(
        q=jnp.full((batch, queries_padded), _VISIBLE, jnp.int32),
        kv=jnp.concatenate(visible, axis=1).astype(jnp.int32),
    )
    mask = splash.CausalMask((queries_padded, keys_padded), offset=offset)
    kernel = splash.make_splash_mha(
        splash.MultiHeadMask([mask] * heads),
        block_sizes=splash.BlockSizes(
            block_q=block_q,
            block_kv=block_kv,
            block_q_dkv=block_q,
            block_kv_dkv=block_kv,
            block_q_dq=block_q,
            block_kv_dq=block_kv,
        ),
        head_shards=1,
        q_seq_shards=1,
        residual_checkpoint_name=ATTENTION_RESIDUALS,
        interpret=interpret,
    )
    mixed_BxNxTxH = jax.vmap(kernel)(query_BxNxTxH, key_BxKxCxH, value_BxKxCxH, segments)
    return mixed_BxNxTxH.swapaxes(1, 2)[:, :queries]


def block_size(length: int) -> int:
    """Returns the largest block of up to 512 that pads ``length`` by an eighth or less, else 128.

    Large blocks keep the matrix unit busy; padding is computed for nothing.
    """
    for block in range(_LARGEST_BLOCK, _LANES, -_LANES):
        if _round_up(length, block) - length <= length // 8:
            return block
    return _LANES


def _round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple
