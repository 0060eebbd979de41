"""The tasks by name: made for a run, or loaded from a model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.data.tasks.task import TASK_FILE, Task, read_task_file
from gplan_jax.data.tasks.text_task import TextTask
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import Service
from gplan_jax.gsisr.service import MEND, known_service


def service_of_run(
    name: str, service: str | None, *, data: Path, model: Path
) -> tuple[str | None, str]:
    """The service of a run's plans, by its name or as rows and model tell, and how it is known in
    a line, "" where it was named. As it is for another task; GplanError where nothing tells.
    """
    if name != GsisrTask.name:
        return service, ""
    found, how = known_service(service, data=data, model=model)
    return str(found.folder), how and f"service: {found.name} ({how})"


def make_task(name: str, *, template: str | None, service: str | Path | None, **known: Any) -> Task:
    """The task of a run; ``known`` are its length of prompts and its responses. Rows of text use
    no template; GplanError where a service is named for them, or none for plans.
    """
    if name == GsisrTask.name:
        if service is None:
            raise GplanError(f"data.task={name} needs a service. {MEND}")
        found = Service.load(service)
        return GsisrTask(found.template(template), found.library, **known)
    if service is not None:
        raise GplanError(f"data.service is for data.task=gsisr; data.task={name} has none.")
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
