"""The task of a model, what it reads and writes, and how it is kept beside the model's weights.

MODEL/prompt/system.j2 and user.j2   the prompt template
MODEL/library.yaml                   the intent library
MODEL/task.json                      tokens of prompt and answer together, what responses hold
MODEL/intent_counts.json             counts of the training plans, for drafts; not needed otherwise
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, get_args

import yaml

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import atomic_write, read_json, write_json
from gplan_jax.gsisr import IntentLibrary, Prompt, PromptTemplate, Sample
from gplan_jax.gsisr.intent_counts import IntentCounts

PROMPT_FOLDER, LIBRARY_FILE, TASK_FILE = "prompt", "library.yaml", "task.json"
COUNTS_FILE = "intent_counts.json"
DEFAULT_MAX_LENGTH = 2048

Response = Literal["plan", "latent", "reasoning"]
"""What comes before the plan in a response: nothing, latent tokens, or reasoning in words."""


class Mode(StrEnum):
    """What training makes of a row: the plan alone, reasoning in words, or one that turns latent.

    Pause's responses have the latent tokens from the first epoch on: the same extra positions and
    the same answer as PICD's in the end, but no word of reasoning is ever seen (pause tokens: Goyal
    et al. 2024), so that what PICD gains beyond it is what the reasoning taught.
    SC-DPO's responses are fully latent; its rows are pairs, see ``preference_set``.
    """

    DIRECT_SFT = "direct_sft"
    COT_SFT = "cot_sft"
    PICD = "picd"
    PAUSE = "pause"
    SCDPO = "scdpo"

    @property
    def has_curriculum(self) -> bool:
        """Whether training goes through the stages of compression.

        Pause does so for the schedule's sake, though its responses are the same at all of them.
        """
        return self in (Mode.PICD, Mode.PAUSE)

    @property
    def response(self) -> Response:
        """What the responses of a trained model hold."""
        return {Mode.DIRECT_SFT: "plan", Mode.COT_SFT: "reasoning"}.get(self, "latent")  # type: ignore[return-value]


@dataclass(frozen=True)
class Task:
    """Prompt template, intent library, the tokens of prompt and answer together, and the responses.

    ``response`` is None where the model directory does not tell.
    """

    template: PromptTemplate
    library: IntentLibrary
    max_length: int = DEFAULT_MAX_LENGTH
    response: Response | None = None

    def prompt(self, sample: Sample) -> Prompt:
        """The prompt of a context."""
        return self.template.render(sample, self.library)


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
    """The task of a model directory; what is named replaces it, what neither has is Amap's."""
    path = model_dir / TASK_FILE
    stored: Any = read_json(path) if path.is_file() else {"max_length": DEFAULT_MAX_LENGTH}
    length = stored.get("max_length") if isinstance(stored, dict) else None
    if not isinstance(length, int) or length < 1:
        raise GplanError(f"{path} must be a JSON object with max_length, a positive integer.")
    if stored.get("response") not in (None, *get_args(Response)):
        raise GplanError(
            f"{path}: response is {stored['response']!r}; it is {', '.join(get_args(Response))}, "
            "or left out where unknown."
        )
    if template is None and (model_dir / PROMPT_FOLDER).is_dir():
        template = str(model_dir / PROMPT_FOLDER)
    if library is None and (model_dir / LIBRARY_FILE).is_file():
        library = str(model_dir / LIBRARY_FILE)
    return Task(
        PromptTemplate.load(template or "amap_zh"),
        IntentLibrary.load(library),
        max_length or length,
        stored.get("response"),
    )
