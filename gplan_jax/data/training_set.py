"""Rows as a random-access training set: a row and a stage give token ids and sections."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from gplan_jax.data.encoding import ChatEncoder, EncodedResponse
from gplan_jax.data.pieces import (
    USER,
    Layout,
    last_stage,
    parts_of,
    response_layout,
    response_text,
    shown_blocks,
    whole_layout,
)
from gplan_jax.data.tasks.task import Example, Mode, Task
from gplan_jax.data.tokenized_rows import Kind, TokenizedRows, open_rows
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.objectives.curriculum import FORWARD, BlockOrder
from gplan_jax.reasoning import PLAN_SECTION, REASONING_SECTION, Prompt


@dataclass(frozen=True)
class TrainingSet:
    """Labelled rows, tokenized, with all that puts a prompt and a response together."""

    rows: TokenizedRows  # on disk; each has reasoning in CoT-SFT, PICD and ICoT
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
        cache: Path,
        order: BlockOrder = FORWARD,
        faulty: FaultyRows | None = None,
    ) -> TrainingSet:
        """Reads a data file and checks every row against the task and the mode.

        ``cache`` is the folder that keeps the token ids; where it has them, nothing is read again.
        """
        if mode.response == "latent":
            encoder.require_latents()
        rows = open_rows(
            path, cache, encoder=encoder, task=task, mode=mode, order=order, faulty=faulty
        )
        fit = [worded if mode.reads_reasoning else bool(names) for names, worded in rows.kinds]
        bare = len(rows) - int(np.asarray(fit)[rows.kinds_N].sum())
        if bare and mode is not Mode.DIRECT_SFT:
            raise GplanError(
                f"{path}: {bare} of {len(rows)} rows have an answer without the reasoning that "
                f"mode={mode} trains on. {task.reasoning_mend}"
            )
        return cls(rows, encoder, task, mode, order)

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def examples(self) -> Sequence[Example]:
        """The rows as they were read; each is read from disk when it is asked for."""
        return self.rows

    def row_id(self, row: int) -> str:
        """The id of a row, for messages."""
        return self.rows[row].id

    def content_digest(self) -> str:
        """A hash of the texts of every row that training depends on."""
        return self.rows.digest

    @property
    def most_blocks(self) -> int:
        """The most reasoning blocks of a row, 0 where responses hold none."""
        return max(len(names) for names, _ in self.rows.kinds) * self.mode.reads_reasoning

    def response_text(self, row: int, stage: int) -> str:
        """The response at compression stage g: blocks that ``order`` hides are latent or gone."""
        example = self.rows[row]
        shown = shown_blocks(self.mode, self.order, example.block_names, stage)
        return response_text(example, shown, self.encoder)

    @cached_property
    def constant_prompt(self) -> Prompt:
        """What all prompts have in common: their system part."""
        return Prompt(self.rows.system, "")

    @cached_property
    def prefix_ids(self) -> np.ndarray:
        """int32 [P]: what every row's prompt begins with, its system part."""
        return self.encoder.system_ids(self.constant_prompt)

    def tokenize(self, row: int, stage: int) -> tuple[np.ndarray, EncodedResponse]:
        """Prompt ids and response of a row at a stage, put together from the row's pieces.

        They are what tokenizing the whole texts gives; the prompt is the same at all stages.
        """
        pieces = self.rows.pieces(row)
        prompt_ids = self.encoder.around_user(
            self.constant_prompt, pieces[USER], max_length=self.task.most_prompt_tokens
        )
        layout = self._layout(self.rows.kinds[self.rows.kinds_N[row]], stage)
        *reasoning, plan = parts_of(layout, pieces)
        ids = np.concatenate([*reasoning, plan, [self.encoder.end_id]], dtype=np.int32)
        sections = np.full(len(ids), PLAN_SECTION, np.int8)
        sections[: len(ids) - len(plan) - 1] = REASONING_SECTION
        return prompt_ids, EncodedResponse(ids, sections)

    def lengths(self, stages: int) -> np.ndarray:
        """int32 [N, stages, 2]: tokens of prompt and of response for every row and stage."""
        lengths_NxP = self.rows.lengths_NxP
        table_NxGx2 = np.zeros((len(self), stages, 2), np.int32)
        constant = len(self.encoder.prompt_ids(self.constant_prompt, max_length=sys.maxsize))
        prompts_N = constant + lengths_NxP[:, USER]
        if self.task.cuts_prompts:
            prompts_N = prompts_N.clip(max=self.task.prompt_length)
        table_NxGx2[..., 0] = prompts_N[:, None]
        for number, kind in enumerate(self.rows.kinds):
            [alike] = np.nonzero(self.rows.kinds_N == number)
            for stage in range(stages):
                try:
                    layout = self._layout(kind, stage)
                except GplanError as error:  # its plan is longer than the latent vocabulary, say
                    name = self.row_id(int(alike[0]))
                    raise GplanError(f"The row with id {name}: {error}") from None
                places = [part for part in layout if isinstance(part, int)]
                constants = sum(len(part) for part in layout if not isinstance(part, int))
                tokens = lengths_NxP[alike[:, None], places].sum(axis=1) + constants
                table_NxGx2[alike, stage, 1] = tokens + 1  # the end token
        return table_NxGx2

    def _layout(self, kind: Kind, stage: int) -> Layout:
        """How the responses of a kind of rows are put together."""
        names, _ = kind
        stage = min(stage, last_stage(self.mode, self.order, len(names)))
        if self.rows.whole:
            return whole_layout(stage)
        return response_layout(self.encoder, shown_blocks(self.mode, self.order, names, stage))
