"""One job: trials, the choice, predictions."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import toy_arms

from gplan_jax.baselines.fitting.arms import Arm, Arms, Fitted
from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.evaluation.comparison.fits import FitNote, run_job
from gplan_jax.evaluation.comparison.jobs import Job, fits_of, is_done, seed_path, trials_path
from gplan_jax.evaluation.comparison.task import Task, rows_of_folds
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample

LIBRARY = IntentLibrary.load()


@pytest.fixture
def task(world_file: Path, tmp_path: Path) -> Task:
    rows = rows_of_folds(world_file, LIBRARY, 2)
    overrides = {"toy": {"log": str(tmp_path / "fits.txt")}}
    return Task(
        rows, toy_arms.ARMS, ("toy",), overrides, InputMode.FULL, LIBRARY, 3, 2, tmp_path / "out"
    )


def fits(task: Task) -> list[tuple[int, int, int, bool]]:
    """(rank, seed, epochs at most, whether on all rows of the fold but the test rows)."""
    lines = Path(task.overrides["toy"]["log"]).read_text(encoding="utf-8").splitlines()
    numbers = [tuple(map(int, line.split())) for line in lines]
    assert len({train + validation for *_, train, validation in numbers}) == 1
    return [(rank, seed, epochs, not held) for rank, seed, epochs, _, held in numbers]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def test_the_first_seed_tries_and_then_learns_from_all_rows(task: Task) -> None:
    """The toy's validation loss is best after three of its five epochs."""
    notes: list[FitNote] = []
    job = Job("toy", 1, 0)
    run_job(task, job, notes.append)
    found = read(trials_path(task.out, job))
    chosen = found["chosen"]
    tried = [(rank, 0, 5, False) for rank in range(3)]
    assert fits(task) == [*tried, (chosen, 0, 3, True)]
    assert [note.trial for note in notes] == [0, 1, 2, None]
    assert len(notes) == fits_of(task, job)
    assert [trial["overrides"] for trial in found["trials"]] == [{}, {"rank": 1}, {"rank": 2}]
    assert {trial["epochs"] for trial in found["trials"]} == {3}
    scores = [(trial["acc1"], trial["nes"]) for trial in found["trials"]]
    assert chosen == scores.index(max(scores))
    seed = read(seed_path(task.out, job))
    assert seed["settings"]["rank"] == chosen and seed["settings"]["stop_after"] == 3
    assert seed["parameters"] == 1234
    assert seed["rows"] == list(task.rows.parts[1].test)
    assert len(seed["constrained"]) == len(seed["free"]) == len(seed["rows"])
    assert seed["constrained"] != seed["free"] and len(seed["curve"]) == 3
    assert is_done(task.out, job) and not list(task.out.rglob("trial_*"))


def test_later_seeds_take_the_chosen_settings_and_epochs(task: Task) -> None:
    run_job(task, Job("toy", 0, 0), lambda note: None)
    chosen = read(trials_path(task.out, Job("toy", 0, 0)))["chosen"]
    notes: list[FitNote] = []
    run_job(task, Job("toy", 0, 1), notes.append)
    assert fits(task)[4:] == [(chosen, 1, 3, True)]
    assert [note.trial for note in notes] == [None] and fits_of(task, Job("toy", 0, 1)) == 1


@pytest.mark.parametrize("stop_after", [2, 3, 4])
def test_a_run_that_goes_on_does_nothing_twice(task: Task, stop_after: int) -> None:
    """As after a kill in the third trial, behind the last one, and behind the fit on all rows."""
    told: list[FitNote] = []

    def stop(note: FitNote) -> None:
        told.append(note)
        if len(told) == stop_after:
            raise KeyboardInterrupt

    job = Job("toy", 0, 0)
    with pytest.raises(KeyboardInterrupt):
        run_job(task, job, stop)
    assert is_done(task.out, job) == (stop_after == 4)
    if not is_done(task.out, job):
        told.clear()
        run_job(task, job, told.append)
        assert len(told) == fits_of(task, job)
    chosen = read(trials_path(task.out, job))["chosen"]
    assert fits(task) == [*((rank, 0, 5, False) for rank in range(3)), (chosen, 0, 3, True)]


def test_a_kill_between_the_choice_and_the_fit_keeps_the_choice(task: Task) -> None:
    job = Job("toy", 0, 0)
    run_job(task, job, lambda note: None)
    tried, seed = trials_path(task.out, job), seed_path(task.out, job)
    before = read(tried), read(seed)
    seed.unlink()
    told: list[FitNote] = []
    run_job(task, job, told.append)
    assert len(told) == fits_of(task, job) and len(fits(task)) == 5
    assert read(tried) == before[0]
    assert {**read(seed), "seconds": 0} == {**before[1], "seconds": 0}


def test_what_validation_rows_choose_nothing_for_is_fitted_once(task: Task) -> None:
    """A floor or a planner without trials: one fit, on all rows."""
    arm = dataclasses.replace(toy_arms.TOY, stops_early=False)
    other = dataclasses.replace(task, arms=Arms({"toy": arm}), trials=1)
    run_job(other, Job("toy", 0, 0), lambda note: None)
    assert fits(other) == [(0, 0, 5, True)] and fits_of(other, Job("toy", 0, 0)) == 1
    assert read(trials_path(other.out, Job("toy", 0, 0)))["trials"][0]["acc1"] is None


def test_the_better_sequence_decides_between_equal_first_intents(task: Task) -> None:
    """Trials that share their first intent: NES chooses; equal in both, the first one."""

    class Fixed:
        parameters = 0

        def __init__(self, keep: int) -> None:
            self.keep = keep

        def predict(self, samples: Sequence[Sample], *, constrained: bool) -> list[str]:
            return [json.dumps([{LIBRARY.tool_key: "x"}] * self.keep) for _ in samples]

    def fit(train: Any, validation: Any, settings: Any, *rest: Any) -> Fitted:
        return Fitted(Fixed(settings.rank), [])

    trials = ({}, {"rank": 9}, {"rank": 3}, {"rank": 3})
    arm = Arm("fixed", "", toy_arms.ToySettings, trials, fit)
    other = dataclasses.replace(task, arms=Arms({"fixed": arm}), names=("fixed",), trials=4)
    run_job(other, Job("fixed", 0, 0), lambda note: None)
    found = read(trials_path(task.out, Job("fixed", 0, 0)))
    assert {trial["acc1"] for trial in found["trials"]} == {0.0}
    nes = [trial["nes"] for trial in found["trials"]]
    assert found["chosen"] == nes.index(max(nes))


def test_labels_never_reach_a_predictor(task: Task) -> None:
    """The toys give back a label that they are shown."""
    job = Job("peek", 0, 0)
    run_job(task, job, lambda note: None)
    assert len(set(read(seed_path(task.out, job))["constrained"])) == 1
    assert min(trial["nes"] for trial in read(trials_path(task.out, job))["trials"]) < 1


def test_no_row_of_the_test_part_is_seen_in_fitting(task: Task) -> None:
    seen: list[Sample] = []

    def fit(train: Any, validation: Any, settings: Any, *rest: Any) -> Fitted:
        seen.extend([*train, *validation])
        return toy_arms.fit_toy(train, validation, settings, *rest)

    arm = dataclasses.replace(toy_arms.TOY, fit=fit)
    other = dataclasses.replace(task, arms=Arms({"toy": arm}))
    run_job(other, Job("toy", 0, 0), lambda note: None)
    test_ids = {task.rows.scored[i].id for i in task.rows.parts[0].test}
    assert seen and not {row.id for row in seen} & test_ids


def test_an_arm_with_fewer_trials_than_the_others_is_refused(task: Task) -> None:
    arm = dataclasses.replace(toy_arms.TOY, trials=({}, {"rank": 1}))
    other = dataclasses.replace(task, arms=Arms({"toy": arm}))
    with pytest.raises(GplanError, match="toy declares 2 trials"):
        run_job(other, Job("toy", 0, 0), lambda note: None)
