"""What a Qwen3 module computes where an adapter stands beside one of its weights."""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx


class LoraParam(nnx.Variable):
    """A trained array of a model whose ``nnx.Param`` weights are frozen."""


class LowRank(nnx.Module):
    """scale * (x A) B beside a projection x W.

    Attributes:
        down: A, [inputs..., r] (stacked over layers outside of a scan).
        up: B, [r, outputs...].
        scale: alpha / r.
    """

    def __init__(self, *, down: LoraParam, up: LoraParam, scale: float) -> None:
        self.down = down
        self.up = up
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


class TrainedRows(nnx.Module):
    """Rows of embedding and head that are trained while the other rows are frozen.

    Attributes:
        ids: their token ids, ascending.
        embedding: [rows, D].
        head: [rows, D]; None where the head is the embedding.
    """

    def __init__(
        self, ids: tuple[int, ...], *, embedding: LoraParam, head: LoraParam | None
    ) -> None:
        self.ids = ids
        self.embedding = embedding
        self.head = head

    def embed(self, tokens_BxT: jax.Array, frozen_BxTxD: jax.Array) -> jax.Array:
        """The embeddings of tokens, with those of trained rows in their places."""
        matches_BxTxR = tokens_BxT[..., None] == jnp.asarray(self.ids)
        rows_RxD = self.embedding[...].astype(frozen_BxTxD.dtype)
        trained = jnp.einsum("BTR,RD->BTD", matches_BxTxR.astype(rows_RxD.dtype), rows_RxD)
        return jnp.where(matches_BxTxR.any(axis=-1, keepdims=True), trained, frozen_BxTxD)

    def put_into(self, matrix_VxD: jax.Array, name: str) -> jax.Array:
        """The matrix ("embedding" or "head") with the trained rows in their places."""
        rows = self.embedding if name == "embedding" or self.head is None else self.head
        return matrix_VxD.at[jnp.asarray(self.ids)].set(rows[...].astype(matrix_VxD.dtype))
