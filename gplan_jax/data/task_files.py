"""What a model was trained to read and write, kept beside its weights.

MODEL/prompt/system.j2 and user.j2   the prompt template
MODEL/library.yaml                   the intent library
MODEL/task.json                      tokens of prompt and answer together, what responses hold
MODEL/intent_counts.json             counts of the training plans, for drafts; not needed otherwise
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from gplan_jax.data.training_set import Mode
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import atomic_write, read_json, write_json
from gplan_jax.gsisr import IntentLibrary, PromptTemplate
from gplan_jax.gsisr.intent_counts import IntentCounts

PROMPT_FOLDER, LIBRARY_FILE, TASK_FILE = "prompt", "library.yaml", "task.json"
COUNTS_FILE = "intent_counts.json"
DEFAULT_MAX_LENGTH = 2048

Response = Literal["plan", "latent", "reasoning"]
"""What comes before the plan in a response: nothing, latent tokens, or reasoning in words."""

RESPONSES: Mapping[Mode, Response] = {
    Mode.DIRECT_SFT: "plan",
    Mode.COT_SFT: "reasoning",
    Mode.PICD: "latent",
    Mode.PAUSE: "latent",
    Mode.SCDPO: "latent",
}


@dataclass(frozen=True)
class Task:
    """Prompt template, intent library, the tokens of prompt and answer together, and the responses.

    ``response`` is None where the model directory does not tell.
    """

    template: PromptTemplate
    library: IntentLibrary
    max_length: int = DEFAULT_MAX_LENGTH
    response: Response | None = None


def save_task(model_dir: Path, task: Task, counts: IntentCounts | None = None) -> None:
    """Writes a task into a model directory, with the counts of the plans it was trained on."""
    task.template.save(model_dir / PROMPT_FOLDER)
    with atomic_write(model_dir / LIBRARY_FILE) as temporary:
        text = yaml.safe_dump(task.library.model_dump(), sort_keys=False, allow_unicode=True)
        temporary.write_text(text, encoding="utf-8")
    known = {"max_length": task.max_length, "response": task.response}
    write_json(model_dir / TASK_FILE, {k: v for k, v in known.items() if v is not None})
    if counts is not None:
        counts.save(model_dir / COUNTS_FILE)


def load_task(
    model_dir: Path,
    *,
    template: str | None = None,
    library: str | None = None,
    max_length: int | None = None,
) -> Task:
    """The task of a model directory; what is named replaces it, what neither has is Amap's.

    Raises:
        GplanError: the template, the library, the length or the kind of response is broken.
    """
    stored = _stored(model_dir / TASK_FILE)
    if template is None and (model_dir / PROMPT_FOLDER).is_dir():
        template = str(model_dir / PROMPT_FOLDER)
    if library is None and (model_dir / LIBRARY_FILE).is_file():
        library = str(model_dir / LIBRARY_FILE)
    return Task(
        PromptTemplate.load(template or "amap_zh"),
        IntentLibrary.load(library),
        max_length or stored.get("max_length", DEFAULT_MAX_LENGTH),
        stored.get("response"),
    )


def _stored(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    task = read_json(path)
    length = task.get("max_length") if isinstance(task, dict) else None
    if not isinstance(length, int) or length < 1:
        raise GplanError(f"{path} must be a JSON object with max_length, a positive integer.")
    if task.get("response") not in (None, *get_args(Response)):
        raise GplanError(
            f"{path}: response is {task['response']!r}; it is {', '.join(get_args(Response))}, or "
            "left out where unknown."
        )
    return task
