"""TIGER's network: a T5 whose encoder reads a row's positions and whose decoder writes codes.

Letters: B rows, P positions, W numbers a position, T tokens, D model.
"""

from __future__ import annotations

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gplan_jax.baselines.fitting.network import Batch, batches_of
from gplan_jax.baselines.t5 import (
    T5,
    Constraint,
    Free,
    PlanConstraint,
    T5Config,
    search_plans,
    shift_right,
    target_loss,
)
from gplan_jax.baselines.t5.layers import dropout
from gplan_jax.baselines.tiger.semantic_ids import END, START


class Tiger(nnx.Module):
    """A T5 over codes, and an embedding of what rows are made of.

    Args:
        features: how many numbers rows are made of, 0 (padding) included.
        config: of the T5; its vocabulary is that of the codes.
        feature_dropout: share of a row's numbers that training leaves out; a whole number at a
            time costs a hundredth of the draws that dropping values in every layer does.
        rngs: of the weights.
    """

    def __init__(
        self, features: int, config: T5Config, *, feature_dropout: float, rngs: nnx.Rngs
    ) -> None:
        self.feature_dropout = feature_dropout
        self.t5 = T5(config, rngs=rngs)
        # About four numbers a position, whose sum has the scale of a token's embedding in T5.
        shape = (features, config.hidden_size)
        self.features = nnx.Param(0.5 * jax.random.normal(rngs.params(), shape))

    def encode(
        self, features_BxPxW: jax.Array, key: jax.Array | None = None
    ) -> tuple[jax.Array, jax.Array]:
        """The encoder's output [B, P, D], and which positions are none of padding [B, P]."""
        keys = (None, None) if key is None else jax.random.split(key)
        given = features_BxPxW > 0
        kept = dropout(given.astype(jnp.float32), self.feature_dropout, keys[0])
        summed = jnp.sum(self.features[...][features_BxPxW] * kept[..., None], axis=2)
        mask = given.any(axis=2)
        return self.t5.encode(summed, mask, keys[1]), mask

    def __call__(
        self, features_BxPxW: jax.Array, target_BxT: jax.Array, key: jax.Array | None = None
    ) -> jax.Array:
        """Logits [B, T, V] of each of ``target_BxT`` given those before it."""
        keys = (None, None) if key is None else jax.random.split(key)
        encoded, mask = self.encode(features_BxPxW, keys[0])
        return self.t5.decode(shift_right(target_BxT, START), encoded, mask, keys[1])


def tiger_loss(
    model: Tiger, batch: Batch, key: jax.Array, train: bool
) -> tuple[jax.Array, jax.Array]:
    """Summed cross-entropy of the tokens of "target" [B, T] (END included, START is padding) given
    "features" [B, P, W], and how many tokens there are."""
    target = batch["target"]
    logits = model(batch["features"], target, key if train else None)
    return target_loss(logits, target, batch["weight"], padding=START)


class Decoding(NamedTuple):
    """How plans are searched for; hashable.

    Attributes:
        beams: hypotheses a row.
        steps: the most tokens of a plan.
        batch_size: rows that are decoded together.
    """

    beams: int
    steps: int
    batch_size: int


def decode_rows(
    model: Tiger, features_NxPxW: np.ndarray, constraint: PlanConstraint | None, how: Decoding
) -> np.ndarray:
    """The tokens that a beam search finds for each row: int32 [N, T], filled up with END.

    Without a constraint any token may follow any other.
    """
    graph, state = nnx.split(model)
    rule: Constraint = Free() if constraint is None else constraint
    found = [
        np.asarray(_search(graph, how, state, batch["features"], rule))[:count]
        for batch, count in batches_of({"features": features_NxPxW}, how.batch_size)
    ]
    return np.concatenate(found)


@partial(jax.jit, static_argnums=(0, 1))
def _search(
    graph: nnx.GraphDef,
    how: Decoding,
    state: nnx.State,
    features_BxPxW: jax.Array,
    constraint: Constraint,
) -> jax.Array:
    model: Tiger = nnx.merge(graph, state)
    encoded, mask = model.encode(features_BxPxW)
    return search_plans(
        model.t5, encoded, mask, constraint, beams=how.beams, steps=how.steps, start=START, end=END
    )
