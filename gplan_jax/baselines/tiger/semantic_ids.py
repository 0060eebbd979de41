"""Codes of intents: each atom a short tuple of tokens, no atom's code the beginning of another's.

Two ways to write them. ``grammar_ids``: the tool, then a value for each parameter that it takes.
``rq_ids``: the codes of an RQ-VAE, then a token that tells apart the atoms which share them all.

TIGER's RQ-VAE quantises what a language model says of an item's description (Rajput et al. 2023,
section 3.1). An intent has no description, but it has a tool, parameters and company; intents that
training plans never hold still share the first part with like ones, so they get like codes.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.tiger.rqvae import RqVaeSettings, fit_rqvae
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
    """Float32 [A, F + company]: ``described`` beside ``company_vectors``, equal in mean square.

    ``plans`` are training plans as indices of intents.
    """
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
