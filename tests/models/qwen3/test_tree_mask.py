"""A row of tokens that is a tree: each of its paths is computed as if it were a row of its own."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from gplan_jax.models import Qwen3, Qwen3Config
from gplan_jax.models.qwen3.model import LayeredContext

CONFIG = Qwen3Config(
    vocab_size=64,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    tie_word_embeddings=True,
    initializer_range=0.3,
)
MODEL = Qwen3(CONFIG, rngs=nnx.Rngs(jax.random.key(2, impl="rbg")))
CONTEXT, NODES, SPARE_ROWS = 5, 9, 2


@jax.jit
def tree_states(
    context_ids: jax.Array, ids: jax.Array, depths: jax.Array, mask: jax.Array, length: jax.Array
) -> jax.Array:
    _, context = MODEL.branch(context_ids[None], jnp.asarray([CONTEXT]), keep=True)
    assert context is not None
    # A cache may hold more rows than a pass has: noise, which must not be seen.
    noise = jnp.full((2, SPARE_ROWS, *context.key.shape[2:]), 1e3)
    held = LayeredContext(
        jnp.concatenate([context.key, noise], axis=1),
        jnp.concatenate([context.value, noise], axis=1),
        length[None],
    )
    states, _ = MODEL.branch(
        ids[None],
        jnp.asarray([NODES]),
        [held],
        positions_BxS=length + depths[None],
        mask_BxSxS=mask[None],
    )
    return states[0]


@jax.jit
def last_state(ids: jax.Array, length: jax.Array) -> jax.Array:
    return MODEL.hidden(ids[None], (jnp.arange(len(ids)) < length)[None])[0, length - 1]


@settings(max_examples=15)
@given(st.integers(0, 2**32 - 1))
def test_every_node_has_the_state_of_its_path(seed: int) -> None:
    rng = np.random.default_rng(seed)
    parents = [int(rng.integers(-1, node)) for node in range(NODES)]
    context_ids = rng.integers(0, CONFIG.vocab_size, CONTEXT)
    ids = rng.integers(0, CONFIG.vocab_size, NODES)
    length = int(rng.integers(1, CONTEXT + 1))
    paths: list[list[int]] = []
    mask = np.zeros((NODES, NODES), bool)
    for node, parent in enumerate(parents):
        paths.append([*(paths[parent] if parent >= 0 else []), node])
        mask[node, paths[node]] = True
    depths = np.asarray([len(path) - 1 for path in paths])
    states = tree_states(context_ids, ids, depths, mask, jnp.int32(length))
    for node, path in enumerate(paths):
        row = [*context_ids[:length], *ids[path]]
        padded = np.zeros(CONTEXT + NODES, np.int32)
        padded[: len(row)] = row
        np.testing.assert_allclose(states[node], last_state(padded, len(row)), atol=2e-5)
