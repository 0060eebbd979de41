"""The compiled programs of an engine: every shape that it will ever run, made before it starts.

Shapes are buckets: a prompt is padded to the next multiple of a step, the rows of a pass to the
next power of two. A server's programs are compiled ahead of time and called as they are, so that a
shape that was not foreseen is an error and not a compilation in the middle of a request; a planner
that works through a file compiles what it meets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.inference.engine.passes import (
    Places,
    Served,
    Trees,
    prefill,
    read_page,
    system_context,
    verify,
    write_page,
)
from gplan_jax.inference.grammar.plan_grammar import PlanGrammar
from gplan_jax.models import KVCache, Qwen3, init_cache

PAGE = 64  # tokens of a user prefix that are kept and found again together
_MOST_BUCKETS = 10
_FEWEST_NODES = 16


@dataclass(frozen=True)
class Shapes:
    """The shapes that an engine's programs are made for.

    Attributes:
        buckets: tokens of a prefill, ascending.
        nodes: rows of a pass (a power of two, or all slots) -> nodes of each row's tree.
        queries: places of a prefill whose logits are wanted.
        places: tokens that a slot of the cache holds.
        tail: tokens of the response that a prefill may carry.
    """

    buckets: tuple[int, ...]
    nodes: dict[int, int]
    queries: int
    places: int
    tail: int = 0

    @property
    def window(self) -> int:
        """Places that a commit may move: those of the largest tree."""
        return max(self.nodes.values())

    def bucket(self, tokens: int) -> int:
        """The smallest bucket that holds so many tokens."""
        return next(bucket for bucket in self.buckets if tokens <= bucket)

    def continues(self, bucket: int) -> bool:
        """Whether such a prefill may go on from cached pages: a long one gains little by them."""
        return bucket <= max(self.buckets[0], self.buckets[-1] // 2)

    def rows(self, highest: int) -> int:
        """The rows of a pass that reaches the slot ``highest``, counted from 0."""
        return next(rows for rows in sorted(self.nodes) if highest < rows)


def shapes_of(
    *, prompt: int, tail: int, response: int, slots: int, nodes: int, least_nodes: int, queries: int
) -> Shapes:
    """The shapes for prompts and responses of at most so many tokens.

    Args:
        prompt: tokens of a prompt after its system part.
        tail: tokens of the response that are appended to it.
        response: tokens of the longest response.
        slots: rows there may be.
        nodes: tokens of one pass, shared out over its rows.
        least_nodes: nodes that a tree has however many rows there are, but never more than 16.
        queries: places of a prefill whose logits are wanted.
    """
    longest = prompt + tail
    step = max(PAGE, -(-longest // (_MOST_BUCKETS * PAGE)) * PAGE)
    buckets = tuple(range(step, longest + step, step))
    if step > PAGE:
        buckets = (PAGE, *buckets)
    rows = sorted({*(2**i for i in range(slots.bit_length()) if 2**i <= slots), slots})
    of_rows = {r: max(min(least_nodes, _FEWEST_NODES), nodes // r) for r in rows}
    places = max(buckets[-1], longest + response) + max(of_rows.values())
    return Shapes(buckets, of_rows, queries, places, tail)


class Programs:
    """An engine's weights, cache and compiled programs; the cache is written in place.

    Args:
        model: the model to serve.
        system_ids: tokens of the system prompt.
        shapes: what to compile for.
        vocabulary: tokens that the tokenizer has.
        grammar: whose edges are wanted; None for plain decoding over the vocabulary.
        pages: whether user prefixes will be read from and written to the cache.
        ahead: whether to compile everything now, or each program when it is first called.

    Raises:
        GplanError: the longest sequence has more positions than the model.
    """

    def __init__(
        self,
        model: Qwen3,
        system_ids: Sequence[int],
        shapes: Shapes,
        *,
        vocabulary: int,
        grammar: PlanGrammar | None,
        pages: bool,
        ahead: bool = True,
    ) -> None:
        limit = model.config.max_position_embeddings
        if len(system_ids) + shapes.places > limit:
            raise GplanError(
                f"A system prompt of {len(system_ids)} tokens and up to {shapes.places} behind it "
                f"are more than the model's {limit} positions; shorten max_length."
            )
        self.shapes = shapes
        graphdef, params = nnx.split(model, nnx.Param)
        ids_P = np.asarray(system_ids, np.int32)
        system = jax.jit(lambda p, ids: system_context(nnx.merge(graphdef, p), ids))(params, ids_P)
        self._served = Served(params, system, *_tables(model, grammar))
        dtype = model.compute_dtype
        self._cache = init_cache(model.config, max(shapes.nodes), shapes.places, dtype)
        self._words = None if grammar is None else grammar.table.edge_bits.shape[-1]
        self._jitted = _jitted(graphdef, vocabulary)
        self._compiled: dict[tuple, Callable] = {}
        if ahead:
            self._compile_all(pages)

    @property
    def count(self) -> int:
        """Programs compiled so far; if that was done ahead, none is added later."""
        return len(self._compiled)

    def prefill(
        self,
        slot: int,
        ids: Sequence[int],
        start: int,
        queries: Sequence[int] = (),
        places: Places | None = None,
    ) -> np.ndarray:
        """Runs tokens of a prompt into a slot that holds ``start`` of them; see ``passes``.

        Returns:
            Edge logits [Q, E] at the tokens ``queries``, or the most likely token [Q].
        """
        bucket = self.shapes.bucket(len(ids))
        ids_S = np.zeros(bucket, np.int32)
        ids_S[: len(ids)] = ids
        query_Q = np.zeros(self.shapes.queries, np.int32)
        query_Q[: len(queries)] = queries
        numbers = (np.int32(len(ids)), np.int32(slot), np.int32(start))
        self._cache, choices = self._call(
            ("prefill", bucket, start > 0),
            self._served,
            self._cache,
            ids_S,
            *numbers,
            query_Q,
            places,
        )
        return np.asarray(choices)

    def verify(self, trees: Trees, places: Places | None) -> np.ndarray:
        """Runs the trees of the first b slots; edge logits [b, T, E] or likely tokens [b, T]."""
        key = ("verify", *trees.ids_bxT.shape)
        self._cache, choices = self._call(key, self._served, self._cache, trees, places)
        return np.asarray(choices)

    def read_page(self, slot: int, start: int) -> KVCache:
        """A page of a slot's keys and values."""
        return self._call(("read_page",), self._cache, np.int32(slot), np.int32(start))

    def write_page(self, slot: int, start: int, page: KVCache) -> None:
        """Puts a page into a slot."""
        numbers = (np.int32(slot), np.int32(start))
        self._cache = self._call(("write_page",), self._cache, page, *numbers)

    def empty_places(self, *shape: int) -> Places | None:
        """Places without an open edge, to be filled in; None for plain decoding."""
        if self._words is None:
            return None
        return Places(np.zeros(shape, np.int32), np.zeros((*shape, self._words), np.uint32))

    def _call(self, key: tuple, *operands: Any) -> Any:
        program = self._compiled.get(key)
        if program is None:
            program = self._compiled[key] = self._lower(key, operands).compile()
        return program(*operands)

    def _lower(self, key: tuple, operands: Sequence[Any]) -> Any:
        # Shapes are those of the operands; what is left of a prefill's key is a flag.
        name, *shape = key
        return self._jitted[name, *(shape[1:] if name == "prefill" else ())].lower(*operands)

    def _compile_all(self, pages: bool) -> None:
        served, cache, number = self._served, self._cache, np.int32(0)
        query_Q = np.zeros(self.shapes.queries, np.int32)
        operands: dict[tuple, tuple] = {}
        for bucket in self.shapes.buckets:
            for continues in (False, True) if pages and self.shapes.continues(bucket) else (False,):
                ids_S, places = np.zeros(bucket, np.int32), self.empty_places(self.shapes.queries)
                numbers = (number, number, number)
                operands["prefill", bucket, continues] = (
                    served, cache, ids_S, *numbers, query_Q, places,
                )  # fmt: skip
        for rows, nodes in self.shapes.nodes.items():
            trees = empty_trees(rows, nodes, self.shapes.window)
            places = self.empty_places(rows, nodes)
            operands["verify", rows, nodes] = (served, cache, trees, places)
        if pages:
            operands["read_page",] = (cache, number, number)
            page = jax.eval_shape(self._jitted["read_page",], cache, number, number)
            operands["write_page",] = (cache, page, number, number)
        lowered = [self._lower(key, given) for key, given in operands.items()]
        # Compiling leaves Python's lock alone, so a second one may go on beside it.
        with ThreadPoolExecutor(2) as pool, ProgressBar("compiling", len(lowered)) as bar:
            compiled = pool.map(lambda program: program.compile(), lowered)
            for key, program in zip(operands, compiled, strict=True):
                self._compiled[key] = program
                bar.advance(steps=1)


def _jitted(graphdef: Any, vocabulary: int) -> dict[tuple, Any]:
    """The functions of ``passes`` by name; a prefill's also by whether it continues a prefix."""
    prefills = {
        ("prefill", continues): jax.jit(
            partial(prefill, graphdef, vocabulary, continues), donate_argnums=1
        )
        for continues in (False, True)
    }
    return prefills | {
        ("verify",): jax.jit(partial(verify, graphdef, vocabulary), donate_argnums=1),
        ("read_page",): jax.jit(partial(read_page, size=PAGE)),
        ("write_page",): jax.jit(write_page, donate_argnums=0),
    }


def empty_trees(rows: int, nodes: int, window: int) -> Trees:
    """Trees of padding, to be filled in: every node sees itself alone and nothing is moved."""
    return Trees(
        ids_bxT=np.zeros((rows, nodes), np.int32),
        depths_bxT=np.zeros((rows, nodes), np.int32),
        mask_bxTxT=np.tile(np.eye(nodes, dtype=bool), (rows, 1, 1)),
        lengths_b=np.zeros(rows, np.int32),
        base_b=np.zeros(rows, np.int32),
        moves_bxM=np.tile(np.arange(window, dtype=np.int32), (rows, 1)),
    )


def set_tree(trees: Trees, row: int, tokens: Sequence[int], parents: Sequence[int]) -> None:
    """Puts one tree into padding: its tokens, who sees whom, and how deep each node lies.

    Args:
        trees: see ``empty_trees``; changed in place.
        parents: of each token, -1 for what stands right behind the prompt; a parent comes before
            its children.
    """
    trees.ids_bxT[row, : len(tokens)] = tokens
    mask_TxT, depths_T = trees.mask_bxTxT[row], trees.depths_bxT[row]
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask_TxT[node] |= mask_TxT[parent]
            depths_T[node] = depths_T[parent] + 1


def _tables(
    model: Qwen3, grammar: PlanGrammar | None
) -> tuple[jax.Array | None, jax.Array | None, jax.Array | None]:
    if grammar is None:
        return None, None, None
    head_RxD = jnp.take(model.head_VxD(), grammar.token_ids, axis=0).astype(model.compute_dtype)
    return (
        head_RxD,
        jnp.asarray(grammar.table.edge_row, jnp.int32),
        jnp.asarray(grammar.table.edge_bits, jnp.uint32),
    )
