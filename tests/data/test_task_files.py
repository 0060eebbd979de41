"""What is kept beside a model's weights: written, read back, missing or broken."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import get_args

import pytest

from gplan_jax.data.task_files import (
    COUNTS_FILE,
    TASK_FILE,
    Mode,
    Response,
    Task,
    load_task,
    save_task,
)
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, PromptTemplate, Sample
from gplan_jax.gsisr.intent_counts import IntentCounts

OLD_TEMPLATE = PromptTemplate("compact_zh", "先思考，再规划意图。\n", "{{ sample.id }}")


def task(response: Response | None = None) -> Task:
    return Task(PromptTemplate.load("compact_zh"), IntentLibrary.load(), 777, response)


@pytest.mark.parametrize("response", [None, "plan", "latent", "reasoning"])
def test_a_task_reads_back(response: Response | None, tmp_path: Path) -> None:
    save_task(tmp_path, task(response))
    again = load_task(tmp_path)
    assert (again.prompt_length, again.response) == (777, response)
    assert again.template.user == task().template.user and again.library == task().library
    assert load_task(tmp_path, prompt_length=55).prompt_length == 55
    assert not (tmp_path / COUNTS_FILE).exists()


def test_prompts_are_those_of_the_response_and_of_the_template_kept(
    world_rows: list[Sample], tmp_path: Path
) -> None:
    [row, *_], told = world_rows, "先思考，再规划意图。"
    for response, system in (("plan", "规划意图。"), ("latent", told), (None, told)):
        save_task(tmp_path, task(response))
        assert load_task(tmp_path).prompt(row).system == system
    # A Direct-SFT model of before templates knew keeps the prompt it was trained with.
    save_task(tmp_path, dataclasses.replace(task("plan"), template=OLD_TEMPLATE))
    assert load_task(tmp_path).prompt(row).system == told


def test_every_mode_says_what_its_responses_hold() -> None:
    assert {mode.response for mode in Mode} == set(get_args(Response))


def test_counts_stand_beside_the_task(tmp_path: Path) -> None:
    counts = IntentCounts()
    counts.add((), ["a", "b"])
    save_task(tmp_path, task(), counts)
    assert len(IntentCounts.load(tmp_path / COUNTS_FILE)) == 1


@pytest.mark.parametrize(("kept", "room"), [(None, 1888), (512, 352), (301, 151), (1, 1)])
def test_an_older_directory_keeps_tokens_of_prompt_and_answer_together(
    kept: int | None, room: int, tmp_path: Path
) -> None:
    if kept:
        (tmp_path / TASK_FILE).write_text(json.dumps({"max_length": kept}))
    assert (load_task(tmp_path).prompt_length, load_task(tmp_path).response) == (room, None)
    assert load_task(tmp_path, response="plan").response == "plan"


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ([], "prompt_length"),
        ({}, "prompt_length"),
        ({"prompt_length": 0}, "prompt_length"),
        ({"max_length": "9"}, "prompt_length"),
        ({"max_length": 9, "response": "prose"}, "response is 'prose'"),
        ({"max_length": 9, "response": ["plan"]}, "response is"),
    ],
)
def test_a_broken_task_is_named(content: object, named: str, tmp_path: Path) -> None:
    (tmp_path / TASK_FILE).write_text(json.dumps(content))
    with pytest.raises(GplanError) as error:
        load_task(tmp_path)
    assert str(tmp_path / TASK_FILE) in str(error.value) and named in str(error.value)
