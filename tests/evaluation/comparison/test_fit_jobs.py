"""The fits of a comparison: trials, the choice, predictions, and which comes next."""

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
from gplan_jax.evaluation.comparison.results import seed_path, trials_path
from gplan_jax.evaluation.comparison.setup import ComparisonSetup, rows_of_folds
from gplan_jax.evaluation.comparison.worker_pool import (
    FitJob,
    all_jobs,
    choose_trial,
    next_job,
    run_fit,
)
from gplan_jax.gsisr import IntentLibrary, Sample

LIBRARY = IntentLibrary.load()


@pytest.fixture
def setup(world_file: Path, tmp_path: Path) -> ComparisonSetup:
    rows = rows_of_folds(world_file, LIBRARY, 2)
    overrides = {"toy": {"log": str(tmp_path / "fits.txt")}}
    return ComparisonSetup(
        rows, toy_arms.ARMS, ("toy",), overrides, InputMode.FULL, LIBRARY, 3, 2, tmp_path / "out"
    )


def fits(setup: ComparisonSetup) -> list[tuple[int, int, int, bool]]:
    """(rank, seed, epochs at most, whether on all rows of the fold but the test rows)."""
    lines = Path(setup.overrides["toy"]["log"]).read_text(encoding="utf-8").splitlines()
    numbers = [tuple(map(int, line.split())) for line in lines]
    assert len({train + validation for *_, train, validation in numbers}) == 1
    return [(rank, seed, epochs, not held) for rank, seed, epochs, _, held in numbers]


def read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def do(setup: ComparisonSetup, fold: int = 0, seeds: int = 1, stop_after: int = 99) -> list[Any]:
    """Does what is missing of a fold, in the order of a single worker; [(trial, seed, Acc@1)]."""
    jobs = [job for job in all_jobs(setup) if job.fold == fold and job.seed < seeds]
    done = []
    while pending := [job for job in jobs if not job.is_done(setup.out)]:
        job = next_job(pending, [], None, ())
        assert job is not None
        if job.trial is None:
            choose_trial(setup, job.arm, job.fold)
        done.append((job.trial, job.seed, run_fit(setup, job)))
        if len(done) == stop_after:
            break
    return done


def test_trials_come_first_and_then_all_rows_are_learnt_from(setup: ComparisonSetup) -> None:
    """The toy's validation loss is best after three of its five epochs."""
    done = do(setup, fold=1)
    found = read(trials_path(setup.out, "toy", 1))
    chosen = found["chosen"]
    assert fits(setup) == [*((rank, 0, 5, False) for rank in range(3)), (chosen, 0, 3, True)]
    assert [trial for trial, *_ in done] == [0, 1, 2, None]
    assert [acc1 for *_, acc1 in done] == [*(trial["acc1"] for trial in found["trials"]), None]
    assert len(all_jobs(setup)) == 2 * (3 + 2)
    assert [trial["overrides"] for trial in found["trials"]] == [{}, {"rank": 1}, {"rank": 2}]
    assert {trial["epochs"] for trial in found["trials"]} == {3}
    scores = [(trial["acc1"], trial["nes"]) for trial in found["trials"]]
    assert chosen == scores.index(max(scores))
    seed = read(seed_path(setup.out, "toy", 1, 0))
    assert seed["settings"]["rank"] == chosen and seed["settings"]["stop_after"] == 3
    assert seed["parameters"] == 1234
    assert seed["rows"] == list(setup.rows.folds[1].test)
    assert len(seed["constrained"]) == len(seed["free"]) == len(seed["rows"])
    assert seed["constrained"] != seed["free"] and len(seed["curve"]) == 3
    assert not list(setup.out.rglob("trial_*"))


def test_later_seeds_take_the_chosen_settings_and_epochs(setup: ComparisonSetup) -> None:
    do(setup)
    chosen = read(trials_path(setup.out, "toy", 0))["chosen"]
    assert [(trial, seed) for trial, seed, _ in do(setup, seeds=2)] == [(None, 1)]
    assert fits(setup)[4:] == [(chosen, 1, 3, True)]


@pytest.mark.parametrize("stop_after", [2, 3, 4])
def test_a_run_that_goes_on_does_nothing_twice(setup: ComparisonSetup, stop_after: int) -> None:
    """As after a kill behind the second trial, the third, and the fit on all rows."""
    done = do(setup, stop_after=stop_after)
    assert len(done + do(setup)) == 4
    chosen = read(trials_path(setup.out, "toy", 0))["chosen"]
    assert fits(setup) == [*((rank, 0, 5, False) for rank in range(3)), (chosen, 0, 3, True)]


def test_a_kill_between_the_choice_and_the_fit_keeps_the_choice(setup: ComparisonSetup) -> None:
    do(setup)
    tried, seed = trials_path(setup.out, "toy", 0), seed_path(setup.out, "toy", 0, 0)
    before = read(tried), read(seed)
    seed.unlink()
    assert len(do(setup)) == 1 and len(fits(setup)) == 5
    assert read(tried) == before[0]
    assert {**read(seed), "seconds": 0} == {**before[1], "seconds": 0}


def test_what_validation_rows_choose_nothing_for_is_fitted_once(setup: ComparisonSetup) -> None:
    """A floor or a planner without trials: one fit, on all rows."""
    arm = dataclasses.replace(toy_arms.TOY, stops_early=False)
    other = dataclasses.replace(setup, arms=Arms({"toy": arm}), trials=1)
    assert len(do(other)) == 1 and fits(other) == [(0, 0, 5, True)]
    assert read(trials_path(other.out, "toy", 0))["trials"][0]["acc1"] is None


def test_the_better_sequence_decides_between_equal_first_intents(setup: ComparisonSetup) -> None:
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
    other = dataclasses.replace(setup, arms=Arms({"fixed": arm}), names=("fixed",), trials=4)
    do(other)
    found = read(trials_path(setup.out, "fixed", 0))
    assert {trial["acc1"] for trial in found["trials"]} == {0.0}
    nes = [trial["nes"] for trial in found["trials"]]
    assert found["chosen"] == nes.index(max(nes))


def test_labels_never_reach_a_predictor(setup: ComparisonSetup) -> None:
    """The toys give back a label that they are shown."""
    do(dataclasses.replace(setup, names=("peek",)))
    assert len(set(read(seed_path(setup.out, "peek", 0, 0))["constrained"])) == 1
    assert min(trial["nes"] for trial in read(trials_path(setup.out, "peek", 0))["trials"]) < 1


def test_no_row_of_the_test_part_is_seen_in_fitting(setup: ComparisonSetup) -> None:
    seen: list[Sample] = []

    def fit(train: Any, validation: Any, settings: Any, *rest: Any) -> Fitted:
        seen.extend([*train, *validation])
        return toy_arms.fit_toy(train, validation, settings, *rest)

    arm = dataclasses.replace(toy_arms.TOY, fit=fit)
    do(dataclasses.replace(setup, arms=Arms({"toy": arm})))
    test_ids = {setup.rows.scored[i].id for i in setup.rows.folds[0].test}
    assert seen and not {row.id for row in seen} & test_ids


A0, A1 = FitJob("a", 0, trial=0), FitJob("a", 1, trial=0)
B0, SEED = FitJob("b", 0, trial=0), FitJob("a", 0, 1)


def test_a_worker_stays_with_its_arm_and_leaves_others_theirs() -> None:
    assert next_job([A0, A1, B0], [], None, ()) == A0
    assert next_job([A1, B0], [A0], "b", ()) == B0
    assert next_job([A1, B0], [A0], None, {"a"}) == B0
    assert next_job([A1], [A0], None, {"a"}) == A1, "rather help than wait"


def test_seeds_wait_for_the_choice() -> None:
    assert next_job([SEED], [A0], None, ()) is None
    assert next_job([SEED, A1], [A0], "a", ()) == A1
    assert next_job([SEED, A1], [], "a", ()) == SEED
