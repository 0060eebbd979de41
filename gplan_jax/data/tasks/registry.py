"""The tasks by name: made for a run, or loaded from a model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.data.tasks.task import TASK_FILE, Task, read_task_file
from gplan_jax.data.tasks.text_task import TextTask
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, PromptTemplate


def make_task(name: str, *, template: str, library: str | None, **known: Any) -> Task:
    """The task of a run; ``known`` are its length of prompts and its responses. Rows of text use
    no template; GplanError where a library is named for them.
    """
    if name == GsisrTask.name:
        return GsisrTask(PromptTemplate.load(template), IntentLibrary.load(library), **known)
    if library is not None:
        raise GplanError(f"data.library is for data.task=gsisr; data.task={name} has none.")
    return TextTask(**known)


def load_task(model_dir: Path, **named: Any) -> Task:
    """The task that a model directory was trained on, GSISR where it says none; ``named`` as for
    ``GsisrTask.load``, and GplanError where something is named that the task does not have.
    """
    name, length, response = read_task_file(model_dir)
    if name == GsisrTask.name:
        return GsisrTask.load(model_dir, **named)
    if name != TextTask.name:
        raise GplanError(
            f"{model_dir / TASK_FILE}: task is {name!r}; it is {GsisrTask.name} or {TextTask.name}."
        )
    if foreign := [option for option, value in named.items() if value is not None]:
        raise GplanError(
            f"{model_dir} is a model of the task {name}, which has no {', '.join(foreign)}; "
            f"`gplan evaluate` scores it by {', '.join(TextTask.measures)}."
        )
    return TextTask(prompt_length=length, response=response)
