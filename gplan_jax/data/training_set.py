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
from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.task_files import Mode, Task
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.progress import track
from gplan_jax.gsisr import Label, Plan, Sample, canonical_plan, read_labelled_samples
from gplan_jax.reasoning import compress_response, latent_prefix


@dataclass(frozen=True)
class TokenizedSample:
    """One sample at one stage: prompt ids, response ids and the section of each response token."""

    prompt_ids: np.ndarray
    response_ids: np.ndarray
    response_sections: np.ndarray


@dataclass(frozen=True)
class TrainingSet:
    """Labelled rows with all that turns one into tokens. Pure: nothing is kept between calls."""

    samples: tuple[Sample, ...]
    labels: tuple[Label, ...]  # checked; each has a trace in CoT-SFT and PICD
    encoder: ChatEncoder
    task: Task  # prompts, what they are cut to, and library; a response is never cut
    mode: Mode  # what responses hold

    @classmethod
    def read(
        cls,
        path: str | Path,
        *,
        encoder: ChatEncoder,
        task: Task,
        mode: Mode,
        faulty: FaultyRows | None = None,
    ) -> TrainingSet:
        """Reads a data file and checks every label against the library and the mode."""
        if mode.has_curriculum:
            encoder.require_latents()
        pairs = read_labelled_samples(path, task.library, vocabulary=encoder.latents, faulty=faulty)
        samples, labels = zip(*pairs, strict=True)
        bare = sum(label.trace is None for label in labels)
        if bare and mode in (Mode.COT_SFT, Mode.PICD):
            raise GplanError(
                f"{path}: {bare} of {len(labels)} rows have a plan without the reasoning that "
                f"mode={mode} trains on. Write it with `gplan explain --data {path} --out FILE`."
            )
        return cls(samples, labels, encoder, task, mode)

    def __len__(self) -> int:
        return len(self.samples)

    def row_id(self, row: int) -> str:
        """The id of a row, for messages."""
        return self.samples[row].id

    def contents(self) -> Iterator[list[str]]:
        """The texts of every row that training depends on."""
        for sample, label in zip(self.samples, self.labels, strict=True):
            yield [*astuple(sample), label.text]

    def plans(self) -> Iterator[tuple[Sample, Plan]]:
        """Every row's context and plan."""
        for sample, label in zip(self.samples, self.labels, strict=True):
            yield sample, label.plan

    def blocks(self, row: int) -> int:
        """B: reasoning blocks of a row, 0 where responses hold none."""
        trace = self.labels[row].trace
        return len(trace.blocks) if trace and self.mode in (Mode.COT_SFT, Mode.PICD) else 0

    def response_text(self, row: int, stage: int) -> str:
        """The response at compression stage g: its first min(g, B) blocks are latent."""
        label = self.labels[row]
        if self.mode in (Mode.DIRECT_SFT, Mode.PAUSE):
            plan = canonical_plan(label.plan, self.task.library)
            if self.mode is Mode.DIRECT_SFT:
                return plan
            return latent_prefix(self.encoder.latents, len(label.plan)) + plan
        blocks = min(stage, self.blocks(row)) if self.mode is Mode.PICD else 0
        return compress_response(label.text, blocks, self.encoder.latents)

    @cached_property
    def prefix_ids(self) -> np.ndarray:
        """int32 [P]: what every row's prompt begins with, its system part."""
        return self.encoder.system_ids(self.task.prompt(self.samples[0]))

    def tokenize(self, row: int, stage: int) -> TokenizedSample:
        """Token ids of a row at a stage; the prompt is the same at all of them."""
        response = self.encoder.response(self.response_text(row, stage))
        prompt_ids = self.task.prompt_ids(self.samples[row], self.encoder)
        return TokenizedSample(prompt_ids, response.ids, response.sections)

    def lengths(self, stages: int, *, cache_dir: Path | None = None) -> np.ndarray:
        """int32 [N, stages, 2]: tokens of prompt and of response for every row and stage.

        ``cache_dir`` keeps the table, its prompts whole, under a hash of all it depends on.
        """
        digest = hashlib.sha256(f"{self.mode}|whole|{stages}".encode())
        digest.update(self.encoder.fingerprint.encode())
        for sample, label in zip(self.samples, self.labels, strict=True):
            prompt = self.task.prompt(sample)
            digest.update(f"{prompt.system}\0{prompt.user}\0{label.text}\0".encode())
        table_NxGx2 = cached_counts(
            cache_dir,
            f"lengths-{digest.hexdigest()[:16]}",
            lambda: [
                self._row_lengths(row, stages) for row in track(range(len(self)), "counting tokens")
            ],
        )
        table_NxGx2[..., 0] = table_NxGx2[..., 0].clip(max=self.task.prompt_length)
        return table_NxGx2

    def _row_lengths(self, row: int, stages: int) -> Sequence[tuple[int, int]]:
        prompt = self.task.prompt(self.samples[row])
        whole = len(self.encoder.prompt_ids(prompt, max_length=sys.maxsize))
        last = self.blocks(row) if self.mode is Mode.PICD else 0
        try:
            texts = [self.response_text(row, stage) for stage in range(min(stages, last + 1))]
        except GplanError as error:  # its plan is longer than the latent vocabulary, say
            raise GplanError(f"The row with id {self.row_id(row)}: {error}") from None
        lengths = [(whole, len(self.encoder.response(text).ids)) for text in texts]
        # Once a response is fully latent nothing changes any more.
        return lengths + lengths[-1:] * (stages - len(lengths))
