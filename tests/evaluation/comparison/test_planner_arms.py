"""Small planners as arms: what they are trained on, what they answer, and that they can learn."""

from __future__ import annotations

import dataclasses
import itertools
from pathlib import Path

import pytest

from gplan_jax.baselines.rows.features import InputMode
from gplan_jax.data.tasks.task import Mode
from gplan_jax.evaluation.comparison import planner_arms
from gplan_jax.evaluation.comparison.planner_arms import (
    COT_SFT,
    DIRECT_SFT,
    PAUSE,
    PICD,
    PlannerRecipe,
    PlannerSettings,
    planner_arm,
)
from gplan_jax.gsisr import IntentLibrary, Sample, check_plan, parse_plan, read_context_pairs
from gplan_jax.reasoning import split_response
from gplan_jax.synthesis.rules.service_rules import ServiceRules
from gplan_jax.synthesis.world.simulation import simulate_rows
from gplan_jax.training.steps.train_config import TrainConfig

LIBRARY = IntentLibrary.load()
RULES = ServiceRules(LIBRARY)
CONTEXT = (
    "currenttime", "holidayflag", "weekendflag", "current_poi_name", "current_tag", "current_city",
    "current_district", *(f"trigger_{i}" for i in range(1, 8)),
)  # fmt: skip


@pytest.fixture(scope="module")
def rows() -> list[Sample]:
    return list(simulate_rows(60, 5))


def elsewhere(row: Sample, other: Sample) -> Sample:
    """The row's profile, history and label in another row's context (and at the same time)."""
    columns = [column for column in CONTEXT if column != "currenttime"]
    return dataclasses.replace(row, **{c: getattr(other, c) for c in columns})


def trained_on(row: Sample, mode: InputMode) -> Sample:
    return planner_arms._row(row, mode, LIBRARY, lambda: RULES)


def test_history_mode_trains_on_nothing_of_the_context(rows: list[Sample]) -> None:
    pairs = list(itertools.pairwise(rows))
    for mode, differ in ((InputMode.HISTORY, 0), (InputMode.FULL, len(pairs))):
        seen = [(trained_on(a, mode), trained_on(elsewhere(a, b), mode)) for a, b in pairs]
        assert sum(first != second for first, second in seen) >= differ * 0.9
        assert differ or all(first == second for first, second in seen)


def test_training_rows_keep_their_plan_and_gain_reasoning(rows: list[Sample]) -> None:
    for row in rows:
        thought, plan = split_response(row.raw_labels)
        bare = row.with_label(plan)
        own, rules = (trained_on(r, InputMode.FULL).raw_labels for r in (row, bare))
        assert own == row.raw_labels and thought
        assert split_response(rules)[0] and parse_plan(rules) == parse_plan(row.raw_labels)


def test_all_ways_begin_alike_and_declare_equal_search_spaces() -> None:
    arms = (COT_SFT, DIRECT_SFT, PAUSE, PICD)
    assert {arm.name for arm in arms} == {"cot_sft", "direct_sft", "pause", "picd"}
    assert COT_SFT.trials == DIRECT_SFT.trials == PAUSE.trials == PICD.trials
    assert COT_SFT.settings is DIRECT_SFT.settings is PAUSE.settings is PICD.settings
    for arm in arms:
        assert arm.trials[0] == {} and len(arm.trials) == 4
        for trial in arm.trials:
            assert arm.settings.model_validate(trial) != arm.settings() or not trial


@pytest.mark.slow
@pytest.mark.parametrize("arm", [DIRECT_SFT, PAUSE, PICD], ids=lambda arm: arm.name)
def test_a_planner_learns_and_its_constrained_plans_pass_the_filter(arm, rows) -> None:  # type: ignore[no-untyped-def]
    settings = PlannerSettings(
        epochs=9, target_blocks=3, layers=1, hidden_size=64, head_dim=32, learning_rate=5e-3
    )
    fitted = arm.fit(rows[:40], rows[40:50], settings, InputMode.FULL, LIBRARY, 0)
    unseen = [row.with_label("") for row in rows[50:]]
    assert fitted.predictor.parameters > 0
    assert [point["epoch"] for point in fitted.curve] == list(range(1, 10))
    assert fitted.curve[-1]["loss"] < fitted.curve[0]["loss"] / 2
    for text in fitted.predictor.predict(unseen, constrained=True):
        assert not check_plan(text, LIBRARY)
    labelled = fitted.predictor.predict(rows[50:], constrained=False)
    assert labelled == fitted.predictor.predict(unseen, constrained=False)


def test_kept_runs_are_shared_gone_on_with_and_told_apart(
    rows: list[Sample], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs: list[tuple[TrainConfig, bool]] = []

    def train(config: TrainConfig, *, resume: bool) -> Path:
        configs.append((config, resume))
        run = Path(config.output)
        run.mkdir(parents=True, exist_ok=True)
        (run / "config.yaml").touch()
        (run / "log.jsonl").touch()
        return run / "model"

    monkeypatch.setattr(planner_arms, "train", train)
    monkeypatch.setattr(planner_arms.Planner, "load", lambda model, **_: model)
    settings = PlannerSettings(layers=1, hidden_size=32, head_dim=16)

    def fit(recipe: PlannerRecipe, seed: int = 0) -> list[tuple[TrainConfig, bool]]:
        configs.clear()
        arm = planner_arm("an", "arm", recipe, tmp_path)
        arm.fit(rows[:20], [], settings, InputMode.FULL, LIBRARY, seed)
        return list(configs)

    [(picd, resumed)] = fit(PlannerRecipe(Mode.PICD))
    assert not resumed and picd.optimizer.schedule == "calr"
    (again, resumed), (prefer, fresh) = fit(PlannerRecipe(Mode.PICD, preference="scdpo"))
    assert again == picd and resumed and not fresh
    assert prefer.mode == "scdpo" and prefer.model == str(Path(picd.output) / "model")
    assert len(list(read_context_pairs(prefer.data.train, LIBRARY))) > 0
    # Other schedules and losses start from the same weights, another seed from others.
    [(cosine, _)] = fit(PlannerRecipe(Mode.PICD, "cosine"))
    assert cosine.model == picd.model and cosine.output != picd.output
    _, (dpo, _) = fit(PlannerRecipe(Mode.PICD, preference="dpo"))
    assert dpo.preference.loss == "dpo" and dpo.data == prefer.data and dpo.output != prefer.output
    [(other, resumed)] = fit(PlannerRecipe(Mode.PICD), seed=1)
    assert other.model != picd.model and not resumed
