"""The registry of arms."""

from __future__ import annotations

import subprocess
import sys

import pytest

from gplan_jax.baselines.fitting.arms import ALL_FLOORS, ARMS, NETWORKS, Fitted, floor_arm
from gplan_jax.baselines.floors.counting import Floor
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.foundation.config import parse_config
from gplan_jax.gsisr import IntentLibrary, Sample


@pytest.mark.parametrize("name", NETWORKS)
def test_every_network_declares_four_trials_that_its_settings_take(name: str) -> None:
    arm = ARMS[name]
    assert arm.name == name and arm.title and not arm.floor
    assert len(arm.trials) == 4 and arm.trials[0] == {}
    settings = [parse_config(arm.settings, trial, source=name) for trial in arm.trials]
    assert len({str(values) for values in settings}) == 4


def test_naming_arms_imports_none() -> None:
    code = (
        "import sys; from gplan_jax.evaluation.comparison.known_arms import known_arms; "
        "print(len(known_arms()), 'jax' in sys.modules, 'sklearn' in sys.modules)"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    count, *imported = told.stdout.split()
    assert int(count) > len(ARMS) and imported == ["False", "False"]


def test_a_floor_as_an_arm_answers_as_the_floor_does(world_rows: list[Sample]) -> None:
    library = IntentLibrary.load()
    arm = floor_arm("trigger_table")
    train, test = world_rows[:30], world_rows[30:]
    fitted = arm.fit(train, [], arm.settings(), InputMode.FULL, library, 0)
    floor = ALL_FLOORS["trigger_table"](train, library, InputMode.FULL)
    plans = floor.predict(test)
    assert fitted.predictor.predict(test, constrained=True) == plans
    assert fitted.predictor.predict(test, constrained=False) == plans
    assert arm.floor and arm.trials == ({},) and not arm.stops_early and fitted.best is None


def test_the_best_point_is_the_first_with_the_lowest_validation_loss() -> None:
    curve = [{"epoch": n, "validation_loss": v} for n, v in enumerate((3.0, 1.5, 2.0, 1.5), 1)]
    assert Fitted(Floor(), curve).best == curve[1]
    blind = [{"epoch": 1, "validation_loss": None}]
    assert Fitted(Floor(), blind).best is None
