"""P5 learns, is the same for a seed, and under constraint never writes a plan that breaks rules."""

from __future__ import annotations

import pytest
from flax import nnx
from hypothesis import given, settings
from hypothesis import strategies as st

from gplan_jax.baselines.fitting.network import FitInput, NetworkPredictor, Recipe
from gplan_jax.baselines.p5.arm import P5, P5Settings, p5_recipe
from gplan_jax.baselines.rows.atoms import Atoms
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.baselines.rows.labelled_rows import labelled_rows
from gplan_jax.baselines.rows.plan_mask import plan_mask
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample, check_plan, parse_plan

LIBRARY = IntentLibrary.load()
ATOMS = Atoms.of(LIBRARY)
SMALL = P5Settings(
    hidden_size=16, heads=2, head_dim=8, mlp_size=16, layers=1, dropout=0.0, beams=2,
    decoding_batch=8, epochs=60, patience=60, batch_size=16, learning_rate=0.01, least_count=1,
)  # fmt: skip


@pytest.fixture(scope="module")
def recipe(rows: list[Sample]) -> Recipe:
    train = labelled_rows(rows, ATOMS)
    return p5_recipe(FitInput(train, None, ATOMS, plan_mask(ATOMS), InputMode.FULL, 0), SMALL)


def _random(recipe: Recipe, seed: int) -> NetworkPredictor:
    return NetworkPredictor(recipe.network(nnx.Rngs(seed)), recipe)


@settings(deadline=None, max_examples=10)
@given(seed=st.integers(0, 2**31))
def test_constrained_plans_obey_all_rules_whatever_the_weights(
    seed: int, recipe: Recipe, rows: list[Sample]
) -> None:
    for plan in _random(recipe, seed).predict(rows[:8], constrained=True):
        assert ATOMS.ids(parse_plan(plan))
        assert not check_plan(plan, LIBRARY)


def test_free_plans_are_read_from_whatever_is_written(recipe: Recipe, rows: list[Sample]) -> None:
    plans = [
        plan
        for seed in range(4)
        for plan in _random(recipe, seed).predict(rows[:8], constrained=False)
    ]
    assert any(check_plan(plan, LIBRARY) for plan in plans)


def test_it_learns_a_rule(rows: list[Sample]) -> None:
    fitted = P5.fit(rows[:24], rows[24:], SMALL, InputMode.FULL, LIBRARY, 0)
    unlabelled = [row.with_label("") for row in rows[24:]]
    wanted = [row.raw_labels for row in rows[24:]]
    assert fitted.predictor.predict(unlabelled, constrained=True) == wanted
    assert fitted.predictor.predict(unlabelled, constrained=False) == wanted
    assert fitted.best is not None and fitted.best["validation_loss"] > 0
    assert fitted.predictor.predict([], constrained=True) == []


def test_a_seed_says_all(rows: list[Sample]) -> None:
    short = SMALL.model_copy(update={"epochs": 2})
    losses = [
        [point["loss"] for point in P5.fit(rows, [], short, InputMode.FULL, LIBRARY, seed).curve]
        for seed in (0, 0, 1)
    ]
    assert losses[0] == losses[1] != losses[2]


def test_rows_without_any_plan_are_refused(rows: list[Sample]) -> None:
    with pytest.raises(GplanError, match="No training row has a usable plan"):
        P5.fit([rows[0].with_label("")], [], SMALL, InputMode.FULL, LIBRARY, 0)


def test_four_trials_are_declared_and_the_first_is_the_defaults() -> None:
    assert len(P5.trials) == 4 and P5.trials[0] == {}
    assert len({P5Settings.model_validate(trial) for trial in P5.trials}) == 4
