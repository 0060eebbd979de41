from __future__ import annotations

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from gplan_jax.objectives import chunked_token_nll, token_nll


@pytest.mark.parametrize(
    ("vocabulary", "chunk"),
    # One slice, equal slices, a shorter last one (of one row), a slice a row, a slice beyond all.
    [(7, 7), (16, 4), (13, 5), (13, 4), (60, 7), (2, 1), (5, 70)],
)
def test_chunks_change_neither_value_nor_gradient(vocabulary: int, chunk: int) -> None:
    keys = jax.random.split(jax.random.key(vocabulary), 3)
    hidden = jax.random.normal(keys[0], (5, 8))
    head = jax.random.normal(keys[1], (vocabulary, 8))
    targets = jax.random.randint(keys[2], (5,), 0, vocabulary)
    mix = jnp.arange(1.0, 6.0)

    def whole(hidden: jax.Array, head: jax.Array) -> jax.Array:
        return jnp.sum(mix * token_nll(hidden @ head.T, targets))

    def chunked(hidden: jax.Array, head: jax.Array) -> jax.Array:
        return jnp.sum(mix * chunked_token_nll(hidden, head, targets, vocab_chunk=chunk))

    (expected, expected_gradients), (value, gradients) = jax.jit(
        lambda *arrays: [jax.value_and_grad(f, argnums=(0, 1))(*arrays) for f in (whole, chunked)]
    )(hidden, head)
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    chex.assert_trees_all_close(gradients, expected_gradients, rtol=1e-4, atol=1e-5)


def test_never_holds_the_whole_matrix_of_logits() -> None:
    tokens, vocabulary, chunk = 64, 4096, 256
    shapes = (
        jax.ShapeDtypeStruct((tokens, 16), jnp.float32),
        jax.ShapeDtypeStruct((vocabulary, 16), jnp.float32),
        jax.ShapeDtypeStruct((tokens,), jnp.int32),
    )

    def temporaries(loss: object) -> int:
        gradient = jax.jit(jax.grad(loss, argnums=(0, 1)))  # type: ignore[arg-type]
        return gradient.lower(*shapes).compile().memory_analysis().temp_size_in_bytes

    full = temporaries(lambda h, w, t: token_nll(h @ w.T, t).sum())
    sliced = temporaries(lambda h, w, t: chunked_token_nll(h, w, t, vocab_chunk=chunk).sum())
    assert full > tokens * vocabulary * 4
    assert sliced < tokens * vocabulary * 4
