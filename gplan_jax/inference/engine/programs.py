"""The compiled programs of an engine: every shape that it will ever run, made before it starts.

Shapes are buckets: a prompt is padded to the next multiple of a step, the rows of a pass to the
next power of two. A server's programs are compiled ahead of time and called as they are, so that a
shape that was not foreseen is an error and not a compilation in the middle of a request; a planner
that works through a file compiles what it meets.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import jax
import numpy as np

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.inference.engine import passes
from gplan_jax.inference.grammar.plan_grammar import PlanGrammar
from gplan_jax.models import Qwen3

PAGE = 64  # tokens of a user prefix that are kept and found again together
_MOST_BUCKETS = 10
_FEWEST_NODES = 16


@dataclass(frozen=True)
class Shapes:
    """The shapes that an engine's programs are made for."""

    buckets: tuple[int, ...]  # tokens of a prefill, ascending
    # rows of a pass (a power of two, or all slots) -> nodes of each row's tree
    nodes: dict[int, int]
    queries: int  # places of a prefill whose logits are wanted
    places: int  # tokens that a slot of the cache holds
    tail: int = 0  # tokens of the response that a prefill may carry
    chunk: int = 0  # the bucket that longer prompts are prefilled in parts of; 0: all at once

    @property
    def window(self) -> int:
        """AllowedEdges that a commit may move: those of the largest tree."""
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
    *, prompt: int, tail: int, response: int, slots: int, nodes: int, queries: int, chunk: int = 0
) -> Shapes:
    """The shapes for a prompt of so many tokens after its system part, ``tail`` tokens of the
    response that are appended to it, and a response of so many.

    ``nodes`` tokens of a pass are shared out over its rows; a tree has so many, or 16, however many
    rows there are. Prompts that may be more than twice as long as ``chunk`` are prefilled in parts
    of about so many tokens; 0: never.
    """
    longest = prompt + tail
    step = max(PAGE, -(-longest // (_MOST_BUCKETS * PAGE)) * PAGE)
    buckets = tuple(range(step, longest + step, step))
    if step > PAGE:
        buckets = (PAGE, *buckets)
    rows = sorted({*(2**i for i in range(slots.bit_length()) if 2**i <= slots), slots})
    of_rows = {r: max(min(nodes, _FEWEST_NODES), nodes // r) for r in rows}
    part = 0
    if 0 < 2 * chunk < longest:
        part = max(bucket for bucket in buckets if bucket <= max(chunk, step))
    # A part is padded to its bucket, wherever it begins.
    places = max(buckets[-1], longest + max(response, part)) + max(of_rows.values())
    return Shapes(buckets, of_rows, queries, places, tail, part)


# One jit a function for the whole process: decoders of models of one shape share what is compiled.
_PREFILL = jax.jit(passes.prefill, donate_argnames="cache")
_VERIFY = jax.jit(passes.verify, donate_argnames="cache")
_READ_PAGE = jax.jit(partial(passes.read_page, size=PAGE))
_WRITE_PAGE = jax.jit(passes.write_page, donate_argnames="cache")


class Programs:
    """An engine's weights, cache and compiled programs; the cache is written in place.

    Without a ``grammar`` they decode plainly, over the ``vocabulary`` of the tokenizer. ``pages``
    says whether user prefixes will be read from and written to the cache, ``ahead`` whether to
    compile everything now, or each program when it is first called.

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
                f"are more than the model's {limit} positions; shorten prompts "
                "(--prompt-length) or answers (--max-new-tokens)."
            )
        self.shapes = shapes
        self._served = passes.Served.of(
            model, np.asarray(system_ids, np.int32), vocabulary, grammar
        )
        self._cache = passes.KVCache.empty(model, max(shapes.nodes), shapes.places)
        self._ahead = ahead
        self._compiled: dict[tuple, Callable] = {}
        if ahead:
            calls = program_calls(self._served, self._cache, self.shapes, pages=pages)
            lowered = [function.lower(*operands) for function, *operands in calls]
            # Compiling leaves Python's lock alone, so a second one may go on beside it.
            with ThreadPoolExecutor(2) as pool, ProgressBar("compiling", len(lowered)) as bar:
                compiled = pool.map(lambda program: program.compile(), lowered)
                for (function, *operands), program in zip(calls, compiled, strict=True):
                    self._compiled[_shape_key(function, operands)] = program
                    bar.advance(steps=1)

    @property
    def count(self) -> int:
        """Programs compiled ahead; none is added later, or it was not ahead."""
        return len(self._compiled)

    def prefill(
        self,
        slot: int,
        ids: Sequence[int],
        start: int,
        queries: Sequence[int] = (),
        allowed: passes.AllowedEdges | None = None,
    ) -> np.ndarray:
        """Runs tokens of a prompt into a slot that holds ``start`` of them: edge logits [Q, E] at
        the tokens ``queries``, or the most likely token [Q].
        """
        prompt = replace(
            _empty_prompt(self.shapes, self.shapes.bucket(len(ids)), start > 0),
            length=np.int32(len(ids)),
            slot=np.int32(slot),
            start=np.int32(start),
        )
        prompt.ids_S[: len(ids)] = ids
        prompt.query_Q[: len(queries)] = queries
        self._cache, choices = self._call(_PREFILL, self._served, self._cache, prompt, allowed)
        return np.asarray(choices)

    def verify(self, trees: passes.Trees, allowed: passes.AllowedEdges | None) -> np.ndarray:
        """Runs the trees of the first b slots; edge logits [b, T, E] or likely tokens [b, T]."""
        self._cache, choices = self._call(_VERIFY, self._served, self._cache, trees, allowed)
        return np.asarray(choices)

    def read_page(self, slot: int, start: int) -> passes.KVCache:
        """A page of a slot's keys and values."""
        return self._call(_READ_PAGE, self._cache, np.int32(slot), np.int32(start))

    def write_page(self, slot: int, start: int, page: passes.KVCache) -> None:
        """Puts a page into a slot."""
        self._cache = self._call(_WRITE_PAGE, self._cache, page, np.int32(slot), np.int32(start))

    def no_edges(self, *shape: int) -> passes.AllowedEdges | None:
        """Nothing that is allowed, to be filled in; None for plain decoding."""
        return _no_edges(self._served, *shape)

    def _call(self, function: Any, *operands: Any) -> Any:
        if not self._ahead:
            return function(*operands)
        key = _shape_key(function, operands)
        if key not in self._compiled:
            self._compiled[key] = function.lower(*operands).compile()
        return self._compiled[key](*operands)


def program_calls(
    served: passes.Served, cache: passes.KVCache, shapes: Shapes, *, pages: bool
) -> list[tuple[Any, ...]]:
    """Every program that an engine may run, (jitted function, *operands): prefills by tokens, then
    passes by rows, then pages. ``served`` and ``cache`` may be shapes without values.
    """
    number, calls = np.int32(0), list[tuple[Any, ...]]()
    for bucket in shapes.buckets:
        goes_on = (pages and shapes.continues(bucket)) or bucket <= shapes.chunk
        for continues in (False, True) if goes_on else (False,):
            prompt = _empty_prompt(shapes, bucket, continues)
            calls.append((_PREFILL, served, cache, prompt, _no_edges(served, shapes.queries)))
    for rows, nodes in shapes.nodes.items():
        trees = empty_trees(rows, nodes, shapes.window)
        calls.append((_VERIFY, served, cache, trees, _no_edges(served, rows, nodes)))
    if pages:
        page = jax.eval_shape(_READ_PAGE, cache, number, number)
        calls.append((_READ_PAGE, cache, number, number))
        calls.append((_WRITE_PAGE, cache, page, number, number))
    return calls


def _empty_prompt(shapes: Shapes, bucket: int, continues: bool) -> passes.PromptRest:
    zero, query_Q = np.int32(0), np.zeros(shapes.queries, np.int32)
    return passes.PromptRest(np.zeros(bucket, np.int32), zero, zero, zero, query_Q, continues)


def _no_edges(served: passes.Served, *shape: int) -> passes.AllowedEdges | None:
    if served.table is None:
        return None
    bits = np.zeros((*shape, served.table.bits_MxW.shape[1]), np.uint32)
    return passes.AllowedEdges(np.zeros(shape, np.int32), bits)


def _shape_key(function: Any, operands: Sequence[Any]) -> tuple:
    """What tells the programs of one engine apart; its weights and cache never change shape."""
    shapes = (
        (operand.ids_S.shape, operand.continues)
        if isinstance(operand, passes.PromptRest)
        else operand.ids_bxT.shape
        for operand in operands
        if isinstance(operand, passes.PromptRest | passes.Trees)
    )
    return (function, *shapes)


def empty_trees(rows: int, nodes: int, window: int) -> passes.Trees:
    """Trees of padding, to be filled in: every node sees itself alone and nothing is moved."""
    return passes.Trees(
        ids_bxT=np.zeros((rows, nodes), np.int32),
        depths_bxT=np.zeros((rows, nodes), np.int32),
        mask_bxTxT=np.tile(np.eye(nodes, dtype=bool), (rows, 1, 1)),
        lengths_b=np.zeros(rows, np.int32),
        base_b=np.zeros(rows, np.int32),
        moves_bxM=np.tile(np.arange(window, dtype=np.int32), (rows, 1)),
    )


def set_tree(trees: passes.Trees, row: int, tokens: Sequence[int], parents: Sequence[int]) -> None:
    """Puts one tree into the padding of ``empty_trees``: its tokens, who sees whom, and how deep
    each node lies. See ``DraftTree`` for ``parents``.
    """
    trees.ids_bxT[row, : len(tokens)] = tokens
    mask_TxT, depths_T = trees.mask_bxTxT[row], trees.depths_bxT[row]
    for node, parent in enumerate(parents):
        if parent >= 0:
            mask_TxT[node] |= mask_TxT[parent]
            depths_T[node] = depths_T[parent] + 1
