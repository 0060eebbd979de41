"""What a model was trained to read, kept beside its weights: prompt, intent library, length.

MODEL/prompt/system.j2, MODEL/prompt/user.j2, MODEL/library.yaml, MODEL/task.json
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import yaml

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import atomic_write, read_json, write_json
from gplan_jax.gsisr import IntentLibrary, PromptTemplate

PROMPT_FOLDER, LIBRARY_FILE, TASK_FILE = "prompt", "library.yaml", "task.json"
DEFAULT_MAX_LENGTH = 2048


@dataclass(frozen=True)
class Task:
    """Prompt template, intent library, and the tokens of prompt and answer together."""

    template: PromptTemplate
    library: IntentLibrary
    max_length: int = DEFAULT_MAX_LENGTH


def save_task(model_dir: Path, task: Task) -> None:
    """Writes a task into a model directory."""
    task.template.save(model_dir / PROMPT_FOLDER)
    with atomic_write(model_dir / LIBRARY_FILE) as temporary:
        text = yaml.safe_dump(task.library.model_dump(), sort_keys=False, allow_unicode=True)
        temporary.write_text(text, encoding="utf-8")
    write_json(model_dir / TASK_FILE, {"max_length": task.max_length})


def load_task(
    model_dir: Path,
    *,
    template: str | None = None,
    library: str | None = None,
    max_length: int | None = None,
) -> Task:
    """The task of a model directory; what is named replaces it, what neither has is Amap's.

    Raises:
        GplanError: the template, the library or the length is missing or broken.
    """
    if template is None and (model_dir / PROMPT_FOLDER).is_dir():
        template = str(model_dir / PROMPT_FOLDER)
    if library is None and (model_dir / LIBRARY_FILE).is_file():
        library = str(model_dir / LIBRARY_FILE)
    if max_length is None and (model_dir / TASK_FILE).is_file():
        max_length = _max_length(model_dir / TASK_FILE)
    return Task(
        PromptTemplate.load(template or "amap_zh"),
        IntentLibrary.load(library),
        max_length or DEFAULT_MAX_LENGTH,
    )


def _max_length(path: Path) -> int:
    task = read_json(path)
    length = task.get("max_length") if isinstance(task, dict) else None
    if not isinstance(length, int) or length < 1:
        raise GplanError(f"{path} must be a JSON object with max_length, a positive integer.")
    return length
