"""The arms TIGER and TIGER_RQ: fitted on rows, they write plans in codes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from flax import nnx
from pydantic import Field

from gplan_jax.baselines.fitting.arms import Arm, Fitted
from gplan_jax.baselines.fitting.network import (
    FitSettings,
    count_parameters,
    fit_network,
)
from gplan_jax.baselines.rows.atoms import Atoms, LabelledRows, labelled_rows, padded_plans
from gplan_jax.baselines.rows.features import FeatureEncoder, InputMode
from gplan_jax.baselines.rows.plan_mask import plan_mask
from gplan_jax.baselines.t5 import PlanConstraint, T5Config, longest_plan, plan_constraint
from gplan_jax.baselines.tiger.model import Decoding, Tiger, decode_rows, tiger_loss
from gplan_jax.baselines.tiger.rqvae import RqVaeSettings
from gplan_jax.baselines.tiger.semantic_ids import (
    END,
    START,
    SemanticIds,
    grammar_ids,
    plan_text,
    rq_ids,
)
from gplan_jax.data.batch_plan import round_up
from gplan_jax.gsisr import IntentLibrary, Sample

# Sizes that depend on the training rows are rounded up, so that folds share a compiled program.
_FEATURES, _TOKENS = 512, 8


class TigerSettings(FitSettings):
    """Sizes of the T5 and of the search, beside how it is fitted.

    The rate falls to 0 over few epochs: at a constant rate some fits stop after 12 epochs with a
    low loss over all tokens but first intents far below those of other fits of the same fold.

    Attributes:
        hidden_size, heads, mlp_size: of the T5; heads have hidden_size / heads dimensions.
        encoder_layers, decoder_layers: blocks of each side.
        dropout: in all layers of the T5; costly on a CPU.
        feature_dropout: share of a row's numbers that training leaves out.
        beams: hypotheses of the search.
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
    dropout: float = Field(0.0, ge=0, lt=1)
    feature_dropout: float = Field(0.2, ge=0, lt=1)
    beams: int = Field(4, ge=1)


class TigerRqSettings(TigerSettings):
    """Of the arm whose codes an RQ-VAE finds; they take longer to learn than the grammar's.

    Attributes:
        rqvae: of the RQ-VAE.
        company: dimensions for what an intent stands with in training plans.
    """

    epochs: int = Field(26, ge=1)
    rqvae: RqVaeSettings = RqVaeSettings()
    company: int = Field(16, ge=0)


@dataclass(frozen=True)
class TigerPredictor:
    """A fitted TIGER with what it needs to read rows and write plans."""

    model: Tiger
    encoder: FeatureEncoder
    atoms: Atoms
    ids: SemanticIds
    constraint: PlanConstraint
    decoding: Decoding

    @property
    def parameters(self) -> int:
        """How many numbers the network has learnt."""
        return count_parameters(self.model)

    def predict(self, samples: Sequence[Sample], *, constrained: bool) -> list[str]:
        """The plan that the search finds for each row.

        Free plans show each run of tokens that is no intent's code as an intent of an unknown tool.
        """
        if not samples:
            return []
        features = self.encoder.encode(samples)
        rule = self.constraint if constrained else None
        found = decode_rows(self.model, features, rule, self.decoding)
        return [plan_text(self.ids.read(tokens), self.atoms) for tokens in found.tolist()]


def _fit(
    train: Sequence[Sample],
    validation: Sequence[Sample],
    settings: TigerSettings,
    mode: InputMode,
    library: IntentLibrary,
    seed: int,
    ids_of: Callable[[Atoms, LabelledRows], SemanticIds],
) -> Fitted:
    atoms = Atoms.of(library)
    rows = labelled_rows(train, atoms)
    held = labelled_rows(validation, atoms) if validation else None
    encoder = FeatureEncoder.fit(rows.samples, mode)
    ids, mask = ids_of(atoms, rows), plan_mask(atoms)
    written = [[ids.write(plan) for plan in part.plans] for part in (rows, held) if part]
    width = round_up(max(len(tokens) for part in written for tokens in part), _TOKENS)
    arrays = [
        {
            "features": encoder.encode(part.samples),
            "target": padded_plans(tokens, width, START),
        }
        for part, tokens in zip([p for p in (rows, held) if p], written, strict=True)
    ]
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
    features = round_up(encoder.vocabulary_size, _FEATURES)
    model, curve = fit_network(
        Tiger(features, config, feature_dropout=settings.feature_dropout, rngs=nnx.Rngs(seed)),
        tiger_loss,
        arrays[0],
        arrays[1] if held else None,
        settings,
        seed,
    )
    constraint = plan_constraint(ids.codes, mask, vocabulary=ids.vocabulary, end=END)
    nodes = 1 + sum(len(code) for code in ids.codes)
    decoding = Decoding(settings.beams, longest_plan(ids.codes, mask), settings.batch_size)
    predictor = TigerPredictor(model, encoder, atoms, ids, widened(constraint, nodes), decoding)
    return Fitted(predictor, curve)


def fit_tiger(
    train: Sequence[Sample],
    validation: Sequence[Sample],
    settings: TigerSettings,
    mode: InputMode,
    library: IntentLibrary,
    seed: int,
) -> Fitted:
    """Fits TIGER on plans written by the library's grammar.

    Raises:
        GplanError: no training row has a usable plan, or the library's plans can't be listed.
    """
    return _fit(
        train, validation, settings, mode, library, seed, lambda atoms, rows: grammar_ids(atoms)
    )


def fit_tiger_rq(
    train: Sequence[Sample],
    validation: Sequence[Sample],
    settings: TigerRqSettings,
    mode: InputMode,
    library: IntentLibrary,
    seed: int,
) -> Fitted:
    """Fits an RQ-VAE on the intents, then TIGER on plans written in its codes.

    Raises:
        GplanError: as ``fit_tiger``, or scikit-learn is not installed.
    """

    def ids_of(atoms: Atoms, rows: LabelledRows) -> SemanticIds:
        return rq_ids(atoms, rows.plans, settings.rqvae, company=settings.company, seed=seed)

    return _fit(train, validation, settings, mode, library, seed, ids_of)


def widened(constraint: PlanConstraint, nodes: int) -> PlanConstraint:
    """The same constraint over a trie that empty nodes fill up to ``nodes``."""
    used, more = len(constraint.atom), nodes - len(constraint.atom)
    children = np.where(constraint.children == used, nodes, constraint.children)
    none = constraint.below.shape[1]
    return constraint._replace(
        children=np.pad(children, ((0, more), (0, 0)), constant_values=nodes),
        below=np.pad(constraint.below, ((0, more), (0, 0))),
        atom=np.pad(constraint.atom, (0, more), constant_values=none),
    )


TIGER = Arm(
    name="tiger",
    title="TIGER",
    settings=TigerSettings,
    trials=(
        {},
        {"learning_rate": 1e-3},
        {"feature_dropout": 0.4},
        {"encoder_layers": 1, "decoder_layers": 1},
    ),
    fit=fit_tiger,
)
TIGER_RQ = Arm(
    name="tiger_rq",
    title="TIGER (RQ codes)",
    settings=TigerRqSettings,
    trials=TIGER.trials,
    fit=fit_tiger_rq,
)
