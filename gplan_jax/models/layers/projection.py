"""Projections x W whose weight may be held in 8 bits or have a low-rank adapter beside it.

In 8 bits (half of bfloat16's memory, a quarter of float32's), Google's qwix keeps a matrix W with
input axes i and output axes o as integers or 8-bit floats Q and one scale an output:

    s[o] = max_i |W[i, o]| / m,    Q[i, o] = round(W[i, o] / s[o]),    W ~ Q s

with m = 127.5 for int8, so that each weight is wrong by at most s / 2, and 448 for float8_e4m3fn,
whose values are wrong by 1/16 of themselves at most. Products are computed in the dtype of the
states, from one layer's matrices at a time; norms and embedding stay as they are.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal

import jax
import jax.numpy as jnp
from flax import nnx

from gplan_jax.foundation.errors import load_extra
from gplan_jax.models.layers.sharding import constrain

# Projection -> (module of a layer, logical axes of its inputs, of its outputs).
PROJECTIONS: Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "query": ("attention", ("embed",), ("heads", "head_dim")),
    "key": ("attention", ("embed",), ("kv_heads", "head_dim")),
    "value": ("attention", ("embed",), ("kv_heads", "head_dim")),
    "output": ("attention", ("heads", "head_dim"), ("embed",)),
    "gate": ("mlp", ("embed",), ("mlp",)),
    "up": ("mlp", ("embed",), ("mlp",)),
    "down": ("mlp", ("mlp",), ("embed",)),
}

SmallDtype = Literal["int8", "fp8"]


class LoraParam(nnx.Variable):
    """A trained array of a model whose ``nnx.Param`` weights are frozen."""


class LowRank(nnx.Module):
    """scale * (x A) B beside a projection x W, with scale = alpha / r."""

    def __init__(self, *, down: LoraParam, up: LoraParam, scale: float) -> None:
        self.down = down  # A, [inputs..., r] (stacked over layers outside of a scan)
        self.up = up  # B, [r, outputs...]
        self.scale = scale

    def __call__(self, equation: str, x: jax.Array) -> jax.Array:
        """The adapter's part of ``einsum(equation, x, W)``; R must not stand in the equation."""
        operands, output = equation.split("->")
        x_axes, weight_axes = operands.split(",")
        inputs = "".join(axis for axis in weight_axes if axis in x_axes)
        outputs = "".join(axis for axis in weight_axes if axis not in x_axes)
        rows = "".join(axis for axis in x_axes if axis not in inputs)
        down, up = self.down[...].astype(x.dtype), self.up[...].astype(x.dtype)
        low = jnp.einsum(f"{x_axes},{inputs}R->{rows}R", x, down)
        return self.scale * jnp.einsum(f"{rows}R,R{outputs}->{output}", low, up)


def project(equation: str, x: jax.Array, weight: nnx.Param, adapter: LowRank | None) -> jax.Array:
    """``einsum(equation, x, W)`` and what the adapter adds, in the dtype of x.

    The first axis of x in the equation, T, stands for all its leading ones: [..., D] for TD.
    """
    matrix = weight.get_value().astype(x.dtype)
    if not isinstance(matrix, jax.Array):  # of qwix, whose scales are in that dtype now
        matrix = dense(matrix)
    # Its gradient is laid out like it: summed to the devices that hold it, and not to all. Inside
    # the scan the layer axis, which comes first, is gone.
    matrix = constrain(matrix, *weight.get_metadata("out_sharding")[-matrix.ndim :])
    # One axis of tokens: over two, the gradient of W makes XLA's CPU backend transpose that of the
    # outputs, within whatever was fused to it (docs/lab/training.md).
    inputs = equation.index(",") - 1
    leading, x = x.shape[:-inputs], x.reshape(-1, *x.shape[-inputs:])
    projected = jnp.einsum(equation, x, matrix)
    if adapter is not None:
        projected += adapter(equation, x)
    return projected.reshape(*leading, *projected.shape[1:])


def to_small(matrix: Any, input_axes: tuple[int, ...], dtype: SmallDtype) -> Any:
    """Rounds a matrix to 8 bits, with one float32 scale for each index of its other axes; of a
    shape, the shapes. The ``QArray`` of qwix: its ``qvalue`` and, with axes of 1, its ``scale``.
    """
    own_scale = tuple(axis for axis in range(matrix.ndim) if axis not in input_axes)
    qtype = {"int8": jnp.int8, "fp8": jnp.float8_e4m3fn}[dtype]
    qwix = load_extra("qwix", "small", "weights of 8 bits")

    @jax.jit
    def quantize(matrix: jax.Array) -> Any:
        # Its quotients are in the matrix's dtype, in bfloat16 a step off.
        exact = matrix.astype(jnp.float32)
        return qwix.quantize(exact, qtype, channelwise_axes=own_scale)

    shapes = isinstance(matrix, jax.ShapeDtypeStruct)
    return jax.eval_shape(quantize, matrix) if shapes else quantize(matrix)


def dense(matrix: Any) -> jax.Array:
    """The matrix that is meant by one of 8 bits, in the dtype of its scales."""
    dequantized: jax.Array = load_extra("qwix", "small", "weights of 8 bits").dequantize(matrix)
    return dequantized


def round_layers(model: Any, dtype: SmallDtype) -> None:
    """Replaces the layers' matrices of a ``Qwen3`` by 8-bit ones, in place, one at a time.

    GplanError where qwix is not installed.
    """
    for name, (module, inputs, _) in PROJECTIONS.items():
        parameter = getattr(getattr(model.layers, module), name)
        input_axes = tuple(range(1, 1 + len(inputs)))  # after the layers
        parameter.set_value(to_small(parameter.get_value(), input_axes, dtype))
