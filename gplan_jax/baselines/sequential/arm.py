"""The arms SASREC, BERT4REC, REAREC_ERL and REAREC_PRL: fitted on rows, they write plans."""

from __future__ import annotations

import functools
from typing import Any

import jax
from flax import nnx

from gplan_jax.baselines.fitting.arms import Arm
from gplan_jax.baselines.fitting.network import Batch
from gplan_jax.baselines.fitting.network_arm import FitInput, Recipe, network_arm
from gplan_jax.baselines.rows.atoms import padded_plans
from gplan_jax.baselines.rows.features import FeatureEncoder
from gplan_jax.baselines.sequential.row_model import (
    Bert4RecSettings,
    ReaRecSettings,
    RowModel,
    RowSettings,
    SequentialKind,
    decode_plans,
    row_loss,
)
from gplan_jax.data.batch_plan import round_up

# The vocabulary is rounded up to this, so that folds share a compiled step.
VOCABULARY_STEP = 512


def sequential_recipe(kind: SequentialKind, given: FitInput, settings: RowSettings) -> Recipe:
    """How a row model reads rows and writes plans, greedily; a free plan may be empty.

    The vocabulary is that of the training rows.
    """
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
