"""The passes over the weights that an engine runs, as pure functions of arrays.

A row's keys and values stand in three places: those of the system prompt, computed once and shared
by all rows; those of its own slot of the cache; and those of the pass itself. A pass runs either
the rest of one prompt (``prefill``) or, for several rows, a tree of tokens that go on from what
each row holds (``verify``). Both return the logits of the grammar's edges where they are asked for,
or the most likely token of the whole vocabulary where no grammar is used, -1 where its logits are
not finite.

Letters: L layers, B slots, b rows of a pass, C cache places of a slot, P tokens of the system
prompt, S tokens of a prefill, T nodes of a tree, M places that a commit may move, Q queries, N
nodes of the grammar, E edges of a node, W words of an edge's bits, R rows of the head, K key/value
heads, H head size.
"""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx

from gplan_jax.inference.grammar.plan_grammar import GrammarTable, PlanGrammar
from gplan_jax.models import Qwen3
from gplan_jax.models.qwen3.model import LayeredContext

Array = Any  # NumPy's on the host, JAX's inside a program

CLOSED_EDGE = float(jnp.finfo(jnp.float32).min)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class KVCache:
    """Rotated keys ``k`` and values ``v``, both [L, B, C, K, H]; a page of one slot alike."""

    k: jax.Array
    v: jax.Array

    @classmethod
    def empty(cls, model: Qwen3, slots: int, places: int) -> KVCache:
        """An empty cache of a model, in its compute dtype."""
        config = model.config
        heads, head_dim = config.num_key_value_heads, config.head_dim
        shape = (config.num_hidden_layers, slots, places, heads, head_dim)
        return cls(jnp.zeros(shape, model.compute_dtype), jnp.zeros(shape, model.compute_dtype))


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Served:
    """What does not change while an engine runs."""

    # structure of the model. Being static, it and the shapes are all that a compiled program
    # depends on: other weights of the same shape run in the same program.
    graphdef: Any = dataclasses.field(metadata={"static": True})
    # tokens that the tokenizer has; rows of the embedding beyond are padding
    vocabulary: int = dataclasses.field(metadata={"static": True})
    params: Any  # the model's parameters
    system: LayeredContext  # keys and values of the system prompt, one row
    # rows of the output matrix for the tokens that a grammar can ever allow; None where the whole
    # vocabulary is wanted
    head_RxD: jax.Array | None = None
    table: GrammarTable | None = None  # of that grammar

    @classmethod
    def of(
        cls, model: Qwen3, system_P: Array, vocabulary: int, grammar: PlanGrammar | None
    ) -> Served:
        """Runs the system prompt and puts the tables of a grammar, if any, on the device."""
        graphdef, params = nnx.split(model, nnx.Param)
        system = _system_context(graphdef, params, system_P)
        if grammar is None:
            return cls(graphdef, vocabulary, params, system)
        head_RxD = jnp.take(model.head_VxD(), grammar.token_ids, axis=0)
        return cls(
            graphdef,
            vocabulary,
            params,
            system,
            head_RxD.astype(model.compute_dtype),
            jax.tree.map(jnp.asarray, grammar.table),
        )


def _model(graphdef: Any, params: Any) -> Qwen3:
    model: Qwen3 = nnx.merge(graphdef, params)
    model.kernel = "xla"  # whatever it was trained with: a decoder's shapes don't suit the others
    return model


@jax.jit(static_argnums=0)
def _system_context(graphdef: Any, params: Any, ids_P: jax.Array) -> LayeredContext:
    length = jnp.full(1, ids_P.shape[0], jnp.int32)
    _, context = _model(graphdef, params).branch(ids_P[None], length, keep=True)
    assert context is not None
    return context


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class AllowedEdges:
    """Where in the grammar logits are wanted: a node [...] and what is open at it [..., W]."""

    node: Array
    open_bits: Array


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PromptRest:
    """What a slot does not hold of its prompt, and what is known of the response."""

    ids_S: Array  # the tokens, right-padded
    length: Array  # how many there are
    slot: Array  # whose they are
    start: Array  # tokens that the slot holds already
    query_Q: Array  # the tokens whose logits are wanted
    # whether the slot holds a user prefix, which the tokens go on from
    continues: bool = dataclasses.field(metadata={"static": True})


def prefill(
    served: Served, cache: KVCache, prompt: PromptRest, allowed: AllowedEdges | None
) -> tuple[KVCache, jax.Array]:
    """Runs the rest of one prompt into its slot: the cache with its tokens, and edge logits [Q, E],
    or the most likely token [Q] where nothing is said of what is allowed.
    """
    model = _model(served.graphdef, served.params)
    slot, start = prompt.slot, prompt.start
    ancestors = [served.system]
    if prompt.continues:
        own_k, own_v = (
            jax.lax.dynamic_slice_in_dim(kv, slot, 1, axis=1) for kv in (cache.k, cache.v)
        )
        ancestors.append(LayeredContext(own_k, own_v, start[None]))
    hidden_1xSxD, new = model.branch(prompt.ids_S[None], prompt.length[None], ancestors, keep=True)
    assert new is not None
    cache = _written(cache, new.key, new.value, (0, slot, start, 0, 0))
    return cache, _choices(model, served, hidden_1xSxD[0, prompt.query_Q], allowed)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Trees:
    """The trees of one pass, a row each, and where they go."""

    ids_bxT: Array  # tokens; parents come before their children
    depths_bxT: Array  # tokens between the node and what the row holds
    mask_bxTxT: Array  # True where a node sees another: itself and its ancestors
    lengths_b: Array  # tokens that the slot holds, after the commit
    base_b: Array  # where the window of the commit begins
    # the place in the window from which each of its places is filled: the nodes of the row's last
    # tree that turned out right close up, the others are overwritten later
    moves_bxM: Array


def verify(
    served: Served, cache: KVCache, trees: Trees, allowed: AllowedEdges | None
) -> tuple[KVCache, jax.Array]:
    """Runs a tree of tokens for each of the first b slots: the cache with the last commit done and
    all nodes behind each row's tokens, and edge logits [b, T, E] or the most likely token [b, T].
    """
    model = _model(served.graphdef, served.params)
    rows, nodes = trees.ids_bxT.shape
    window = trees.moves_bxM.shape[1]
    # The commit: what turned out right in the last tree closes up. A tree of one node is in place.
    for row in range(rows if window > 1 else 0):
        at = (0, row, trees.base_b[row], 0, 0)
        last, moves_M = read_page(cache, row, trees.base_b[row], window), trees.moves_bxM[row]
        cache = _written(cache, last.k[:, :, moves_M], last.v[:, :, moves_M], at)
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
    for row in range(rows):  # One update a row happens in place; a scatter would not everywhere.
        key, value = new.key[:, row : row + 1], new.value[:, row : row + 1]
        cache = _written(cache, key, value, (0, row, trees.lengths_b[row], 0, 0))
    return cache, _choices(model, served, hidden_bxTxD, allowed)


def read_page(cache: KVCache, slot: Array, start: Array, size: int) -> KVCache:
    """Keys and values of ``size`` tokens of a slot, [L, 1, size, K, H]."""

    def read(kv: jax.Array) -> jax.Array:
        layers, _, _, heads, head_dim = kv.shape
        sizes = (layers, 1, size, heads, head_dim)
        return jax.lax.dynamic_slice(kv, (0, slot, start, 0, 0), sizes)

    return KVCache(read(cache.k), read(cache.v))


def write_page(cache: KVCache, page: KVCache, slot: Array, start: Array) -> KVCache:
    """The cache with a page put into a slot."""
    return _written(cache, page.k, page.v, (0, slot, start, 0, 0))


def _written(cache: KVCache, key: jax.Array, value: jax.Array, at: tuple[Any, ...]) -> KVCache:
    return KVCache(
        jax.lax.dynamic_update_slice(cache.k, key.astype(cache.k.dtype), at),
        jax.lax.dynamic_update_slice(cache.v, value.astype(cache.v.dtype), at),
    )


def _choices(
    model: Qwen3, served: Served, hidden: jax.Array, allowed: AllowedEdges | None
) -> jax.Array:
    if allowed is None:
        logits = model.logits(hidden)[..., : served.vocabulary]
        # The likeliest of numbers that are none would be a token like any other.
        likeliest = jnp.where(jnp.isfinite(logits).all(-1), jnp.argmax(logits, axis=-1), -1)
        return likeliest.astype(jnp.int32)
    assert served.head_RxD is not None and served.table is not None
    logits = jnp.einsum(
        "...D,RD->...R", hidden, served.head_RxD, preferred_element_type=jnp.float32
    )
    edge = served.table.edge_NxE[allowed.node]
    edge_logits = jnp.take_along_axis(logits, served.table.row_M[edge], axis=-1)
    bits = served.table.bits_MxW[edge] & allowed.open_bits[..., None, :]
    return jnp.where(jnp.any(bits != 0, axis=-1), edge_logits, CLOSED_EDGE)
