"""One frame for every arm with a network: rows, masks, seeds and batches are the same for all.

An arm says how rows are read, its network, its loss and its decoding, as a ``Recipe``.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
from flax import nnx

from gplan_jax.baselines.fitting.arms import Arm, Fitted
from gplan_jax.baselines.fitting.network import (
    Batch,
    FitSettings,
    Loss,
    batches_of,
    count_parameters,
    fit_network,
)
from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.baselines.rows.labelled_rows import LabelledRows, labelled_rows
from gplan_jax.baselines.rows.plan_mask import PlanMask, plan_mask
from gplan_jax.gsisr import IntentLibrary, Sample


@dataclass(frozen=True)
class FitInput:
    """What a recipe is made from; ``train`` and ``validation`` are the rows with usable plans."""

    train: LabelledRows
    validation: LabelledRows | None
    atoms: Atoms
    mask: PlanMask
    mode: InputMode
    seed: int

    @property
    def parts(self) -> list[LabelledRows]:
        """The rows by part."""
        return [self.train, self.validation] if self.validation else [self.train]


@dataclass(frozen=True)
class Recipe:
    """What an arm is, once it has seen its training rows."""

    loss: Loss  # a module-level function of batches of inputs and targets
    decoding_batch: int  # rows that are decoded at a time
    # What the network reads of N rows, arrays [N, ...]; never their labels.
    inputs: Callable[[Sequence[Sample]], dict[str, np.ndarray]]
    # What it is to write for them, from plans of atoms, arrays [N, ...].
    targets: Callable[[Sequence[Sequence[int]]], dict[str, np.ndarray]]
    network: Callable[[nnx.Rngs], nnx.Module]  # with fresh weights
    # What the network (the two parts of ``nnx.split``) writes for a batch, int32 [B, T]; plans obey
    # every rule of the library where the last argument says so.
    decode: Callable[[nnx.GraphDef, nnx.State, Batch, bool], jax.Array]
    text: Callable[[Sequence[int]], str]  # the plan text of what was written for a row


@dataclass(frozen=True, eq=False)
class NetworkPredictor:
    """A fitted network that answers as an arm does."""

    network: nnx.Module
    recipe: Recipe

    @property
    def parameters(self) -> int:
        """How many numbers the network has learnt."""
        return count_parameters(self.network)

    def predict(self, samples: Sequence[Sample], *, constrained: bool) -> list[str]:
        """A plan text for each row."""
        if not samples:
            return []
        graph, weights = nnx.split(self.network)
        texts: list[str] = []
        for batch, rows in batches_of(self.recipe.inputs(samples), self.recipe.decoding_batch):
            found = np.asarray(self.recipe.decode(graph, weights, batch, constrained))
            texts += [self.recipe.text(tokens) for tokens in found[:rows].tolist()]
        return texts


def network_arm(
    name: str,
    title: str,
    settings: type[FitSettings],
    trials: tuple[dict[str, Any], ...],
    recipe: Callable[[FitInput, Any], Recipe],
) -> Arm:
    """An arm from its recipe, which is made of the rows and the arm's settings."""
    return Arm(name, title, settings, trials, functools.partial(fit_recipe, recipe))


def fit_recipe(
    recipe_of: Callable[[FitInput, Any], Recipe],
    train: Sequence[Sample],
    validation: Sequence[Sample],
    settings: FitSettings,
    mode: InputMode,
    library: IntentLibrary,
    seed: int,
) -> Fitted:
    """Fits a network on the rows with usable plans; what it knows of values is from ``train``."""
    atoms = Atoms.of(library)
    rows = labelled_rows(train, atoms)
    held_out = labelled_rows(validation, atoms) if validation else None
    given = FitInput(rows, held_out, atoms, plan_mask(atoms), mode, seed)
    recipe = recipe_of(given, settings)
    parts = [{**recipe.inputs(p.samples), **recipe.targets(p.plans)} for p in given.parts]
    network, curve = fit_network(
        recipe.network(nnx.Rngs(seed)),
        recipe.loss,
        parts[0],
        parts[1] if held_out else None,
        settings,
        seed,
    )
    return Fitted(NetworkPredictor(network, recipe), curve)
