"""What prompts are cut to, decided once from data and config and guarded when a run goes on; and
what a step takes at once.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from gplan_jax.data import ChatEncoder, Mode, TrainingSet
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.data.tasks.task import TASK_FILE
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import write_json
from gplan_jax.gsisr import IntentLibrary, PromptTemplate
from gplan_jax.training.hosts.mesh import put_batch
from gplan_jax.training.resume.run_directory import UNCUT, changed_content
from gplan_jax.training.steps import setup
from gplan_jax.training.steps.setup import prepare, with_prompt_length
from gplan_jax.training.steps.train_config import TrainConfig


@pytest.fixture(scope="module")
def rows(world_file: Path, tiny_model_dir: Path) -> TrainingSet:
    return TrainingSet.read(
        world_file,
        encoder=ChatEncoder.load(tiny_model_dir),
        task=GsisrTask(
            PromptTemplate.load("compact_zh"), IntentLibrary.load(), prompt_length=10**6
        ),
        mode=Mode.PICD,
        cache=world_file.parent / "tokens",
    )


def config(model: Path | str = "nowhere", mode: str = "picd", **data: Any) -> TrainConfig:
    values = {"mode": mode, "model": str(model), "output": "run", "data": {"train": "x"} | data}
    return TrainConfig.model_validate(values)


def test_prompts_have_what_the_longest_response_leaves(rows: TrainingSet) -> None:
    lengths = rows.lengths(12)
    longest = lengths[..., 1].max(axis=1)
    given = with_prompt_length(config(max_length=700), rows, longest)
    assert given.task.prompt_length == 700 - lengths[..., 1].max()
    assert (given.lengths(12).sum(axis=2) <= 700).all()
    explicit = with_prompt_length(config(max_length=700, prompt_length=90), rows, longest)
    assert explicit.task.prompt_length == 90


@pytest.mark.parametrize("data", [{"max_length": 60}, {"max_length": 700, "prompt_length": 690}])
def test_a_prompt_and_a_response_that_do_not_fit_are_named(
    rows: TrainingSet, data: dict[str, int]
) -> None:
    responses = np.full(len(rows), 50)
    responses[3] = 55
    with pytest.raises(GplanError, match=rf"id {rows.row_id(3)} has 55 tokens.*data\.max_length"):
        with_prompt_length(config(**data), rows, responses)


def test_preferences_keep_what_the_policy_was_trained_with(
    rows: TrainingSet, tmp_path: Path
) -> None:
    responses, folder = np.full(len(rows), 100), tmp_path / "model"
    GsisrTask(rows.task.template, rows.task.library, prompt_length=300).save(folder)
    policy = config(folder, "scdpo", max_length=700)
    assert with_prompt_length(policy, rows, responses).task.prompt_length == 300
    write_json(folder / TASK_FILE, {"max_length": 512})  # an older policy
    assert GsisrTask.load(folder).prompt_length == 512 - 160
    assert with_prompt_length(policy, rows, responses).task.prompt_length == 352
    short = config(folder, "scdpo", max_length=400)
    assert with_prompt_length(short, rows, responses).task.prompt_length == 300


def test_a_run_of_an_older_version_goes_on_where_no_prompt_is_cut() -> None:
    before = {"rows": "r", "prompt": "p", "tokenizer": "t", "model": "m"}
    assert changed_content(before, before | {"cut": UNCUT}) == []
    assert changed_content({}, before | {"cut": "300"}) == []  # died before it wrote any
    [words] = changed_content(before, before | {"cut": "300"})
    assert "data.prompt_length" in words
    assert changed_content(before | {"cut": "301"}, before | {"cut": "300"}) == [words]


def test_a_cpu_takes_no_more_tokens_at_once_than_its_cache_holds(
    make_config: Callable[..., TrainConfig], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = prepare(make_config(tmp_path), tmp_path)
    assert run.mesh.size == 1

    def loops(tokens: int) -> int:
        monkeypatch.setattr(setup, "CACHED_TOKENS", tokens)
        with jax.set_mesh(run.mesh):
            batch = put_batch(next(iter(run.batches(0))).batch, run.mesh)
            step = run.train_step().lower(run.initial_state(), batch)  # type: ignore[attr-defined]
        return int(step.as_text().count("stablehlo.while"))

    assert loops(1) > loops(10**9)
