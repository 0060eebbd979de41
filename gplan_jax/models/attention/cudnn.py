"""The cuDNN flash attention of NVIDIA GPUs as a pair of calls for ``merge``.

Both calls go to jax's private module under its public attention: see ``layers.private_jax``.

Letters: B batch, T queries, C keys, N query heads, K key/value heads, H head size.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from gplan_jax.models.attention.merge import Flash
from gplan_jax.models.layers.private_jax import private_jax


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
        **_newer_parameters(module),
    )
    return d_q_BxTxNxH, d_k_BxCxKxH, d_v_BxCxKxH


def _newer_parameters(module: ModuleType) -> dict[str, None]:
    """jax 0.12's primitive wants a function over scores; None is none, as before it."""
    known = inspect.signature(module.dot_product_attention).parameters
    return {"score_mod": None} if "score_mod" in known else {}


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
