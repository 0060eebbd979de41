"""Rows as a random-access training set: a row and a stage give token ids and sections."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Iterator, Sequence
from dataclasses import astuple, dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from gplan_jax.data.batch_plan import cached_counts
from gplan_jax.data.encoding import ChatEncoder, EncodedResponse
from gplan_jax.data.tasks.task import Example, Mode, Task
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.progress import track
from gplan_jax.objectives.curriculum import FORWARD, BlockOrder
from gplan_jax.reasoning import write_response


@dataclass(frozen=True)
class TrainingSet:
    """Labelled rows with all that turns one into tokens. Pure: nothing is kept between calls."""

    examples: tuple[Example, ...]  # each has reasoning in CoT-SFT, PICD and ICoT
    encoder: ChatEncoder
    task: Task  # prompts, and what they are cut to; a response is never cut
    mode: Mode  # what responses hold
    order: BlockOrder = FORWARD  # in which blocks are hidden

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        encoder: ChatEncoder,
        task: Task,
        mode: Mode,
        order: BlockOrder = FORWARD,
        faulty: FaultyRows | None = None,
    ) -> TrainingSet:
        """Reads a data file and checks every row against the task and the mode."""
        if mode.response == "latent":
            encoder.require_latents()
        examples = tuple(task.read(path, encoder.latents, faulty))
        bare = sum(not (e.blocks if mode.reads_reasoning else e.block_names) for e in examples)
        if bare and mode is not Mode.DIRECT_SFT:
            raise GplanError(
                f"{path}: {bare} of {len(examples)} rows have an answer without the reasoning that "
                f"mode={mode} trains on. {task.reasoning_mend}"
            )
        return cls(examples, encoder, task, mode, order)

    def __len__(self) -> int:
        return len(self.examples)

    def row_id(self, row: int) -> str:
        """The id of a row, for messages."""
        return self.examples[row].id

    def contents(self) -> Iterator[list[str]]:
        """The texts of every row that training depends on."""
        for example in self.examples:
            yield [*astuple(example.context), self._spelt(example)]

    def blocks(self, row: int) -> int:
        """B: reasoning blocks of a row, 0 where responses hold none."""
        return len(self.examples[row].blocks) if self.mode.reads_reasoning else 0

    def response_text(self, row: int, stage: int) -> str:
        """The response at compression stage g: blocks that ``order`` hides are latent or gone."""
        example, latents = self.examples[row], self.encoder.latents
        hidden = self.order.hidden_blocks(stage, len(example.blocks))
        match self.mode:
            case Mode.DIRECT_SFT:
                return example.answer
            case Mode.PICD:
                return write_response(example.blocks, example.answer, latents, latent=hidden)
            case Mode.ICOT:
                left = [block for i, block in enumerate(example.blocks) if i not in hidden]
                return write_response(left, example.answer, latents)
            case Mode.PAUSE:
                pause = [(name, None) for name in example.block_names]
                return write_response(pause, example.answer, latents)
        return self._spelt(example)

    def _spelt(self, example: Example) -> str:
        return write_response(example.blocks, example.answer, self.encoder.latents)

    @cached_property
    def prefix_ids(self) -> np.ndarray:
        """int32 [P]: what every row's prompt begins with, its system part."""
        return self.encoder.system_ids(self.task.prompt(self.examples[0].context))

    def tokenize(self, row: int, stage: int) -> tuple[np.ndarray, EncodedResponse]:
        """Prompt ids and response of a row at a stage; the prompt is the same at all of them."""
        prompt_ids = self.task.prompt_ids(self.examples[row].context, self.encoder)
        return prompt_ids, self.encoder.response(self.response_text(row, stage))

    def lengths(self, stages: int, *, cache_dir: Path | None = None) -> np.ndarray:
        """int32 [N, stages, 2]: tokens of prompt and of response for every row and stage.

        ``cache_dir`` keeps the table, its prompts whole, under a hash of all it depends on.
        """
        settings = f"{self.mode}|{self.order}|whole|{stages}"
        digest = hashlib.sha256(f"{settings}|{self.encoder.fingerprint}".encode())
        for example in self.examples:
            prompt = self.task.prompt(example.context)
            digest.update(f"{prompt.system}\0{prompt.user}\0{self._spelt(example)}\0".encode())
        table_NxGx2 = cached_counts(
            cache_dir,
            f"lengths-{digest.hexdigest()[:16]}",
            lambda: [
                self._row_lengths(row, stages) for row in track(range(len(self)), "counting tokens")
            ],
        )
        if self.task.cuts_prompts:
            table_NxGx2[..., 0] = table_NxGx2[..., 0].clip(max=self.task.prompt_length)
        return table_NxGx2

    def _row_lengths(self, row: int, stages: int) -> Sequence[tuple[int, int]]:
        prompt = self.task.prompt(self.examples[row].context)
        whole = len(self.encoder.prompt_ids(prompt, max_length=sys.maxsize))
        changes = self.mode in (Mode.PICD, Mode.ICOT)
        last = self.order.last_stage(self.blocks(row)) if changes else 0
        try:
            texts = [self.response_text(row, stage) for stage in range(min(stages, last + 1))]
        except GplanError as error:  # its plan is longer than the latent vocabulary, say
            raise GplanError(f"The row with id {self.row_id(row)}: {error}") from None
        lengths = [(whole, len(self.encoder.response(text).ids)) for text in texts]
        # Once all blocks are hidden nothing changes any more.
        return lengths + lengths[-1:] * (stages - len(lengths))
