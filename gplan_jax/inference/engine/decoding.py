"""Batched greedy decoding: one compiled program a prompt-length bucket.

Cache layout: prompts are right-padded to the bucket length S and take slots 0 .. S - 1; the token
generated at step t takes slot S + t in every row, so that one write serves the batch. Rotary
positions go on from each row's own length, and a mask hides the padding between.

Letters: B batch, S bucket length, M new tokens, C = S + M cache slots.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gplan_jax.foundation.errors import GplanError
from gplan_jax.models.qwen3.cache import KVCache, init_cache
from gplan_jax.models.qwen3.model import Qwen3


class GreedyDecoder:
    """Decodes lists of prompts with the most likely token at each step.

    Args:
        model: the weights; a decoder made from another model of the same shape uses the programs
            that are already compiled.
        end_id: the token that ends a row.
        pad_id: the token that fills prompts up to their bucket.
        max_new_tokens: M, the longest answer, the end token included.
        length_buckets: prompt lengths to compile for; a prompt goes to the smallest that holds it.
        batch_size: rows a program takes; a smaller batch is filled with dummy rows.

    Raises:
        GplanError: no bucket, a number that is not positive, or more positions than the model has.
    """

    def __init__(
        self,
        model: Qwen3,
        *,
        end_id: int,
        pad_id: int,
        max_new_tokens: int,
        length_buckets: Sequence[int],
        batch_size: int,
    ) -> None:
        self._buckets = sorted(set(length_buckets))
        if not self._buckets or min(*self._buckets, max_new_tokens, batch_size) < 1:
            raise GplanError(
                f"Decoding needs positive numbers: length_buckets {list(length_buckets)}, "
                f"max_new_tokens {max_new_tokens}, batch_size {batch_size}."
            )
        limit = model.config.max_position_embeddings
        if self._buckets[-1] + max_new_tokens > limit:
            raise GplanError(
                f"A bucket of {self._buckets[-1]} and {max_new_tokens} new tokens are more than "
                f"the model's {limit} positions; shorten one of them."
            )
        self._pad_id, self._batch_size = pad_id, batch_size
        graphdef, self._params = nnx.split(model, nnx.Param)
        limits = _Limits(end_id=end_id, pad_id=pad_id, max_new_tokens=max_new_tokens)
        self._program = functools.partial(_generate, graphdef, limits)

    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        *,
        on_rows: Callable[[int], None] | None = None,
    ) -> list[list[int]]:
        """Returns each prompt's new tokens, without the end token, in the order of the prompts.

        ``on_rows`` hears after each batch how many prompts it answered, for a progress bar.

        Raises:
            GplanError: a prompt is empty or longer than the largest bucket.
        """
        for number, prompt in enumerate(prompts):
            if not 1 <= len(prompt) <= self._buckets[-1]:
                raise GplanError(
                    f"Prompt {number} has {len(prompt)} tokens; decoding takes 1 to "
                    f"{self._buckets[-1]} (the largest length bucket)."
                )
        answers: list[list[int]] = [[] for _ in prompts]
        for bucket, rows in self._batches([len(prompt) for prompt in prompts]):
            ids_BxS = np.full((self._batch_size, bucket), self._pad_id, np.int32)
            lengths_B = np.zeros(self._batch_size, np.int32)
            for slot, row in enumerate(rows):
                lengths_B[slot] = len(prompts[row])
                ids_BxS[slot, : lengths_B[slot]] = prompts[row]
            tokens_BxM, counts_B = jax.device_get(self._program(self._params, ids_BxS, lengths_B))
            for slot, row in enumerate(rows):
                answers[row] = tokens_BxM[slot, : counts_B[slot]].tolist()
            if on_rows is not None:
                on_rows(len(rows))
        return answers

    def _batches(self, lengths: Sequence[int]) -> Iterator[tuple[int, list[int]]]:
        """Yields (bucket, row numbers) with rows sorted by length, so that buckets fill up."""
        by_bucket: dict[int, list[int]] = {}
        for row in sorted(range(len(lengths)), key=lengths.__getitem__):
            bucket = next(b for b in self._buckets if lengths[row] <= b)
            by_bucket.setdefault(bucket, []).append(row)
        for bucket, rows in by_bucket.items():
            for start in range(0, len(rows), self._batch_size):
                yield bucket, rows[start : start + self._batch_size]


@dataclasses.dataclass(frozen=True)
class _Limits:
    """What is fixed when a program is compiled."""

    end_id: int
    pad_id: int
    max_new_tokens: int


class _State(NamedTuple):
    """Rows after token ``step``: it is chosen and noted, but not yet in the cache."""

    step: jax.Array
    token_B: jax.Array
    done_B: jax.Array
    counts_B: jax.Array
    tokens_BxM: jax.Array
    cache: KVCache


@functools.partial(jax.jit, static_argnames=("graphdef", "limits"))
def _generate(
    graphdef: Any, limits: _Limits, params: Any, ids_BxS: jax.Array, lengths_B: jax.Array
) -> tuple[jax.Array, jax.Array]:
    """Returns new tokens [B, M] and how many of each row come before its end token [B].

    The weights are an argument, so that they are neither baked into the program nor the reason
    to compile it again. A row of length 0 is a dummy: it is done before it starts.
    """
    model: Qwen3 = nnx.merge(graphdef, params)
    bucket = ids_BxS.shape[1]

    def unfinished(state: _State) -> jax.Array:
        return (state.step + 1 < limits.max_new_tokens) & ~jnp.all(state.done_B)

    def advance(state: _State) -> _State:
        return _advance(model, limits, lengths_B, bucket, state)

    start = _prefill(model, limits, ids_BxS, lengths_B)
    end = jax.lax.while_loop(unfinished, advance, start)
    return end.tokens_BxM, end.counts_B


def _prefill(model: Qwen3, limits: _Limits, ids_BxS: jax.Array, lengths_B: jax.Array) -> _State:
    """Runs the prompts and chooses each row's first token."""
    batch, bucket = ids_BxS.shape
    slots_C = jnp.arange(bucket + limits.max_new_tokens)
    causal_SxC = slots_C <= jnp.arange(bucket)[:, None]
    prompt_Bx1xC = slots_C < lengths_B[:, None, None]
    hidden_BxSxD, cache = model.hidden_with_cache(
        ids_BxS,
        jnp.arange(bucket)[None],
        init_cache(model.config, batch, len(slots_C), model.compute_dtype),
        0,
        causal_SxC & prompt_Bx1xC,
    )
    before = _State(
        step=jnp.int32(-1),
        token_B=lengths_B,
        done_B=lengths_B == 0,
        counts_B=jnp.zeros(batch, jnp.int32),
        tokens_BxM=jnp.full((batch, limits.max_new_tokens), limits.pad_id, jnp.int32),
        cache=cache,
    )
    return _choose(model, limits, before, hidden_BxSxD[jnp.arange(batch), lengths_B - 1])


def _advance(
    model: Qwen3, limits: _Limits, lengths_B: jax.Array, bucket: int, state: _State
) -> _State:
    """Puts each row's token into the cache and chooses its next one."""
    slot = bucket + state.step
    slots_C = jnp.arange(bucket + limits.max_new_tokens)
    prompt_BxC = slots_C < lengths_B[:, None]
    generated_C = (slots_C >= bucket) & (slots_C <= slot)
    hidden_Bx1xD, cache = model.hidden_with_cache(
        state.token_B[:, None],
        (lengths_B + state.step)[:, None],
        state.cache,
        slot,
        (prompt_BxC | generated_C)[:, None, :],
    )
    return _choose(model, limits, state._replace(cache=cache), hidden_Bx1xD[:, 0])


def _choose(model: Qwen3, limits: _Limits, state: _State, hidden_BxD: jax.Array) -> _State:
    """Takes the most likely token of each row and notes it where the row is not done."""
    token_B = jnp.argmax(model.logits(hidden_BxD), axis=-1).astype(jnp.int32)
    done_B = state.done_B | (token_B == limits.end_id)
    step = state.step + 1
    noted_B = jnp.where(done_B, limits.pad_id, token_B)
    return _State(
        step=step,
        token_B=token_B,
        done_B=done_B,
        counts_B=state.counts_B + ~done_B,
        tokens_BxM=state.tokens_BxM.at[:, step].set(noted_B),
        cache=state.cache,
    )
