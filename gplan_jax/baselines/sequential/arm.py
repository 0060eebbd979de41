"""The arms SASREC, BERT4REC, REAREC_ERL and REAREC_PRL: fitted on rows, they write plans."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from flax import nnx

from gplan_jax.baselines.fitting.arms import Arm, Fitted
from gplan_jax.baselines.fitting.network import count_parameters, fit_network
from gplan_jax.baselines.rows.atoms import Atoms, LabelledRows, labelled_rows, padded_plans
from gplan_jax.baselines.rows.features import FeatureEncoder, InputMode
from gplan_jax.baselines.rows.plan_mask import PlanMask, plan_mask
from gplan_jax.baselines.sequential.row_model import (
    Bert4RecSettings,
    Kind,
    ReaRecSettings,
    RowModel,
    RowSettings,
    decode_rows,
    row_loss,
)
from gplan_jax.data.batch_plan import round_up
from gplan_jax.gsisr import IntentLibrary, Sample

# The vocabulary is rounded up to this, so that folds share a compiled step.
VOCABULARY_STEP = 512


@dataclass(frozen=True, eq=False)
class RowPredictor:
    """A fitted row model with what it needs to read rows and write plans."""

    model: RowModel
    encoder: FeatureEncoder
    atoms: Atoms
    mask: PlanMask

    @property
    def parameters(self) -> int:
        """How many numbers the network has learnt."""
        return count_parameters(self.model)

    def predict(self, samples: Sequence[Sample], *, constrained: bool) -> list[str]:
        """The greedy plan of each row; a free one may break rules and may be empty."""
        if not samples:
            return []
        found = decode_rows(
            self.model, self.encoder.encode(samples), self.mask, constrained=constrained
        )
        return [self.atoms.text(ids) for ids in found.tolist()]


def fit_rows(
    kind: Kind,
    train: Sequence[Sample],
    validation: Sequence[Sample],
    settings: RowSettings,
    mode: InputMode,
    library: IntentLibrary,
    seed: int,
) -> Fitted:
    """Fits a row model on the rows with usable plans; the vocabulary is that of training rows.

    Without validation rows the last epoch's weights are kept.

    Raises:
        GplanError: no row of a part has a usable plan, or what ``fit_network`` raises.
    """
    atoms = Atoms.of(library)
    mask = plan_mask(atoms)
    rows = labelled_rows(train, atoms)
    judged = labelled_rows(validation, atoms) if validation else None
    encoder = FeatureEncoder.fit(rows.samples, mode)
    model = RowModel(
        kind,
        settings,
        vocabulary=round_up(encoder.vocabulary_size, VOCABULARY_STEP),
        positions=encoder.positions,
        atoms=atoms.count,
        longest=mask.maximum,
        rngs=nnx.Rngs(seed),
    )
    model, curve = fit_network(
        model,
        row_loss,
        _arrays(rows, encoder, mask),
        _arrays(judged, encoder, mask) if judged else None,
        settings,
        seed,
    )
    return Fitted(RowPredictor(model, encoder, atoms, mask), curve)


def _arrays(rows: LabelledRows, encoder: FeatureEncoder, mask: PlanMask) -> dict[str, np.ndarray]:
    end = len(mask.free)
    return {
        "features": encoder.encode(rows.samples),
        "plan": padded_plans(rows.plans, mask.maximum, end),
    }


SASREC = Arm(
    name="sasrec",
    title="SASRec",
    settings=RowSettings,
    trials=({}, {"dropout": 0.0}, {"weight_decay": 0.3}, {"loss": "bce"}),
    fit=functools.partial(fit_rows, Kind.SASREC),
)
BERT4REC = Arm(
    name="bert4rec",
    title="BERT4Rec",
    settings=Bert4RecSettings,
    trials=({}, {"dropout": 0.0}, {"weight_decay": 0.3}, {"mask_last": 0.5}),
    fit=functools.partial(fit_rows, Kind.BERT4REC),
)
REAREC_ERL = Arm(
    name="rearec_erl",
    title="ReaRec (ERL)",
    settings=ReaRecSettings,
    trials=({}, {"dropout": 0.0}, {"weight_decay": 0.3}, {"steps": 1}),
    fit=functools.partial(fit_rows, Kind.REAREC_ERL),
)
REAREC_PRL = Arm(
    name="rearec_prl",
    title="ReaRec (PRL)",
    settings=ReaRecSettings,
    trials=({}, {"dropout": 0.0}, {"weight_decay": 0.3}, {"steps": 1}),
    fit=functools.partial(fit_rows, Kind.REAREC_PRL),
)
