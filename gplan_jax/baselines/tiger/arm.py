"""The arms TIGER and TIGER_RQ: a T5 reads a row's positions and writes plans in codes of intents.

Rajput et al. 2023, "Recommender systems with generative retrieval". TIGER's codes are the library's
grammar, TIGER_RQ's those that an RQ-VAE finds.

Letters: B rows, P positions, W numbers a position, T tokens, D model.
"""

from __future__ import annotations

from typing import Literal

import jax
import jax.numpy as jnp
from flax import nnx
from pydantic import Field

from gplan_jax.baselines.fitting.network import Batch, FitSettings
from gplan_jax.baselines.fitting.network_arm import FitInput, Recipe, network_arm
from gplan_jax.baselines.rows.atoms import padded_plans
from gplan_jax.baselines.rows.features import FeatureEncoder
from gplan_jax.baselines.t5.model import T5, T5Config, dropout
from gplan_jax.baselines.t5.plans import START, PlanT5, plan_constraint, plan_decoder, plan_loss
from gplan_jax.baselines.tiger.rqvae import RqVaeSettings
from gplan_jax.baselines.tiger.semantic_ids import END, grammar_ids, plan_text, rq_ids
from gplan_jax.data.batch_plan import round_up

# Sizes that depend on the training rows are rounded up, so that folds share a compiled program.
_FEATURES, _TOKENS = 512, 8


class TigerSettings(FitSettings):
    """Sizes of the T5 and of the search, beside how it is fitted.

    The rate falls to 0 over few epochs: at a constant rate some fits stop after 12 epochs with a
    low loss over all tokens but first intents far below those of other fits of the same fold.
    """

    epochs: int = Field(18, ge=1)
    patience: int = Field(8, ge=1)
    learning_rate: float = Field(3e-3, gt=0)
    schedule: Literal["constant", "cosine"] = "cosine"
    hidden_size: int = Field(64, ge=1)
    heads: int = Field(4, ge=1)
    mlp_size: int = Field(128, ge=1)
    encoder_layers: int = Field(2, ge=1)
    decoder_layers: int = Field(2, ge=1)
    dropout: float = Field(0.0, ge=0, lt=1)  # in all layers of the T5; costly on a CPU
    feature_dropout: float = Field(0.2, ge=0, lt=1)  # of a row's numbers, in training
    beams: int = Field(4, ge=1)


class TigerRqSettings(TigerSettings):
    """Of the arm whose codes an RQ-VAE finds; they take longer to learn than the grammar's."""

    epochs: int = Field(26, ge=1)
    rqvae: RqVaeSettings = RqVaeSettings()
    company: int = Field(16, ge=0)  # dimensions for what an intent stands with in training plans


class Tiger(PlanT5):
    """A T5 over codes, and an embedding of the numbers that rows are made of, 0 (padding) included.

    Leaving out a whole number at a time (``feature_dropout``) costs a hundredth of the draws that
    dropping values in every layer does.
    """

    def __init__(
        self, features: int, config: T5Config, *, feature_dropout: float, rngs: nnx.Rngs
    ) -> None:
        self.feature_dropout = feature_dropout
        self.t5 = T5(config, rngs=rngs)
        # About four numbers a position, whose sum has the scale of a token's embedding in T5.
        shape = (features, config.hidden_size)
        self.features = nnx.Param(0.5 * jax.random.normal(rngs.params(), shape))

    def encode(self, batch: Batch, key: jax.Array | None = None) -> tuple[jax.Array, jax.Array]:
        """Reads "features" [B, P, W]; a position of zeros alone is padding."""
        keys = (None, None) if key is None else jax.random.split(key)
        features_BxPxW = batch["features"]
        given_BxPxW = features_BxPxW > 0
        kept_BxPxW = dropout(given_BxPxW.astype(jnp.float32), self.feature_dropout, keys[0])
        x_BxPxD = jnp.sum(self.features[...][features_BxPxW] * kept_BxPxW[..., None], axis=2)
        mask_BxP = given_BxPxW.any(axis=2)
        return self.t5.encode(x_BxPxD, mask_BxP, keys[1]), mask_BxP


def tiger_recipe(given: FitInput, settings: TigerSettings) -> Recipe:
    """How TIGER reads rows and writes plans; features and codes are from the training rows.

    The codes are the grammar's, or an RQ-VAE's with TigerRqSettings. Free plans show each run of
    tokens that is no code as an intent of an unknown tool.
    """
    atoms = given.atoms
    if isinstance(settings, TigerRqSettings):
        plans, company = given.train.plans, settings.company
        ids = rq_ids(atoms, plans, settings.rqvae, company=company, seed=given.seed)
    else:
        ids = grammar_ids(atoms)
    constraint = plan_constraint(
        ids.codes,
        given.mask,
        vocabulary=ids.vocabulary,
        end=END,
        room=1 + sum(len(code) for code in ids.codes),
    )
    # Wide enough for every plan that is learnt from.
    longest = max(len(ids.write(plan)) for part in given.parts for plan in part.plans)
    width = round_up(longest, _TOKENS)
    encoder = FeatureEncoder.fit(given.train.samples, given.mode)
    features = round_up(encoder.vocabulary.size, _FEATURES)
    config = T5Config(
        vocabulary_size=ids.vocabulary,
        hidden_size=settings.hidden_size,
        heads=settings.heads,
        head_dim=max(1, settings.hidden_size // settings.heads),
        mlp_size=settings.mlp_size,
        encoder_layers=settings.encoder_layers,
        decoder_layers=settings.decoder_layers,
        dropout=settings.dropout,
    )
    left_out = settings.feature_dropout
    return Recipe(
        loss=plan_loss,
        decoding_batch=settings.batch_size,
        inputs=lambda rows: {"features": encoder.encode(rows)},
        targets=lambda plans: {
            "target": padded_plans([ids.write(plan) for plan in plans], width, START)
        },
        network=lambda rngs: Tiger(features, config, feature_dropout=left_out, rngs=rngs),
        decode=plan_decoder(ids.codes, constraint, beams=settings.beams, end=END),
        text=lambda tokens: plan_text(ids.read(tokens), atoms),
    )


TIGER = network_arm(
    "tiger",
    "TIGER",
    TigerSettings,
    (
        {},
        {"learning_rate": 1e-3},
        {"feature_dropout": 0.4},
        {"encoder_layers": 1, "decoder_layers": 1},
    ),
    tiger_recipe,
)
TIGER_RQ = network_arm("tiger_rq", "TIGER (RQ codes)", TigerRqSettings, TIGER.trials, tiger_recipe)
