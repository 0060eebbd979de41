"""The passes over the weights that an engine runs, each compiled once for its shapes.

A row's keys and values stand in three places: those of the system prompt, computed once and shared
by all rows; those of its own slot of the cache; and those of the pass itself. A pass runs either
the rest of one prompt (``prefill``) or, for several rows, a tree of tokens that go on from what
each row holds (``verify``). Both return the logits of the grammar's edges at the places asked for.

Letters: L layers, B slots, b rows of a pass, C cache places of a slot, P tokens of the system
prompt, S tokens of a prefill, T nodes of a tree, M places that a commit may move, Q queries, N
nodes of the grammar, E edges of a node, W words of an edge's bits, R rows of the head.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gplan_jax.models import KVCache, Qwen3
from gplan_jax.models.qwen3.cache import LayeredContext

Array = Any  # NumPy's on the host, JAX's inside a program

CLOSED_EDGE = float(jnp.finfo(jnp.float32).min)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Served:
    """What does not change while an engine runs.

    Attributes:
        params: the model's parameters.
        system: keys and values of the system prompt, one row.
        head_RxD: rows of the output matrix for the tokens that a grammar can ever allow; None where
            the whole vocabulary is wanted.
        edge_row_NxE: each edge's token as a row of ``head_RxD``.
        edge_bits_NxExW: each edge's bits, all 0 where a node has no such edge.
    """

    params: Any
    system: LayeredContext
    head_RxD: jax.Array | None
    edge_row_NxE: jax.Array | None
    edge_bits_NxExW: jax.Array | None


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Places:
    """Where in the grammar logits are wanted: a node and its open bits, [...] and [..., W]."""

    node: Array
    open_bits: Array


def system_context(model: Qwen3, ids_P: jax.Array) -> LayeredContext:
    """Keys and values of the system prompt."""
    length = jnp.full(1, ids_P.shape[0], jnp.int32)
    _, context = model.branch(ids_P[None], length, keep=True)
    assert context is not None
    return context


def prefill(
    graphdef: Any,
    vocabulary: int,
    continues: bool,
    served: Served,
    cache: KVCache,
    ids_S: jax.Array,
    length: jax.Array,
    slot: jax.Array,
    start: jax.Array,
    query_Q: jax.Array,
    places: Places | None,
) -> tuple[KVCache, jax.Array]:
    """Runs what a slot does not hold of its prompt, and what is known of the response.

    Args:
        graphdef: structure of the model.
        vocabulary: tokens there are; rows of the embedding beyond are padding.
        continues: whether the slot holds a user prefix, which the tokens go on from.
        served: weights, system prompt, grammar.
        cache: of all slots.
        ids_S: the tokens, right-padded.
        length: how many there are.
        slot: whose they are.
        start: tokens that the slot holds already.
        query_Q: the tokens whose logits are wanted.
        places: [Q] and [Q, W]; None where the whole vocabulary is wanted.

    Returns:
        The cache with the tokens, and edge logits [Q, E] (the most likely token [Q] without
        places).
    """
    model: Qwen3 = nnx.merge(graphdef, served.params)
    ancestors = [served.system]
    if continues:
        own_k, own_v = (
            jax.lax.dynamic_slice_in_dim(kv, slot, 1, axis=1) for kv in (cache.k, cache.v)
        )
        ancestors.append(LayeredContext(own_k, own_v, start[None]))
    hidden_1xSxD, new = model.branch(ids_S[None], length[None], ancestors, keep=True)
    assert new is not None
    cache = KVCache(
        k=jax.lax.dynamic_update_slice(cache.k, _as(new.key, cache.k), (0, slot, start, 0, 0)),
        v=jax.lax.dynamic_update_slice(cache.v, _as(new.value, cache.v), (0, slot, start, 0, 0)),
    )
    return cache, _choices(model, served, vocabulary, hidden_1xSxD[0, query_Q], places)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trees:
    """The trees of one pass, a row each, and where they go.

    Attributes:
        ids_bxT: tokens; parents come before their children.
        depths_bxT: tokens between the node and what the row holds.
        mask_bxTxT: True where a node sees another: itself and its ancestors.
        lengths_b: tokens that the slot holds, after the commit.
        base_b: where the window of the commit begins.
        moves_bxM: the place in the window from which each of its places is filled: the nodes of the
            row's last tree that turned out right close up, the others are overwritten later.
    """

    ids_bxT: Array
    depths_bxT: Array
    mask_bxTxT: Array
    lengths_b: Array
    base_b: Array
    moves_bxM: Array


def verify(
    graphdef: Any,
    vocabulary: int,
    served: Served,
    cache: KVCache,
    trees: Trees,
    places: Places | None,
) -> tuple[KVCache, jax.Array]:
    """Runs a tree of tokens for each of the first b slots.

    Returns:
        The cache with the last commit done and all nodes of the trees behind each row's tokens, and
        edge logits [b, T, E] (the most likely token [b, T] without places).
    """
    model: Qwen3 = nnx.merge(graphdef, served.params)
    rows, nodes = trees.ids_bxT.shape
    cache = _commit(cache, trees)
    held = LayeredContext(cache.k, cache.v, trees.lengths_b)
    positions_bxT = served.system.lengths + trees.lengths_b[:, None] + trees.depths_bxT
    hidden_bxTxD, new = model.branch(
        trees.ids_bxT,
        jnp.full(rows, nodes, jnp.int32),
        [served.system, held],
        positions_BxS=positions_bxT,
        mask_BxSxS=trees.mask_bxTxT,
        keep=True,
    )
    assert new is not None
    k, v = cache.k, cache.v
    for row in range(rows):  # One update a row happens in place; a scatter would not everywhere.
        at = (0, row, trees.lengths_b[row], 0, 0)
        k = jax.lax.dynamic_update_slice(k, _as(new.key[:, row : row + 1], k), at)
        v = jax.lax.dynamic_update_slice(v, _as(new.value[:, row : row + 1], v), at)
    return KVCache(k, v), _choices(model, served, vocabulary, hidden_bxTxD, places)


def read_page(cache: KVCache, slot: jax.Array, start: jax.Array, size: int) -> KVCache:
    """Keys and values of ``size`` tokens of a slot, [L, 1, size, K, H]."""

    def read(kv: jax.Array) -> jax.Array:
        layers, _, _, heads, head_dim = kv.shape
        sizes = (layers, 1, size, heads, head_dim)
        return jax.lax.dynamic_slice(kv, (0, slot, start, 0, 0), sizes)

    return KVCache(read(cache.k), read(cache.v))


def write_page(cache: KVCache, page: KVCache, slot: jax.Array, start: jax.Array) -> KVCache:
    """The cache with a page put into a slot."""
    at = (0, slot, start, 0, 0)
    return KVCache(
        jax.lax.dynamic_update_slice(cache.k, page.k, at),
        jax.lax.dynamic_update_slice(cache.v, page.v, at),
    )


def _commit(cache: KVCache, trees: Trees) -> KVCache:
    """Closes up each row's window, so that what turned out right stands side by side."""

    def close_up(kv: jax.Array) -> jax.Array:
        rows, window = trees.moves_bxM.shape
        layers, _, _, heads, head_dim = kv.shape
        for row in range(rows):
            at = (0, row, trees.base_b[row], 0, 0)
            held = jax.lax.dynamic_slice(kv, at, (layers, 1, window, heads, head_dim))
            kv = jax.lax.dynamic_update_slice(kv, held[:, :, trees.moves_bxM[row]], at)
        return kv

    return KVCache(close_up(cache.k), close_up(cache.v))


def _choices(
    model: Qwen3, served: Served, vocabulary: int, hidden: jax.Array, places: Places | None
) -> jax.Array:
    """Logits [..., E] of the edges at ``places``, or the most likely of all tokens [...]."""
    if places is None:
        # Rows of the embedding beyond the tokenizer's are padding.
        return jnp.argmax(model.logits(hidden)[..., :vocabulary], axis=-1).astype(jnp.int32)
    assert served.head_RxD is not None
    assert served.edge_row_NxE is not None and served.edge_bits_NxExW is not None
    logits = jnp.einsum(
        "...D,RD->...R", hidden, served.head_RxD, preferred_element_type=jnp.float32
    )
    edges = jnp.take_along_axis(logits, served.edge_row_NxE[places.node], axis=-1)
    bits = served.edge_bits_NxExW[places.node] & places.open_bits[..., None, :]
    return jnp.where(jnp.any(bits != 0, axis=-1), edges, CLOSED_EDGE)


def _as(new: jax.Array, like: jax.Array) -> jax.Array:
    return new.astype(like.dtype)
