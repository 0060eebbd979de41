"""Batched greedy decoding: one compiled program a prompt-length bucket.

Cache layout: prompts are right-padded to the bucket length S and take slots 0 .. S - 1; the token
generated at step t takes slot S + t in every row, so that one write serves the batch. Rotary
positions go on from each row's own length, and a mask hides the padding between.

Letters: B batch, S bucket length, M new tokens, C = S + M cache slots.
"""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gplan_jax.foundation.errors import GplanError
from gplan_jax.models.cache import KVCache, init_cache
from gplan_jax.models.qwen3 import Qwen3


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
        self._program = functools.partial(
            _generate, graphdef, end_id=end_id, pad_id=pad_id, max_new_tokens=max_new_tokens
        )

    def decode(self, prompts: Sequence[Sequence[int]]) -> list[list[int]]:
        """Returns each prompt's new tokens, without the end token, in the order of the prompts.

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


@functools.partial(
    jax.jit, static_argnums=0, static_argnames=("end_id", "pad_id", "max_new_tokens")
)
def _generate(
    graphdef: Any,
    params: Any,
    ids_BxS: jax.Array,
    lengths_B: jax.Array,
    *,
    end_id: int,
    pad_id: int,
    max_new_tokens: int,
) -> tuple[jax.Array, jax.Array]:
    """Returns new tokens [B, M] and how many of each row come before its end token [B].

    The weights are an argument, so that they are neither baked into the program nor the reason
    to compile it again. A row of length 0 is a dummy: it is done before it starts.
    """
    model: Qwen3 = nnx.merge(graphdef, params)
    batch, bucket = ids_BxS.shape
    slots_C = jnp.arange(bucket + max_new_tokens)
    prompt_BxC = slots_C < lengths_B[:, None]

    def next_token(hidden_BxD: jax.Array) -> jax.Array:
        return jnp.argmax(model.logits(hidden_BxD), axis=-1).astype(jnp.int32)

    def emit(
        step: jax.Array | int, token_B: jax.Array, done_B: jax.Array, tokens_BxM: jax.Array
    ) -> tuple[jax.Array, jax.Array]:
        done_B = done_B | (token_B == end_id)
        return done_B, tokens_BxM.at[:, step].set(jnp.where(done_B, pad_id, token_B))

    State = tuple[jax.Array, jax.Array, jax.Array, jax.Array, jax.Array, KVCache]

    def unfinished(state: State) -> jax.Array:
        step, _, done_B, *_ = state
        return (step + 1 < max_new_tokens) & ~jnp.all(done_B)

    def advance(state: State) -> State:
        step, token_B, done_B, counts_B, tokens_BxM, cache = state
        generated_C = (slots_C >= bucket) & (slots_C <= bucket + step)
        hidden_Bx1xD, cache = model.hidden_with_cache(
            token_B[:, None],
            (lengths_B + step)[:, None],
            cache,
            bucket + step,
            (prompt_BxC | generated_C)[:, None, :],
        )
        token_B = next_token(hidden_Bx1xD[:, 0])
        done_B, tokens_BxM = emit(step + 1, token_B, done_B, tokens_BxM)
        return step + 1, token_B, done_B, counts_B + ~done_B, tokens_BxM, cache

    causal_SxC = slots_C <= jnp.arange(bucket)[:, None]
    hidden_BxSxD, cache = model.hidden_with_cache(
        ids_BxS,
        jnp.arange(bucket)[None],
        init_cache(model.config, batch, bucket + max_new_tokens, model.compute_dtype),
        0,
        causal_SxC & prompt_BxC[:, None, :],
    )
    token_B = next_token(hidden_BxSxD[jnp.arange(batch), lengths_B - 1])
    empty = jnp.full((batch, max_new_tokens), pad_id, jnp.int32)
    done_B, tokens_BxM = emit(0, token_B, lengths_B == 0, empty)
    start = (jnp.int32(0), token_B, done_B, (~done_B).astype(jnp.int32), tokens_BxM, cache)
    _, _, _, counts_B, tokens_BxM, _ = jax.lax.while_loop(unfinished, advance, start)
    return tokens_BxM, counts_B
