"""A computation beside its reference, forward and gradient, and how far they may lie apart.

The bound is measured, not guessed. A kernel is right where its result is the exact one of operands
a few roundings from its own: products round their operands to what the matrix unit takes, and what
else differs (the order of a sum, probabilities in bfloat16, a part's output rounded before the
merge) is of that size too. So the reference is computed again from operands of which each number
is moved by one rounding u, up or down at random, which shows what it makes of their errors:

    bound = u + 4 max |f(x (1 + u e)) - f(x)| / max |f(x)|,  e = +-1.

FlashAttention's tests are of this kind: at most twice the error of a plain computation.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh
from jax.typing import DTypeLike

_ROUNDINGS = 4  # of operands, probabilities, parts and outputs
_ORDER_OF_SUMS = 16  # the root of some 256 float32 terms, each sum of which is rounded


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
