"""Weights rounded to 8 bits: half of bfloat16's memory, a quarter of float32's.

A matrix W with input axes i and output axes o is kept as integers Q and one scale an output:

    s[o] = max_i |W[i, o]| / 127,    Q[i, o] = round(W[i, o] / s[o]),    W ~ Q s

so that each weight is wrong by at most s / 2. Products are computed in the dtype of the states,
from one layer's matrices at a time; norms and embedding stay as they are.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from jax.typing import DTypeLike

_MOST = 127

# The axes that a projection sums over, counted from the end (a stacked matrix has layers in front).
_INPUT_AXES = {
    ("attention", "query"): (-3,),
    ("attention", "key"): (-3,),
    ("attention", "value"): (-3,),
    ("attention", "output"): (-3, -2),
    ("mlp", "gate"): (-2,),
    ("mlp", "up"): (-2,),
    ("mlp", "down"): (-2,),
}


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Int8Matrix:
    """Integers [..., i, o] and their float32 scales [..., 1, o]."""

    values: jax.Array
    scales: jax.Array

    def dense(self, dtype: DTypeLike) -> jax.Array:
        """The matrix that is meant, in ``dtype``."""
        return self.values.astype(dtype) * self.scales.astype(dtype)


def to_int8(matrix: jax.Array, input_axes: tuple[int, ...]) -> Int8Matrix:
    """Rounds a matrix to 8 bits with one scale for each index of its other axes."""
    exact = matrix.astype(jnp.float32)
    peak = jnp.max(jnp.abs(exact), axis=input_axes, keepdims=True)
    scales = jnp.where(peak > 0, peak / _MOST, 1.0)
    return Int8Matrix(jnp.round(exact / scales).astype(jnp.int8), scales)


def round_layers_to_int8(model: Any) -> None:
    """Replaces the layers' matrices of a ``Qwen3`` by 8-bit ones, in place, one at a time."""
    for (module, name), axes in _INPUT_AXES.items():
        parameter = getattr(getattr(model.layers, module), name)
        parameter.set_value(jax.jit(to_int8, static_argnums=1)(parameter.get_value(), axes))
