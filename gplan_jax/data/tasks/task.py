"""What training, decoding and scoring know of a task, and what MODEL/task.json says of a model's.

A task turns rows into examples: a prompt, named reasoning blocks, an answer; and an answer of a
model into scores. GSISR is one, rows of text another (``registry``).
"""

from __future__ import annotations

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum
from pathlib import Path
from typing import Any, ClassVar, Literal, get_args

import numpy as np

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import read_json, write_json
from gplan_jax.reasoning import LatentVocabulary, Prompt

TASK_FILE, PROMPT_FOLDER = "task.json", "prompt"  # what a model directory keeps of its task
# Models of before 2026-12 keep the tokens of prompt and answer together (2,048 where nothing is
# kept); their prompts may have what `gplan serve` left them, and at least half.
OLD_MAX_LENGTH, OLD_RESPONSE_ROOM = 2048, 160

Response = Literal["plan", "latent", "reasoning"]
"""What comes before the answer in a response: nothing, latent tokens, or reasoning in words."""


class Mode(StrEnum):
    """What training makes of a row: the answer alone, reasoning in words, or one that turns latent.

    PAUSE has the latent tokens from the first epoch on: PICD's extra positions and final answer,
    but never a word of reasoning (Goyal et al. 2024), so what PICD gains beyond it is what the
    reasoning taught. ICOT's blocks vanish where PICD's turn latent (stepwise internalization: Deng
    et al. 2024, who remove tokens), until the response is the answer alone. SCDPO's rows are pairs
    of fully latent responses, see ``preference_set``.
    """

    DIRECT_SFT = "direct_sft"
    COT_SFT = "cot_sft"
    PICD = "picd"
    ICOT = "icot"
    PAUSE = "pause"
    SCDPO = "scdpo"

    @property
    def has_curriculum(self) -> bool:
        """Whether training goes through the stages of compression.

        Pause does so for the schedule's sake, though its responses are the same at all of them.
        """
        return self in (Mode.PICD, Mode.ICOT, Mode.PAUSE)

    @property
    def reads_reasoning(self) -> bool:
        """Whether the words of the reasoning are trained on, in some epochs at least."""
        return self in (Mode.COT_SFT, Mode.PICD, Mode.ICOT)

    @property
    def response(self) -> Response:
        if self in (Mode.DIRECT_SFT, Mode.ICOT):
            return "plan"
        return "reasoning" if self is Mode.COT_SFT else "latent"


@dataclass(frozen=True)
class Example:
    """A labelled row, checked."""

    id: str
    context: Any  # what its task makes the prompt of: a dataclass of texts
    blocks: tuple[tuple[str, str | None], ...]  # name and text; () where it has no reasoning
    # names of the blocks of its fully latent form, which may be known where no texts are
    block_names: tuple[str, ...]
    answer: str  # what follows the reasoning, in canonical writing

    @property
    def texts(self) -> tuple[Any, ...]:
        """What its context holds, field by field; what is empty beyond the texts is left out."""
        values = ((f, getattr(self.context, f.name)) for f in fields(self.context) if f.compare)
        return tuple(value for f, value in values if isinstance(value, str) or value)


@dataclass(frozen=True)
class ExamplePair:
    """Two contexts that want different answers."""

    key: str
    examples: tuple[Example, Example]
    changed: tuple[str, ...]  # what differs between the contexts, in words


@dataclass(frozen=True)
class RowScores:
    """A model's text against an example: measures in [0, 1], and what is wrong with it."""

    values: dict[str, float]
    latent_failure: str | None  # why it is not Latent-Valid, as ``code: detail``
    violations: tuple[tuple[str, str], ...] = ()  # tier and code of each broken rule


@dataclass(frozen=True)
class Task(ABC):
    """Rows -> examples -> prompts; a model's text -> scores. The same wherever a model is used."""

    # tokens of any prompt; a longer one loses the left of its user part, or is refused
    prompt_length: int = field(default=OLD_MAX_LENGTH - OLD_RESPONSE_ROOM, kw_only=True)
    # what responses hold; None where the model directory does not tell
    response: Response | None = field(default=None, kw_only=True)

    name: ClassVar[str]  # what ``data.task`` and task.json call it
    cuts_prompts: ClassVar[bool]
    reasoning_mend: ClassVar[str]  # what to do about rows that have no reasoning
    measures: ClassVar[tuple[str, ...]]  # of ``score``; a share of rows first

    @abstractmethod
    def read(
        self, path: str | Path, latents: LatentVocabulary, faulty: FaultyRows | None = None
    ) -> Iterator[Example]:
        """The examples of a file; RowError names what is wrong with one."""

    def read_pairs(
        self, path: str | Path, latents: LatentVocabulary, faulty: FaultyRows | None = None
    ) -> Iterator[ExamplePair]:
        """The pairs of contexts of a file, for SC-DPO; GplanError where the task has none."""
        raise GplanError(
            f"mode=scdpo prefers one of two plans of a pair of contexts, and data.task={self.name} "
            "has no pairs; choose another mode."
        )

    @abstractmethod
    def read_contexts(
        self, path: str | Path, faulty: FaultyRows, *, skip: int = 0
    ) -> Iterator[tuple[int, str, Any]]:
        """Number, id and context of a file's rows behind the first ``skip``; labels may lack."""

    @abstractmethod
    def context_of(self, texts: Sequence[Any]) -> Any:
        """A context from its ``Example.texts``."""

    @abstractmethod
    def prompt(self, context: Any) -> Prompt:
        """The prompt of an example's context."""

    @property
    def prompt_sources(self) -> list[Any]:
        """All that prompts depend on beside the rows."""
        return []

    @property
    def has_latents(self) -> bool:
        """Whether responses should begin with latent tokens, or the model doesn't tell."""
        return self.response in ("latent", None)

    @abstractmethod
    def score(self, text: str, example: Example, encoder: ChatEncoder) -> RowScores:
        """What a model's whole text is worth."""

    @abstractmethod
    def read_answer(self, text: str, encoder: ChatEncoder) -> dict[str, Any]:
        """What a model's whole text holds, as columns of a file of answers."""

    @property
    def most_prompt_tokens(self) -> int:
        return self.prompt_length if self.cuts_prompts else sys.maxsize

    def prompt_ids(self, context: Any, encoder: ChatEncoder) -> np.ndarray:
        """int32 [P]: tokens of a context's prompt, cut to ``prompt_length`` where prompts are."""
        return encoder.prompt_ids(self.prompt(context), max_length=self.most_prompt_tokens)

    def save(self, model_dir: Path, examples: Iterable[Example] = ()) -> None:
        """Writes the task beside a model's weights, with what is kept of its training rows."""
        known = {"task": self.name, "prompt_length": self.prompt_length, "response": self.response}
        write_json(model_dir / TASK_FILE, {k: v for k, v in known.items() if v is not None})


def read_task_file(model_dir: Path) -> tuple[str, int, Response | None]:
    """Name, length of prompts and responses of a model's task, GSISR's where it has no file."""
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
    return stored.get("task", "gsisr"), length, stored.get("response")
