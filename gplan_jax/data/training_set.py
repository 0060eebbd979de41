"""Rows as a random-access training set: a row and a stage give token ids and sections."""

from __future__ import annotations

import sys
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from gplan_jax.data.encoding import ChatEncoder, EncodedResponse
from gplan_jax.data.pieces import USER, parts_of, response_layout, response_text, shown_blocks
from gplan_jax.data.tasks.task import Mode, Task
from gplan_jax.data.tokenized_rows import TokenizedRows, open_rows
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.objectives.curriculum import FORWARD, BlockOrder
from gplan_jax.reasoning import PLAN_SECTION, REASONING_SECTION, Prompt


@dataclass(frozen=True)
class TrainingSet:
    """Labelled rows, tokenized, with all that puts a prompt and a response together."""

    examples: TokenizedRows  # on disk; each has reasoning in CoT-SFT, PICD and ICoT
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
        faulty = faulty or FaultyRows()
        rows = open_rows(path, cache, encoder=encoder, task=task, faulty=faulty)
        fit = [worded if mode.reads_reasoning else bool(names) for names, worded, _ in rows.kinds]
        bare = len(rows) - int(np.asarray(fit)[rows.kinds_N].sum())
        if bare and mode is not Mode.DIRECT_SFT:
            raise GplanError(
                f"{path}: {bare} of {len(rows)} rows have an answer without the reasoning that "
                f"mode={mode} trains on. {task.reasoning_mend}"
            )
        return cls(rows, encoder, task, mode, order)

    def __len__(self) -> int:
        return len(self.examples)

    def row_id(self, row: int) -> str:
        return self.examples[row].id

    def content_digest(self) -> str:
        """A hash of the texts of every row that training depends on."""
        return self.examples.digest

    @property
    def most_blocks(self) -> int:
        """The most reasoning blocks of a row, 0 where responses hold none."""
        return max(len(names) for names, *_ in self.examples.kinds) * self.mode.reads_reasoning

    def response_text(self, row: int, stage: int) -> str:
        """The response at compression stage g: blocks that ``order`` hides are latent or gone."""
        example = self.examples[row]
        shown = shown_blocks(self.mode, self.order, example.block_names, stage)
        return response_text(example, shown, self.encoder)

    @cached_property
    def first_prompt(self) -> Prompt:
        """The prompt of the first row; all have its system part."""
        return self.task.prompt(self.examples[0].context)

    @cached_property
    def prefix_ids(self) -> np.ndarray:
        """int32 [P]: what every row's prompt begins with, its system part."""
        return self.encoder.system_ids(self.first_prompt)

    def tokenize(self, row: int, stage: int) -> tuple[np.ndarray, EncodedResponse]:
        """Prompt ids and response of a row at a stage, put together from the row's pieces.

        They are what tokenizing the whole texts gives; the prompt is the same at all stages.
        """
        pieces = self.examples.pieces(row)
        prompt_ids = self.encoder.around_user(
            self.first_prompt, pieces[USER], max_length=self.task.most_prompt_tokens
        )
        names, _, cut = self.examples.kinds[self.examples.kinds_N[row]]
        if not cut:
            return prompt_ids, self.encoder.response(self.response_text(row, stage))
        shown = shown_blocks(self.mode, self.order, names, stage)
        *reasoning, plan = parts_of(response_layout(self.encoder, shown), pieces)
        ids = np.concatenate([*reasoning, plan, [self.encoder.end_id]], dtype=np.int32)
        sections = np.full(len(ids), PLAN_SECTION, np.int8)
        sections[: len(ids) - len(plan) - 1] = REASONING_SECTION
        return prompt_ids, EncodedResponse(ids, sections)

    def lengths(self, stages: int) -> np.ndarray:
        """int32 [N, stages, 2]: tokens of prompt and of response for every row and stage."""
        lengths_NxP, kinds_N = self.examples.lengths_NxP, self.examples.kinds_N
        table_NxGx2 = np.zeros((len(self), stages, 2), np.int32)
        no_user = np.zeros(0, np.int32)
        constant = len(self.encoder.around_user(self.first_prompt, no_user, max_length=sys.maxsize))
        table_NxGx2[..., 0] = constant + lengths_NxP[:, USER, None]
        if self.task.cuts_prompts:
            table_NxGx2[..., 0] = table_NxGx2[..., 0].clip(max=self.task.prompt_length)
        for number, (names, _, cut) in enumerate(self.examples.kinds):
            [alike_M] = np.nonzero(kinds_N == number)
            for stage in range(stages):
                shown = shown_blocks(self.mode, self.order, names, stage)
                try:
                    layout = response_layout(self.encoder, shown)
                except GplanError as error:  # its plan is longer than the latent vocabulary, say
                    name = self.row_id(int(alike_M[0]))
                    raise GplanError(f"The row with id {name}: {error}") from None
                if cut:
                    places = [part for part in layout if isinstance(part, int)]
                    constants = sum(len(part) for part in layout if not isinstance(part, int))
                    tokens_M = lengths_NxP[alike_M[:, None], places].sum(axis=1) + constants + 1
                else:
                    responses = (self.tokenize(row, stage)[1] for row in alike_M.tolist())
                    tokens_M = np.asarray([len(response.ids) for response in responses])
                table_NxGx2[alike_M, stage, 1] = tokens_M  # the end token among them
        return table_NxGx2
