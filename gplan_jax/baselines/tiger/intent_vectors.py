"""Vectors of intents for the RQ-VAE: what an intent is, and which others it stands with.

TIGER embeds an item's description with a language model (Rajput et al. 2023, section 3.1). An
intent has no description, but it has a tool, parameters and company; intents that training plans
never hold still share the first part with like ones, so they get like codes.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import Intent, IntentLibrary

Plans = Sequence[Sequence[int]]


def intent_vectors(
    intents: Sequence[Intent], library: IntentLibrary, plans: Plans, *, company: int
) -> np.ndarray:
    """Float32 [A, F + company]: ``described`` beside ``company_vectors``, equal in mean square.

    Args:
        intents: the A intents.
        library: theirs.
        plans: training plans as indices of intents.
        company: how many dimensions the company of an intent gets.
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

    Raises:
        GplanError: a plan names an intent that there isn't.
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
