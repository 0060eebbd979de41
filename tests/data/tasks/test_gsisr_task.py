"""What is kept beside a model's weights: written, read back, missing or broken."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import get_args

import pytest

from gplan_jax.data.tasks.gsisr_task import COUNTS_FILE, GsisrTask
from gplan_jax.data.tasks.task import TASK_FILE, Mode, Response
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, PromptTemplate, Sample
from gplan_jax.gsisr.intent_counts import IntentCounts
from gplan_jax.reasoning import GSISR_LATENTS

OLD_TEMPLATE = PromptTemplate("compact_zh", "先思考，再规划意图。\n", "{{ sample.id }}")


def task(response: Response | None = None) -> GsisrTask:
    return GsisrTask(
        PromptTemplate.load("compact_zh"),
        IntentLibrary.load(),
        prompt_length=777,
        response=response,
    )


@pytest.mark.parametrize("response", [None, "plan", "latent", "reasoning"])
def test_a_task_reads_back(response: Response | None, tmp_path: Path) -> None:
    task(response).save(tmp_path)
    again = GsisrTask.load(tmp_path)
    assert (again.prompt_length, again.response) == (777, response)
    assert again.template.user == task().template.user and again.library == task().library
    assert GsisrTask.load(tmp_path, prompt_length=55).prompt_length == 55
    assert not (tmp_path / COUNTS_FILE).exists()
    # Naming the service that it has already changes nothing, unless a prompt of it is named too.
    assert GsisrTask.load(tmp_path, service="amap").template.user == again.template.user
    other = GsisrTask.load(tmp_path, service="amap", template="amap_zh")
    assert other.template.user == PromptTemplate.load("amap_zh").user != again.template.user
    with pytest.raises(GplanError, match="is a model of the service amap, not of city_guide"):
        GsisrTask.load(tmp_path, service="city_guide")


def test_prompts_are_those_of_the_response_and_of_the_template_kept(
    world_rows: list[Sample], tmp_path: Path
) -> None:
    [row, *_], told = world_rows, "先思考，再规划意图。"
    for response, system in (("plan", "规划意图。"), ("latent", told), (None, told)):
        task(response).save(tmp_path)
        assert GsisrTask.load(tmp_path).prompt(row).system == system
    # A Direct-SFT model of before templates knew keeps the prompt it was trained with.
    dataclasses.replace(task("plan"), template=OLD_TEMPLATE).save(tmp_path)
    assert GsisrTask.load(tmp_path).prompt(row).system == told


def test_every_mode_says_what_its_responses_hold() -> None:
    assert {mode.response for mode in Mode} == set(get_args(Response))


def test_counts_stand_beside_the_task(world_file: Path, tmp_path: Path) -> None:
    task().save(tmp_path, task().read(world_file, GSISR_LATENTS))
    assert len(IntentCounts.load(tmp_path / COUNTS_FILE)) == 40


@pytest.mark.parametrize(("kept", "room"), [(None, 1888), (512, 352), (301, 151), (1, 1)])
def test_an_older_directory_keeps_tokens_of_prompt_and_answer_together(
    kept: int | None, room: int, tmp_path: Path
) -> None:
    if kept:
        (tmp_path / TASK_FILE).write_text(json.dumps({"max_length": kept}))
    with pytest.raises(GplanError, match=r"does not say which service it plans for.*--service"):
        GsisrTask.load(tmp_path)
    task = GsisrTask.load(tmp_path, service="amap")
    assert (task.prompt_length, task.response, task.template.name) == (room, None, "amap_zh")
    assert GsisrTask.load(tmp_path, service="amap", response="plan").response == "plan"


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
        GsisrTask.load(tmp_path)
    assert str(tmp_path / TASK_FILE) in str(error.value) and named in str(error.value)
