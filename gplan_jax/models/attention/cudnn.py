"""The cuDNN flash attention of NVIDIA GPUs as a pair of calls for ``attention_merge``.

jax.nn.dot_product_attention can't serve: its gradient ignores the log-sum-exp's cotangent and knows
only a part's own log-sum-exp, which it moreover rounds to bfloat16. So both calls go to jax's
module under it, which is private; ``_cudnn`` is the one place that names it.

Letters: B batch, T queries, C keys, N query heads, K key/value heads, H head size.
"""

from __future__ import annotations

import inspect
from types import ModuleType
from typing import Any

import jax
import jax.numpy as jnp

from gplan_jax.foundation import GplanError
from gplan_jax.models.attention.merge import Flash

_NAMES = (
    "AttentionLayout",
    "MaskType",
    "dot_product_attention",
    "_dot_product_attention_bwd_p_wrapper",
)


def _cudnn() -> ModuleType:
    """Returns jax's cuDNN attention module; raises GplanError where this jax has none."""
    try:
        from jax._src.cudnn import fused_attention_stablehlo as module

        for name in _NAMES:
            getattr(module, name)
    except (ImportError, AttributeError) as error:
        raise GplanError(
            f"jax {jax.__version__} has moved its cuDNN attention ({error}); install the jax of "
            "constraints.txt, or set precision.attention to xla."
        ) from None
    return module


def _forward(
    query: jax.Array, key: jax.Array, value: jax.Array, key_lengths: jax.Array | None
) -> tuple[jax.Array, jax.Array]:
    module = _cudnn()
    output, lse_BxNxT = module.dot_product_attention(
        query,
        key,
        value,
        scale=query.shape[-1] ** -0.5,
        return_residual=True,
        **_mask(module, query, key_lengths),
    )
    return output, lse_BxNxT.swapaxes(1, 2)


def _backward(
    query: jax.Array,
    key: jax.Array,
    value: jax.Array,
    key_lengths: jax.Array | None,
    output: jax.Array,
    lse_BxTxN: jax.Array,
    d_output: jax.Array,
) -> tuple[jax.Array, jax.Array, jax.Array]:
    module = _cudnn()
    mask = _mask(module, query, key_lengths)
    none = jnp.zeros(0, query.dtype)  # what the primitive takes for an absent operand
    d_query, d_key, d_value = module._dot_product_attention_bwd_p_wrapper.bind(
        query,
        key,
        value,
        none,  # bias
        mask.get("q_seqlen", none),
        mask.get("kv_seqlen", none),
        *(none, none, none, none),  # packing offsets and page tables
        lse_BxTxN.swapaxes(1, 2),
        output,
        d_output,
        scale=query.shape[-1] ** -0.5,
        seed=42,  # without dropout, unused
        dropout_rate=0.0,
        variadic_args=(False, False),  # no bias, no gradient of it
        mask_type=mask["mask_type"],
        layout=module.AttentionLayout.BTNH.value,
        sliding_window_length=None,
        **_newer_parameters(module),
    )
    return d_query, d_key, d_value


def _newer_parameters(module: ModuleType) -> dict[str, None]:
    """jax 0.12's primitive wants a function over scores; None is none, as before it."""
    known = inspect.signature(module.dot_product_attention).parameters
    return {"score_mod": None} if "score_mod" in known else {}


def _mask(module: ModuleType, query: jax.Array, key_lengths: jax.Array | None) -> dict[str, Any]:
    if key_lengths is None:
        # Right-padded rows need no lengths: only padding queries see padding keys.
        return {"mask_type": module.MaskType.CAUSAL}
    return {
        "mask_type": module.MaskType.PADDING,
        "q_seqlen": jnp.full(query.shape[:1], query.shape[1], jnp.int32),
        "kv_seqlen": key_lengths.astype(jnp.int32),
    }


CUDNN_FLASH = Flash(_forward, _backward)
