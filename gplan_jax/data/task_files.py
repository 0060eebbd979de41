"""The task of a model, what it reads and writes, and how it is kept beside the model's weights.

MODEL/prompt/system.j2 and user.j2   the prompt template
MODEL/library.yaml                   the intent library
MODEL/task.json                      tokens that a prompt may have, what responses hold
MODEL/intent_counts.json             counts of the training plans, for drafts; not needed otherwise
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import yaml

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import atomic_write, read_json, write_json
from gplan_jax.gsisr import IntentLibrary, Prompt, PromptTemplate, Sample
from gplan_jax.gsisr.intent_counts import IntentCounts

PROMPT_FOLDER, LIBRARY_FILE, TASK_FILE = "prompt", "library.yaml", "task.json"
COUNTS_FILE = "intent_counts.json"
# Models of before 2026-12 keep the tokens of prompt and answer together (2,048 where nothing is
# kept); their prompts may have what `gplan serve` left them, and at least half.
OLD_MAX_LENGTH, OLD_RESPONSE_ROOM = 2048, 160

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
    """What a model reads and writes, the same in training, evaluation and serving.

    ``response`` is None where the model directory does not tell.
    """

    template: PromptTemplate
    library: IntentLibrary
    # tokens of any prompt; a longer one loses the left of its user part
    prompt_length: int = OLD_MAX_LENGTH - OLD_RESPONSE_ROOM
    response: Response | None = None

    def prompt(self, sample: Sample) -> Prompt:
        """The prompt of a context."""
        return self.template.render(sample, self.library, self.response)

    def prompt_ids(self, sample: Sample, encoder: ChatEncoder) -> np.ndarray:
        """int32 [P]: tokens of a context's prompt, at most ``prompt_length`` of them."""
        return encoder.prompt_ids(self.prompt(sample), max_length=self.prompt_length)


def save_task(model_dir: Path, task: Task, counts: IntentCounts | None = None) -> None:
    """Writes a task into a model directory, with the counts of the plans it was trained on."""
    task.template.save(model_dir / PROMPT_FOLDER)
    with atomic_write(model_dir / LIBRARY_FILE) as temporary:
        text = yaml.safe_dump(task.library.model_dump(), sort_keys=False, allow_unicode=True)
        temporary.write_text(text, encoding="utf-8")
    known = {"prompt_length": task.prompt_length, "response": task.response}
    write_json(model_dir / TASK_FILE, {k: v for k, v in known.items() if v is not None})
    if counts is not None:
        counts.save(model_dir / COUNTS_FILE)


def load_task(
    model_dir: Path,
    *,
    template: str | None = None,
    library: str | None = None,
    prompt_length: int | None = None,
    response: Response | None = None,
) -> Task:
    """The task of a model directory; what is named replaces it, what neither has is Amap's."""
    path = model_dir / TASK_FILE
    stored: Any = read_json(path) if path.is_file() else {"max_length": OLD_MAX_LENGTH}
    length = None
    if isinstance(stored, dict):
        length = stored.get("prompt_length", stored.get("max_length"))
    if not isinstance(length, int) or length < 1:
        raise GplanError(f"{path} must be a JSON object with prompt_length, a positive integer.")
    if "prompt_length" not in stored:
        length = max(length - OLD_RESPONSE_ROOM, -(-length // 2))
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
        prompt_length or length,
        response or stored.get("response"),
    )
