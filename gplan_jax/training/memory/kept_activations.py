"""What the forward pass of one micro-batch keeps for the backward pass, traced from the model."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gplan_jax.models import Qwen3
from gplan_jax.models.qwen3.cache import LayeredContext
from gplan_jax.training.memory.batch_shape import BatchShape, levels_of_row
from gplan_jax.training.steps.assembly import trained_filters
from gplan_jax.training.steps.train_config import TrainConfig


def kept_activation_bytes(
    model: Qwen3, config: TrainConfig, batch: BatchShape, row_parts: int
) -> float:
    """Bytes that the rows of one micro-batch on one device keep in all layers.

    They are the residuals of ``jax.vjp`` of the layers, but for weights and the shared prefix,
    which are there anyway; keys and values of the segments of a pair are among them. The remat
    policy decides; a tensor axis is not taken into account, so with one this is an upper bound.

    Args:
        model: of shapes; its ``remat`` and ``kernel`` are used.
        batch: padded sizes of the whole batch.
        row_parts: devices that split the rows of a micro-batch.
    """
    if model.remat == "offload":
        return 0.0
    rows = batch.rows // config.accumulation_steps // row_parts
    graphdef, params, *frozen = nnx.split(_traceable(model), *trained_filters(config))
    prefix = _prefix_keys_values(model, batch)
    levels = [
        (
            jax.ShapeDtypeStruct((rows * count, tokens), jnp.int32),
            jax.ShapeDtypeStruct((rows * count,), jnp.int32),
        )
        for count, tokens in levels_of_row(batch)
    ]

    def pull_back(params: Any, prefix: Any, frozen: Any, levels: Any) -> Any:
        def run(params: Any, prefix: Any) -> jax.Array:
            model = nnx.merge(graphdef, params, *frozen)
            seen = jnp.full(1, batch.prefix)
            contexts = [LayeredContext(key, value, seen) for key, value in prefix]
            *inner, (tokens, lengths) = levels
            for segments, ends in inner:
                _, kept = model.branch(segments, ends, contexts, keep=True)
                assert kept is not None
                contexts.append(kept)
            return model.branch(tokens, lengths, contexts)[0]

        return jax.vjp(run, params, prefix)[1]

    traced = jax.eval_shape(pull_back, params, prefix, frozen, levels)
    residuals = jax.tree.leaves(traced)
    inputs = {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves((params, prefix, frozen))}
    return sum(
        leaf.size * np.dtype(leaf.dtype).itemsize
        for leaf in residuals
        if (leaf.shape, leaf.dtype) not in inputs
    )


def _traceable(model: Qwen3) -> Qwen3:
    """The model itself, or one with a flash kernel that keeps as much and needs no GPU to trace."""
    if model.kernel != "cudnn":
        return model
    copy = nnx.merge(*nnx.split(model))
    copy.kernel = "xla" if model.config.head_dim % 128 else "splash"
    return copy


def _prefix_keys_values(model: Qwen3, batch: BatchShape) -> Any:
    if not batch.prefix:
        return ()
    shape = model.config
    size = (shape.num_hidden_layers, 1, batch.prefix, shape.num_key_value_heads, shape.head_dim)
    keys = jax.ShapeDtypeStruct(size, model.compute_dtype)
    return ((keys, keys),)
