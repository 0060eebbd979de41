"""The arms SASREC, BERT4REC, REAREC_ERL and REAREC_PRL: fitted on rows, they write plans."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import jax
import numpy as np
from flax import nnx

from gplan_jax.baselines.fitting.network import Batch, Loss
from gplan_jax.baselines.fitting.network_arm import FitInput, network_arm
from gplan_jax.baselines.rows.atoms import Atoms, padded_plans
from gplan_jax.baselines.rows.features import FeatureEncoder
from gplan_jax.baselines.rows.plan_mask import PlanMask
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
from gplan_jax.gsisr import Sample

# The vocabulary is rounded up to this, so that folds share a compiled step.
VOCABULARY_STEP = 512


@dataclass(frozen=True, eq=False)
class SequentialRecipe:
    """How a row model reads rows and writes plans, greedily; a free plan may be empty."""

    kind: SequentialKind
    settings: RowSettings
    encoder: FeatureEncoder
    atoms: Atoms
    mask: PlanMask

    @classmethod
    def of(cls, kind: SequentialKind, given: FitInput, settings: RowSettings) -> SequentialRecipe:
        """The vocabulary is that of the training rows."""
        encoder = FeatureEncoder.fit(given.train.samples, given.mode)
        return cls(kind, settings, encoder, given.atoms, given.mask)

    @property
    def loss(self) -> Loss:
        return row_loss

    @property
    def decoding_batch(self) -> int:
        return self.settings.decoding_batch

    def inputs(self, samples: Sequence[Sample]) -> dict[str, np.ndarray]:
        return {"features": self.encoder.encode(samples)}

    def targets(self, plans: Sequence[Sequence[int]]) -> dict[str, np.ndarray]:
        return {"plan": padded_plans(plans, self.mask.maximum, self.atoms.END)}

    def network(self, rngs: nnx.Rngs) -> RowModel:
        return RowModel(
            self.kind,
            self.settings,
            vocabulary=round_up(self.encoder.vocabulary.size, VOCABULARY_STEP),
            positions=self.encoder.positions,
            atoms=self.atoms.count,
            longest=self.mask.maximum,
            rngs=rngs,
        )

    def decode(
        self, graph: nnx.GraphDef, weights: nnx.State, batch: Batch, constrained: bool
    ) -> jax.Array:
        return decode_plans(graph, weights, batch["features"], self.mask, constrained=constrained)

    def text(self, tokens_T: Sequence[int]) -> str:
        return self.atoms.text(tokens_T)


SASREC = network_arm(
    "sasrec",
    "SASRec",
    RowSettings,
    ({}, {"dropout": 0.0}, {"weight_decay": 0.3}, {"loss": "bce"}),
    functools.partial(SequentialRecipe.of, SequentialKind.SASREC),
)
BERT4REC = network_arm(
    "bert4rec",
    "BERT4Rec",
    Bert4RecSettings,
    ({}, {"dropout": 0.0}, {"weight_decay": 0.3}, {"mask_last": 0.5}),
    functools.partial(SequentialRecipe.of, SequentialKind.BERT4REC),
)
REAREC_ERL = network_arm(
    "rearec_erl",
    "ReaRec (ERL)",
    ReaRecSettings,
    ({}, {"dropout": 0.0}, {"weight_decay": 0.3}, {"steps": 1}),
    functools.partial(SequentialRecipe.of, SequentialKind.REAREC_ERL),
)
REAREC_PRL = network_arm(
    "rearec_prl",
    "ReaRec (PRL)",
    ReaRecSettings,
    ({}, {"dropout": 0.0}, {"weight_decay": 0.3}, {"steps": 1}),
    functools.partial(SequentialRecipe.of, SequentialKind.REAREC_PRL),
)
