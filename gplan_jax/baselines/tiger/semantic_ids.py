"""Codes of intents: each atom a short tuple of tokens, no atom's code the beginning of another's.

Two ways to write them. ``grammar_ids``: the tool, then a value for each parameter that it takes.
``rq_ids``: the codes of an RQ-VAE, then a token that tells apart the atoms which share them all.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import jax.numpy as jnp
import numpy as np

from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.tiger.intent_vectors import intent_vectors
from gplan_jax.baselines.tiger.rqvae import RqVaeSettings, fit_rqvae
from gplan_jax.gsisr import Plan, canonical_plan

START, END = 0, 1  # START fills up targets, too.
FIRST_CODE = 2
UNKNOWN_TOOL = "<unknown>"


@dataclass(frozen=True)
class SemanticIds:
    """How atoms and plans are written in tokens.

    Attributes:
        codes: the tokens of each atom.
        vocabulary: how many tokens there are, ``START`` and ``END`` included.
    """

    codes: tuple[tuple[int, ...], ...]
    vocabulary: int

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
    atoms: Atoms,
    plans: Sequence[Sequence[int]],
    settings: RqVaeSettings,
    *,
    company: int,
    seed: int,
) -> SemanticIds:
    """Atoms as the L codes of an RQ-VAE over ``intent_vectors`` of training plans, and a last one.

    Args:
        atoms: the atoms.
        plans: training plans, for the company that intents keep.
        settings: of the RQ-VAE.
        company: dimensions of that part of the vectors.
        seed: of the RQ-VAE.
    """
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


def plan_text(plan: Sequence[int | None], atoms: Atoms) -> str:
    """The canonical text of atoms; a None is an intent whose tool no library has, a sure miss."""
    unknown = {atoms.library.tool_key: UNKNOWN_TOOL}
    intents: Plan = [unknown if atom is None else atoms.intents[atom] for atom in plan]
    return canonical_plan(intents, atoms.library)
