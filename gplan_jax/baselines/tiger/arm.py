"""The arms TIGER and TIGER_RQ: a T5 reads a row's positions and writes plans in codes of intents.

Rajput et al. 2023, "Recommender systems with generative retrieval". Each atom is a short tuple of
tokens, no atom's code the beginning of another's: TIGER's are the library's grammar
(``grammar_ids``), TIGER_RQ's those that an RQ-VAE finds (``rq_ids``). The paper's RQ-VAE quantises
what a language model says of an item's description (section 3.1). An intent has no description, but
it has a tool, parameters and company, so intents that no training plan holds get codes like those
of like ones.

Letters: B rows, P positions, W numbers a position, T tokens, D model.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from pydantic import Field

from gplan_jax.baselines.fitting.network import Batch, FitInput, FitSettings, Recipe, network_arm
from gplan_jax.baselines.rows.atoms import Atoms, padded_plans
from gplan_jax.baselines.rows.features import FeatureEncoder
from gplan_jax.baselines.t5.model import T5, T5Config, dropout
from gplan_jax.baselines.t5.plans import START, plan_constraint, plan_decoder, plan_loss
from gplan_jax.baselines.tiger.rqvae import RqVaeSettings, fit_rqvae
from gplan_jax.data.batch_plan import round_up
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Intent, IntentLibrary, Plan, canonical_plan

END = 1
FIRST_CODE = 2  # 0 begins and fills up targets.
UNKNOWN_TOOL = "<unknown>"

Plans = Sequence[Sequence[int]]


@dataclass(frozen=True)
class SemanticIds:
    """How atoms and plans are written in tokens."""

    codes: tuple[tuple[int, ...], ...]  # the tokens of each atom
    vocabulary: int  # how many tokens there are, ``START`` and ``END`` included

    def write(self, plan: Sequence[int]) -> tuple[int, ...]:
        """The tokens of a plan of atoms, ``END`` last; ``read`` reverses it."""
        return (*itertools.chain.from_iterable(self.codes[atom] for atom in plan), END)

    def read(self, tokens: Sequence[int]) -> tuple[int | None, ...]:
        """The atoms that tokens up to the first ``END`` spell, None for each run that is no code.

        A run is broken off by a token that can't follow in any code; if that token begins a code,
        a new run begins there, so that no fault hides what comes after it.
        """
        atom_of = {code: atom for atom, code in enumerate(self.codes)}
        begun = {code[:length] for code in self.codes for length in range(1, len(code) + 1)}
        plan: list[int | None] = []
        run: tuple[int, ...] = ()
        for token in itertools.takewhile(lambda token: token != END, map(int, tokens)):
            if (*run, token) not in begun and (token,) in begun and run:
                plan.append(None)
                run = ()
            run = (*run, token)
            if run in atom_of:
                plan.append(atom_of[run])
                run = ()
        return (*plan, None) if run else tuple(plan)


def grammar_ids(atoms: Atoms) -> SemanticIds:
    """Atoms as tool, then each parameter that the tool takes, in the library's order.

    Every value of a parameter is a token, and so is the absence of an optional one. Tokens are
    numbered in the order of the library, whether or not an atom has them.
    """
    library = atoms.library
    written: list[tuple[str, str | None]] = [(library.tool_key, tool) for tool in library.tools]
    for key, parameter in library.parameters.items():
        written += [(key, None), *((key, value) for value in parameter.values or ())]
    token_of = {pair: token for token, pair in enumerate(written, start=FIRST_CODE)}
    codes = []
    for intent in atoms.intents:
        tool = library.tools[intent[library.tool_key]]
        takes = [key for key in library.parameters if key in (*tool.parameters, *tool.optional)]
        keys = (library.tool_key, *takes)
        codes.append(tuple(token_of[key, intent.get(key)] for key in keys))
    return SemanticIds(tuple(codes), FIRST_CODE + len(written))


def rq_ids(
    atoms: Atoms, plans: Plans, settings: RqVaeSettings, *, company: int, seed: int
) -> SemanticIds:
    """Atoms as an RQ-VAE's L codes over ``intent_vectors`` of training plans, and a last one."""
    vectors = intent_vectors(atoms.intents, atoms.library, plans, company=company)
    model, _ = fit_rqvae(vectors, settings, seed)
    return coded_ids(np.asarray(model(jnp.asarray(vectors)).codes), settings.codes)


def coded_ids(codes_AxL: np.ndarray, codes: int) -> SemanticIds:
    """Atoms as one token for each level's code, and one that counts the atoms before it with the
    same codes (Rajput et al. 2023, section 3.1, handling collisions).

    Level l's code c is token ``FIRST_CODE`` + l * codes + c. There are tokens for as many equals as
    there are atoms, so that the vocabulary doesn't depend on what the codes are.
    """
    atoms, levels = codes_AxL.shape
    tokens = FIRST_CODE + codes * np.arange(levels) + codes_AxL
    seen: dict[tuple[int, ...], int] = {}
    written = []
    for row in tokens.tolist():
        equals = seen.get(tuple(row), 0)
        seen[tuple(row)] = equals + 1
        written.append((*row, FIRST_CODE + codes * levels + equals))
    return SemanticIds(tuple(written), FIRST_CODE + codes * levels + atoms)


def intent_vectors(
    intents: Sequence[Intent], library: IntentLibrary, plans: Plans, *, company: int
) -> np.ndarray:
    """Float32 [A, F + company]: ``described`` and ``company_vectors``, equal in mean square."""
    about = described(intents, library)
    beside = company_vectors(len(intents), plans, company)
    length = np.sqrt(np.mean(np.square(beside).sum(axis=1)))
    if length > 0:
        beside = beside * np.sqrt(np.mean(np.square(about).sum(axis=1))) / length
    return np.concatenate((about, beside), axis=1).astype(np.float32)


def described(intents: Sequence[Intent], library: IntentLibrary) -> np.ndarray:
    """Float32 [A, F], 1 for the intent's tool, for each of its parameters and for their values.

    F = tools + parameters + all values of parameters; one value under two parameters is two.
    """
    names: list[tuple[str, ...]] = [(library.tool_key, tool) for tool in library.tools]
    for key, parameter in library.parameters.items():
        names += [(key,), *((key, value) for value in parameter.values or ())]
    place = {name: i for i, name in enumerate(names)}
    marks = np.zeros((len(intents), len(names)), np.float32)
    for row, intent in enumerate(intents):
        for key, value in intent.items():
            marks[row, place[key, value]] = 1
            if key != library.tool_key:
                marks[row, place[key,]] = 1
    return marks


def company_vectors(count: int, plans: Plans, dimensions: int) -> np.ndarray:
    """Float32 [count, dimensions]: U_d S_d^(1/2) of the positive pointwise mutual information.

    PPMI_ij = max(0, log(n_ij n / (n_i n_j))) with n_ij the plans that hold both i and j (i != j),
    n_i and n its sums (Levy, Goldberg and Dagan 2015, sections 2.1 and 3.1). An intent that no
    plan holds is 0; dimensions beyond the number of intents are 0.
    """
    holds = np.zeros((len(plans), count))
    for row, plan in enumerate(plans):
        if any(not 0 <= intent < count for intent in plan):
            raise GplanError(
                f"Training plan {row + 1} is {tuple(plan)}; intents are 0..{count - 1}."
            )
        holds[row, list(plan)] = 1
    together = holds.T @ holds
    np.fill_diagonal(together, 0)
    sums = together.sum(axis=1)
    expected = np.outer(sums, sums) / max(sums.sum(), 1)
    ratio = np.divide(together, expected, out=np.ones_like(together), where=together > 0)
    left, scale, _ = np.linalg.svd(np.maximum(0, np.log(ratio)))
    kept = min(dimensions, count)
    vectors = np.zeros((count, dimensions), np.float32)
    vectors[:, :kept] = left[:, :kept] * np.sqrt(scale[:kept])
    vectors[sums == 0] = 0
    return vectors


def plan_text(plan: Sequence[int | None], atoms: Atoms) -> str:
    """The canonical text of atoms; a None is an intent whose tool no library has, a sure miss."""
    unknown = {atoms.library.tool_key: UNKNOWN_TOOL}
    intents: Plan = [unknown if atom is None else atoms.intents[atom] for atom in plan]
    return canonical_plan(intents, atoms.library)


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


class Tiger(nnx.Module):
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
