"""The vocabulary's matrices, embedding and head: their rows split over devices, some trained apart.

No device ever holds a whole matrix or its gradient. Tokens and hidden states go to the rows
instead: they are a few MB a step, the matrix of Qwen3 with its gradient is a GB. Without a mesh
``embed_tokens`` and ``vocabulary_nll`` are the plain lookup and the plain loss.

Letters: B rows of a batch, S tokens, R supervised positions, D width, V vocabulary.
"""

from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
from flax import nnx
from jax.typing import DTypeLike

from gplan_jax.models.layers.projection import LoraParam
from gplan_jax.models.layers.sharding import axis_size, mesh_in_force, partition_spec
from gplan_jax.objectives.section_loss import chunked_token_nll, partition_and_picked


@jax.named_scope("embed")
def embed_tokens(table_VxD: jax.Array, ids_BxS: jax.Array, dtype: DTypeLike) -> jax.Array:
    """Returns ``table[ids]`` [B, S, D] in ``dtype``; B is split over the mesh where it divides."""
    chex.assert_rank([table_VxD, ids_BxS], 2)
    mesh, vocab = _mesh(), partition_spec("vocab")[0]
    if mesh is None:
        return table_VxD[ids_BxS].astype(dtype)
    batch = partition_spec("batch")[0]
    divides = ids_BxS.shape[0] % axis_size(mesh, batch) == 0

    def lookup(rows_WxD: jax.Array, ids: jax.Array) -> jax.Array:
        own = ids - jax.lax.axis_index(vocab) * len(rows_WxD)
        inside = (own >= 0) & (own < len(rows_WxD))
        found = rows_WxD[jnp.where(inside, own, 0)].astype(dtype)
        found = jnp.where(inside[..., None], found, 0)  # one device has it, the others add nothing
        if not divides:
            return jax.lax.psum(found, vocab)
        found = jax.lax.psum(found, "tensor")
        return jax.lax.psum_scatter(found, "fsdp", scatter_dimension=0, tiled=True)

    ids_spec = partition_spec("copy_batch" if divides else None, None)
    return jax.shard_map(
        lookup,
        in_specs=(partition_spec("vocab", None), ids_spec),
        out_specs=partition_spec("batch" if divides else None, None, None),
    )(table_VxD, ids_BxS)


@jax.named_scope("head")
def vocabulary_nll(
    hidden_BxRxD: jax.Array, head_VxD: jax.Array, targets_BxR: jax.Array, *, vocab_chunk: int
) -> jax.Array:
    """Returns float32 [B, R], -log softmax(hidden @ head.T)[target].

    Each device goes through its own rows of the head, ``vocab_chunk`` of them at a time; the
    log-partition is a log-sum-exp over the devices' own.
    """
    chex.assert_shape(hidden_BxRxD, (*targets_BxR.shape, head_VxD.shape[1]))
    mesh, vocab = _mesh(), partition_spec("vocab")[0]
    width = hidden_BxRxD.shape[-1]
    if mesh is None:
        nll_N = chunked_token_nll(
            hidden_BxRxD.reshape(-1, width),
            head_VxD,
            targets_BxR.reshape(-1),
            vocab_chunk=vocab_chunk,
        )
        return nll_N.reshape(targets_BxR.shape)

    def own_part(hidden: jax.Array, head_WxD: jax.Array, targets: jax.Array) -> jax.Array:
        own = targets.reshape(-1) - jax.lax.axis_index(vocab) * len(head_WxD)
        partition_N, picked_N = partition_and_picked(
            hidden.reshape(-1, width), head_WxD, own, vocab_chunk=vocab_chunk
        )
        partition_N = jax.nn.logsumexp(jax.lax.all_gather(partition_N, vocab), axis=0)
        # The same on every device; a sum over equal parts says so to the compiler.
        nll_N = jax.lax.pmean(partition_N, vocab) - jax.lax.psum(picked_N, vocab)
        return nll_N.reshape(targets.shape)

    rows = "copy_batch" if len(targets_BxR) % mesh.shape["data"] == 0 else None
    return jax.shard_map(
        own_part,
        in_specs=(
            partition_spec(rows, None, None),
            partition_spec("vocab", None),
            partition_spec(rows, None),
        ),
        out_specs=partition_spec(rows, None),
    )(hidden_BxRxD, head_VxD, targets_BxR)


class TrainedRows(nnx.Module):
    """Rows (``ids``, ascending) of embedding and head trained while the others are frozen.

    ``head`` is None where the head is the embedding.
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


def _mesh() -> jax.sharding.AbstractMesh | None:
    """The mesh in force, where it splits the vocabulary."""
    mesh = mesh_in_force()
    if mesh is None or axis_size(mesh, partition_spec("vocab")[0]) == 1:
        return None
    return mesh
