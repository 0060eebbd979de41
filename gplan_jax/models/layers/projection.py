"""Projections x W whose weight may be held in 8 bits or have a low-rank adapter beside it.

In 8 bits (half of bfloat16's memory, a quarter of float32's), a matrix W with input axes i and
output axes o is kept as integers Q and one scale an output:

    s[o] = max_i |W[i, o]| / 127,    Q[i, o] = round(W[i, o] / s[o]),    W ~ Q s

so that each weight is wrong by at most s / 2. Products are computed in the dtype of the states,
from one layer's matrices at a time; norms and embedding stay as they are.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

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

_INT8_MAX = 127


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


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8Matrix:
    """Integers [..., i, o] and their float32 scales [..., 1, o]."""

    values: jax.Array
    scales: jax.Array

    def dense(self, dtype: DTypeLike) -> jax.Array:
        """The matrix that is meant, in ``dtype``."""
        return self.values.astype(dtype) * self.scales.astype(dtype)


def project(equation: str, x: jax.Array, weight: nnx.Param, adapter: LowRank | None) -> jax.Array:
    """``einsum(equation, x, W)`` and what the adapter adds, in the dtype of x."""
    stored = weight.get_value()
    matrix = stored.dense(x.dtype) if isinstance(stored, Int8Matrix) else stored.astype(x.dtype)
    # Its gradient is laid out like it: summed to the devices that hold it, and not to all. Inside
    # the scan the layer axis, which comes first, is gone.
    matrix = constrain(matrix, *weight.get_metadata("out_sharding")[-matrix.ndim :])
    projected = jnp.einsum(equation, x, matrix)
    return projected if adapter is None else projected + adapter(equation, x)


def to_int8(matrix: jax.Array, input_axes: tuple[int, ...]) -> Int8Matrix:
    """Rounds a matrix to 8 bits with one scale for each index of its other axes."""
    exact = matrix.astype(jnp.float32)
    peak = jnp.max(jnp.abs(exact), axis=input_axes, keepdims=True)
    scales = jnp.where(peak > 0, peak / _INT8_MAX, 1.0)
    return Int8Matrix(jnp.round(exact / scales).astype(jnp.int8), scales)


def round_layers_to_int8(model: Any) -> None:
    """Replaces the layers' matrices of a ``Qwen3`` by 8-bit ones, in place, one at a time."""
    for name, (module, inputs, _) in PROJECTIONS.items():
        parameter = getattr(getattr(model.layers, module), name)
        input_axes = tuple(range(1, 1 + len(inputs)))  # after the layers
        value, rounded = parameter.get_value(), jax.jit(to_int8, static_argnums=1)
        shapes = isinstance(value, jax.ShapeDtypeStruct)
        parameter.set_value(
            rounded.eval_shape(value, input_axes) if shapes else rounded(value, input_axes)
        )
