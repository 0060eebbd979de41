"""The arms SASREC, BERT4REC, REAREC_ERL and REAREC_PRL over GSISR rows.

A row is read as P context positions (FeatureEncoder; a position's numbers are embedded and summed)
and up to M plan positions. SASRec and ReaRec see a start mark and the intents so far, and every
plan position predicts the next intent or the plan's end. BERT4Rec sees the intents themselves with
some hidden behind a mask, and predicts the hidden ones.

Letters: B rows, P context positions of W numbers, M the longest plan, A atoms (action A ends a
plan), T representations a position, L = P + M, N predictions, C classes, S negatives, D width.
"""

from __future__ import annotations

import functools
from enum import StrEnum
from typing import Any

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array
from pydantic import Field

from gplan_jax.baselines.fitting.arms import Arm
from gplan_jax.baselines.fitting.network import Batch, FitInput, FitSettings, Recipe, network_arm
from gplan_jax.baselines.rows.atoms import padded_plans
from gplan_jax.baselines.rows.features import FeatureEncoder
from gplan_jax.baselines.rows.plan_mask import PlanMask, decode
from gplan_jax.baselines.sequential.encoder import (
    EncoderSettings,
    Reasoner,
    bce_loss,
    dropout,
    progressive_loss,
    see_all,
    see_earlier,
    softmax_loss,
    steps_apart,
    views_apart,
)
from gplan_jax.data.batch_plan import round_up


class SequentialKind(StrEnum):
    """Which model."""

    SASREC = "sasrec"
    BERT4REC = "bert4rec"
    REAREC_ERL = "rearec_erl"
    REAREC_PRL = "rearec_prl"


class RowSettings(FitSettings):
    """Sizes (see EncoderSettings) and losses of the row models, beside how they are fitted."""

    hidden: int = Field(64, ge=1)
    layers: int = Field(2, ge=1)
    heads: int = Field(2, ge=1)
    inner: int = Field(128, ge=1)
    dropout: float = Field(0.2, ge=0, lt=1)
    token_dropout: float = Field(0.3, ge=0, lt=1)  # of a row's numbers, in training
    loss: str = Field("softmax", pattern="^(softmax|bce)$")
    negatives: int = Field(16, ge=1)  # even draws a prediction (bce)
    smoothing: float = Field(0.1, ge=0, lt=1)  # of the target, over all actions (softmax)
    decoding_batch: int = Field(64, ge=1)

    def encoder(self, kind: SequentialKind) -> EncoderSettings:
        """The transformer's shape; BERT4Rec's is BERT's, post-norm with GELU."""
        bert = kind is SequentialKind.BERT4REC
        return EncoderSettings(
            hidden=self.hidden,
            layers=self.layers,
            heads=self.heads,
            inner=self.inner,
            dropout=self.dropout,
            pre_norm=not bert,
            gelu=bert,
        )


class Bert4RecSettings(RowSettings):
    """BERT4Rec's masking."""

    masked: float = Field(0.3, gt=0, le=1)  # of a complete plan's positions
    mask_last: float = Field(0.75, ge=0, le=1)  # of the instances end with one mask instead


class ReaRecSettings(RowSettings):
    """ReaRec's reasoning."""

    steps: int = Field(2, ge=0)  # reasoning steps after each position; 0 is SASRec
    kl_weight: float = Field(0.05, ge=0)  # ERL: of the term that pushes predictions apart
    scale: float = Field(5.0, ge=1)  # PRL: ratio of one step's temperature to the next one's
    noise: float = Field(0.01, ge=0)  # PRL: standard deviation on the steps' inputs
    contrast: float = Field(0.1, ge=0)  # PRL: weight of the noisy view's contrast


class RowModel(nnx.Module):
    """Embeddings of context numbers, positions and atoms; an encoder; the atoms' again as output.

    Rows A, A + 1 and A + 2 of the atoms' table are the end, the start mark and the mask.
    """

    def __init__(
        self,
        kind: SequentialKind,
        settings: RowSettings,
        *,
        vocabulary: int,
        positions: int,
        atoms: int,
        longest: int,
        rngs: nnx.Rngs,
    ) -> None:
        self.kind, self.settings = kind, settings
        self.context_positions, self.atoms, self.longest = positions, atoms, longest
        start = nnx.initializers.normal(0.02)
        width = settings.hidden
        self.tokens = nnx.Param(start(rngs.params(), (vocabulary, width)))
        self.table = nnx.Param(start(rngs.params(), (atoms + 3, width)))
        self.positions = nnx.Param(start(rngs.params(), (positions + longest, width)))
        self.bias = nnx.Param(jnp.zeros(atoms + 1))
        steps = settings.steps if isinstance(settings, ReaRecSettings) else 0
        self.reasoner = Reasoner(settings.encoder(kind), steps, rngs)

    def __call__(
        self, features_BxPxW: Array, plan_BxM: Array, key: Array | None = None
    ) -> tuple[Array, Array | None]:
        """Representations (B, M, T, D) of the plan positions, and PRL's noisy view.

        ``plan_BxM`` are rows of the atoms' table, negative for padding; there is a key in training.
        """
        settings = self.settings
        bag_key, key = (None, None) if key is None else jax.random.split(key)
        # A context position is the sum of its numbers' embeddings, a plan position its intent's.
        given_BxPxW = features_BxPxW > 0
        kept_BxPxWx1 = given_BxPxW[..., None].astype(jnp.float32)
        kept_BxPxWx1 = dropout(kept_BxPxWx1, settings.token_dropout, bag_key)
        context_BxPxD = (jnp.asarray(self.tokens)[features_BxPxW] * kept_BxPxWx1).sum(2)
        intents_BxMxD = jnp.asarray(self.table)[jnp.maximum(plan_BxM, 0)]
        x_BxLxD = jnp.concatenate([context_BxPxD, intents_BxMxD], axis=1) * settings.hidden**0.5
        x_BxLxD = x_BxLxD + jnp.asarray(self.positions)
        # Everything that isn't padding is one segment.
        shown_BxL = jnp.concatenate([given_BxPxW.any(-1), plan_BxM >= 0], axis=1)
        see = see_all if self.kind is SequentialKind.BERT4REC else see_earlier
        noise = 0.0
        if self.kind is SequentialKind.REAREC_PRL and isinstance(settings, ReaRecSettings):
            noise = settings.noise
        mask_BxLxL = see(shown_BxL.astype(jnp.int32))
        return self.reasoner(x_BxLxD, mask_BxLxL, key, first=self.context_positions, noise=noise)

    def recommends(self, x: Array) -> Array:
        """(..., T, D) -> (..., D): ERL's mean of the steps, else the last one."""
        return x.mean(-2) if self.kind is SequentialKind.REAREC_ERL else x[..., -1, :]

    def scores(self, x: Array) -> Array:
        """(..., D) -> (..., A + 1): every action's score."""
        return x @ jnp.asarray(self.table)[: self.atoms + 1].T + self.bias

    def shown_plan(self, ids_BxM: Array, step: Array) -> Array:
        """What the model reads when position ``step`` of plans ``ids`` is to be predicted.

        Causal models read the start mark and the intents before; BERT4Rec the intents before and a
        mask. All later positions are padding (causal models would not see them anyhow).
        """
        place_M = jnp.arange(self.longest)
        if self.kind is SequentialKind.BERT4REC:
            shown_BxM = jnp.where(place_M == step, self.atoms + 2, ids_BxM)
        else:
            shown_BxM = started(ids_BxM, self.atoms)
        return jnp.where(place_M <= step, shown_BxM, -1)


def started(ids_BxM: Array, atoms: int) -> Array:
    """Plans moved one position on, behind the start mark; what comes after the end is padding."""
    before_BxM = jnp.where(ids_BxM[:, :-1] < atoms, ids_BxM[:, :-1], -1)
    return jnp.pad(before_BxM, ((0, 0), (1, 0)), constant_values=atoms + 1)


def asked_positions(plan_BxM: Array, atoms: int) -> Array:
    """Which positions have a target: every intent, and the end where it is not forced."""
    return jnp.arange(plan_BxM.shape[1]) <= (plan_BxM < atoms).sum(1, keepdims=True)


def row_loss(
    model: RowModel, batch: dict[str, Array], key: Array, train: bool
) -> tuple[Array, Array]:
    """Sum of the predictions' losses in a batch, and how many there are.

    Without ``train`` it is the plain cross-entropy of every next action along the label, for all
    models alike, since that is what prediction rests on. The batch has ``features`` (B, P, W),
    ``plan`` (B, M) with A behind the end, and ``weight`` (B,).
    """
    if model.kind is SequentialKind.BERT4REC:
        return _masked_loss(model, batch, key, train)
    plan_BxM, settings = batch["plan"], model.settings
    draw_key, key = jax.random.split(key)
    asked_BxM = asked_positions(plan_BxM, model.atoms) * batch["weight"][:, None]
    shown_BxM = started(plan_BxM, model.atoms)
    chain_BxMxTxD, noisy_BxMxTxD = model(batch["features"], shown_BxM, key if train else None)
    # Every plan position is a prediction of its own from here on, N = B * M.
    targets_N, weights_N = plan_BxM.reshape(-1), asked_BxM.reshape(-1)
    x_NxTxD = chain_BxMxTxD.reshape(-1, *chain_BxMxTxD.shape[2:])
    scores_NxC = model.scores(model.recommends(x_NxTxD))
    losses_N = _next_loss(settings, scores_NxC, targets_N, draw_key, train)
    if train and x_NxTxD.shape[1] > 1:
        assert isinstance(settings, ReaRecSettings)
        steps_NxTxC = model.scores(x_NxTxD)
        if model.kind is SequentialKind.REAREC_ERL:
            losses_N -= settings.kl_weight * steps_apart(steps_NxTxC)
        else:
            losses_N += progressive_loss(steps_NxTxC, targets_N, scale=settings.scale)
        if noisy_BxMxTxD is not None:
            other_NxTxD = noisy_BxMxTxD.reshape(x_NxTxD.shape)
            contrast_N = views_apart(x_NxTxD, other_NxTxD, weights_N, temperature=0.07)
            losses_N += settings.contrast * contrast_N
    return (losses_N * weights_N).sum(), weights_N.sum()


def _masked_loss(
    model: RowModel, batch: dict[str, Array], key: Array, train: bool
) -> tuple[Array, Array]:
    """Training hides positions by chance; validation asks for every position with a mask there."""
    plan_BxM, settings = batch["plan"], model.settings
    draw_key, mask_key, key = jax.random.split(key, 3)
    if train:
        assert isinstance(settings, Bert4RecSettings)
        shown_BxM, asked_BxM = masked_plans(
            plan_BxM, model.atoms, mask_key, settings.masked, settings.mask_last
        )
        chain_BxMxTxD, _ = model(batch["features"], shown_BxM, key)
        x_BxMxD = model.recommends(chain_BxMxTxD)
    else:

        def found(step: Array) -> Array:
            chain_BxMxTxD, _ = model(batch["features"], model.shown_plan(plan_BxM, step))
            return model.recommends(chain_BxMxTxD[:, step])

        # One position after the other, so that memory is that of one.
        asked_BxM = asked_positions(plan_BxM, model.atoms)
        x_BxMxD = jnp.moveaxis(jax.lax.map(found, jnp.arange(model.longest)), 0, 1)
    weights_N = (asked_BxM * batch["weight"][:, None]).reshape(-1)
    scores_NxC = model.scores(x_BxMxD.reshape(-1, x_BxMxD.shape[-1]))
    losses_N = _next_loss(settings, scores_NxC, plan_BxM.reshape(-1), draw_key, train)
    return (losses_N * weights_N).sum(), weights_N.sum()


def masked_plans(
    plan_BxM: Array, atoms: int, key: Array, masked: float, mask_last: float
) -> tuple[Array, Array]:
    """BERT4Rec's training instances: what is shown (B, M), and which positions are asked for.

    A share ``mask_last`` of the plans is cut at an even draw among its positions (the end is one),
    and that last position is hidden: what prediction meets. Of the others the whole plan with its
    end is shown but for a share ``masked`` of its positions, at least one.
    """
    last_key, cut_key, share_key = jax.random.split(key, 3)
    place_M = jnp.arange(plan_BxM.shape[1])
    asked_BxM = asked_positions(plan_BxM, atoms)
    count_B = asked_BxM.sum(1)
    cut_Bx1 = (jax.random.uniform(cut_key, count_B.shape) * count_B).astype(jnp.int32)[:, None]
    drawn_BxM = (jax.random.uniform(share_key, plan_BxM.shape) < masked) | (place_M == cut_Bx1)
    only_last_Bx1 = jax.random.uniform(last_key, (len(plan_BxM), 1)) < mask_last
    hidden_BxM = jnp.where(only_last_Bx1, place_M == cut_Bx1, drawn_BxM) & asked_BxM
    visible_BxM = asked_BxM & jnp.where(only_last_Bx1, place_M <= cut_Bx1, True)
    shown_BxM = jnp.where(hidden_BxM, atoms + 2, plan_BxM)
    return jnp.where(visible_BxM, shown_BxM, -1), hidden_BxM


def _next_loss(
    settings: RowSettings, scores_NxC: Array, targets_N: Array, key: Array, train: bool
) -> Array:
    if not train:
        return softmax_loss(scores_NxC, targets_N)
    if settings.loss == "softmax":
        return softmax_loss(scores_NxC, targets_N, settings.smoothing)
    # Even draws from the other actions: those at and above the target move up by one.
    count = len(targets_N), settings.negatives
    drawn_NxS = jax.random.randint(key, count, 0, scores_NxC.shape[-1] - 1)
    drawn_NxS = drawn_NxS + (drawn_NxS >= targets_N[:, None])
    columns_NxC = jnp.concatenate([targets_N[:, None], drawn_NxS], axis=-1)
    return bce_loss(jnp.take_along_axis(scores_NxC, columns_NxC, axis=-1))


@functools.partial(jax.jit, static_argnames=("graph", "constrained"))
def decode_plans(
    graph: nnx.GraphDef,
    weights: nnx.State,
    features_BxPxW: Array,
    mask: PlanMask,
    *,
    constrained: bool,
) -> Array:
    """Greedy plans, int32 [B, M] filled up with A, of a model split into graph and weights."""
    model: RowModel = nnx.merge(graph, weights)

    def step_scores(ids_BxM: Array, step: Array) -> Array:
        chain_BxMxTxD, _ = model(features_BxPxW, model.shown_plan(ids_BxM, step))
        return model.scores(model.recommends(chain_BxMxTxD[:, step]))

    return decode(step_scores, mask, len(features_BxPxW), constrained)


# The vocabulary is rounded up to this, so that folds share a compiled step.
VOCABULARY_STEP = 512


def sequential_recipe(kind: SequentialKind, given: FitInput, settings: RowSettings) -> Recipe:
    """How a row model reads rows and writes plans, greedily; words are those of training rows."""
    atoms, mask = given.atoms, given.mask
    encoder = FeatureEncoder.fit(given.train.samples, given.mode)

    def network(rngs: nnx.Rngs) -> RowModel:
        return RowModel(
            kind,
            settings,
            vocabulary=round_up(encoder.vocabulary.size, VOCABULARY_STEP),
            positions=encoder.positions,
            atoms=atoms.count,
            longest=mask.maximum,
            rngs=rngs,
        )

    def decode(
        graph: nnx.GraphDef, weights: nnx.State, batch: Batch, constrained: bool
    ) -> jax.Array:
        return decode_plans(graph, weights, batch["features"], mask, constrained=constrained)

    return Recipe(
        loss=row_loss,
        decoding_batch=settings.decoding_batch,
        inputs=lambda samples: {"features": encoder.encode(samples)},
        targets=lambda plans: {"plan": padded_plans(plans, mask.maximum, atoms.END)},
        network=network,
        decode=decode,
        text=atoms.text,
    )


def _arm(
    kind: SequentialKind, title: str, settings: type[RowSettings], own_trial: dict[str, Any]
) -> Arm:
    """The trials of all four differ in the last one only."""
    recipe = functools.partial(sequential_recipe, kind)
    trials: tuple[dict[str, Any], ...] = ({}, {"dropout": 0.0}, {"weight_decay": 0.3}, own_trial)
    return network_arm(kind, title, settings, trials, recipe)


SASREC = _arm(SequentialKind.SASREC, "SASRec", RowSettings, {"loss": "bce"})
BERT4REC = _arm(SequentialKind.BERT4REC, "BERT4Rec", Bert4RecSettings, {"mask_last": 0.5})
REAREC_ERL = _arm(SequentialKind.REAREC_ERL, "ReaRec (ERL)", ReaRecSettings, {"steps": 1})
REAREC_PRL = _arm(SequentialKind.REAREC_PRL, "ReaRec (PRL)", ReaRecSettings, {"steps": 1})
