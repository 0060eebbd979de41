"""SASRec, BERT4Rec and ReaRec over item sequences, all behind one call.

Letters: B packed rows, L positions, T representations a position (1 but for ReaRec), D width.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from gplan_jax.baselines.sequential.encoder import EncoderSettings, see_all, see_earlier
from gplan_jax.baselines.sequential.losses import bce_loss, candidate_scores, softmax_loss
from gplan_jax.baselines.sequential.models import Kind
from gplan_jax.baselines.sequential.rearec import (
    Reasoner,
    progressive_loss,
    steps_apart,
    views_apart,
)
from gplan_jax.foundation.config import Config


class ItemModelSettings(Config):
    """What an item model is.

    Attributes:
        longest: items of a history that are read, the last ones (and BERT4Rec's mask).
        loss: "softmax" over all items, "sampled" over the target and shared negatives, or "bce".
        negatives: negatives drawn for a batch, shared by its predictions (sampled and bce).
        steps, kl_weight: ReaRec's reasoning steps, and the weight of ERL's term.
        scale, noise, contrast: PRL's temperature ratio between steps, the noise of its second
            view, and the weight of the contrast.
    """

    kind: Kind
    encoder: EncoderSettings = EncoderSettings(hidden=50, heads=1, inner=50)
    longest: int = 50
    loss: str = "sampled"
    negatives: int = 512
    steps: int = 2
    kl_weight: float = 0.05
    scale: float = 5.0
    noise: float = 0.01
    contrast: float = 0.1


class ItemModel(nnx.Module):
    """Item and position embeddings, an encoder, and the item embeddings again as its output."""

    def __init__(self, settings: ItemModelSettings, items: int, rngs: nnx.Rngs) -> None:
        self.settings, self.items = settings, items
        start = nnx.initializers.normal(0.02)
        width = settings.encoder.hidden
        # Row 0 is padding, row items + 1 is BERT4Rec's mask.
        self.table = nnx.Param(start(rngs.params(), (items + 2, width)))
        self.positions = nnx.Param(start(rngs.params(), (settings.longest, width)))
        reasons = settings.kind in (Kind.REAREC_ERL, Kind.REAREC_PRL)
        self.reasoner = Reasoner(settings.encoder, settings.steps if reasons else 0, rngs)

    def __call__(
        self, batch: dict[str, Array], key: Array | None = None
    ) -> tuple[Array, Array | None]:
        """Representations (B, L, T, D) of every position, and PRL's noisy view while training."""
        kind, segments = self.settings.kind, batch["segments"]
        x = self.table[batch["items"]] * self.table.shape[-1] ** 0.5
        x = x + self.positions[batch["positions"]]
        mask = see_all(segments) if kind is Kind.BERT4REC else see_earlier(segments)
        noise = self.settings.noise if kind is Kind.REAREC_PRL else 0.0
        return self.reasoner(x, mask, key, noise=noise)

    def recommends(self, x_NxTxD: Array) -> Array:
        """What the items are compared with, (N, D): ERL's mean of the steps, else the last step."""
        return x_NxTxD.mean(1) if self.settings.kind is Kind.REAREC_ERL else x_NxTxD[:, -1]


def item_loss(model: ItemModel, batch: dict[str, Array], key: Array) -> tuple[Array, Array]:
    """Sum of the losses of a batch's predictions, and how many there are.

    Args:
        batch: ``items``, ``segments`` and ``positions`` (B, L); ``where`` (N,) flat positions of
            the predictions, ``targets`` and ``weights`` (N,); ``negatives`` (S,).
    """
    settings = model.settings
    chain, noisy = model(batch, key)
    x = chain.reshape(-1, *chain.shape[2:])[batch["where"]]
    targets, weights = batch["targets"], batch["weights"]
    table = jnp.asarray(model.table)[: model.items + 1]
    losses = _one_loss(settings, model.recommends(x), table, batch)
    if x.shape[1] > 1:
        count, steps = x.shape[:2]
        scores = candidate_scores(
            x.reshape(count * steps, -1), table, jnp.repeat(targets, steps), batch["negatives"]
        ).reshape(count, steps, -1)
        if settings.kind is Kind.REAREC_ERL:
            losses -= settings.kl_weight * steps_apart(scores)
        else:
            first = jnp.zeros_like(targets)
            losses += progressive_loss(scores, first, scale=settings.scale)
    if noisy is not None:
        other = noisy.reshape(-1, *noisy.shape[2:])[batch["where"]]
        losses += settings.contrast * views_apart(x, other, weights, temperature=0.07)
    return (losses * weights).sum(), weights.sum()


def _one_loss(
    settings: ItemModelSettings, x_NxD: Array, table: Array, batch: dict[str, Array]
) -> Array:
    if settings.loss == "softmax":
        scores = (x_NxD @ table.T).at[:, 0].set(-jnp.inf)
        return softmax_loss(scores, batch["targets"])
    scores = candidate_scores(x_NxD, table, batch["targets"], batch["negatives"])
    if settings.loss == "bce":
        return bce_loss(scores)
    return softmax_loss(scores, jnp.zeros_like(batch["targets"]))


def make_item_model(settings: ItemModelSettings, items: int, seed: int) -> ItemModel:
    """A model with fresh weights."""
    return ItemModel(settings, items, nnx.Rngs(params=jax.random.key(seed)))
