"""Rows as a random-access training set: a row and a stage give token ids and sections."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

import numpy as np

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import atomic_write
from gplan_jax.foundation.progress import track
from gplan_jax.gsisr import (
    IntentLibrary,
    Prompt,
    PromptTemplate,
    Sample,
    canonical_plan,
    parse_label,
)
from gplan_jax.reasoning import block_count, compress_response


class Mode(StrEnum):
    """What a response holds: the plan alone, explicit reasoning, or reasoning that turns latent."""

    DIRECT_SFT = "direct_sft"
    COT_SFT = "cot_sft"
    PICD = "picd"


@dataclass(frozen=True)
class TokenizedSample:
    """One sample at one stage: prompt ids, response ids and the section of each response token."""

    prompt_ids: np.ndarray
    response_ids: np.ndarray
    response_sections: np.ndarray


@dataclass(frozen=True)
class TrainingSet:
    """Labelled rows with all that turns one into tokens. Pure: nothing is kept between calls.

    Attributes:
        samples: rows whose ``raw_labels`` hold a plan, and a reasoning trace unless the mode is
            Direct-SFT.
        mode: what responses hold.
        max_length: tokens of prompt and response together; only the prompt is ever cut.
    """

    samples: tuple[Sample, ...]
    encoder: ChatEncoder
    template: PromptTemplate
    library: IntentLibrary
    mode: Mode
    max_length: int

    @classmethod
    def build(
        cls,
        samples: Sequence[Sample],
        *,
        source: str | Path,
        encoder: ChatEncoder,
        template: PromptTemplate,
        library: IntentLibrary,
        mode: Mode,
        max_length: int,
    ) -> TrainingSet:
        """Checks every label against the library and the mode, then wraps the rows.

        Raises:
            RowError: a label is missing, broken, uses a tool outside the library, or lacks the
                trace that the mode trains on.
            GplanError: there are no rows, or PICD meets a tokenizer without latent tokens.
        """
        if not samples:
            raise GplanError(f"{source} holds no rows to train on.")
        if mode is Mode.PICD:
            encoder.require_latents()
        for row, sample in enumerate(samples, start=1):
            label = parse_label(sample, library, where=(source, row))
            if mode is not Mode.DIRECT_SFT and label.trace is None:
                raise GplanError(
                    f"{source}, row {row}, column raw_labels: the plan has no reasoning, which "
                    f"mode {mode} trains on. Write it with `gplan explain --data {source}`."
                )
        return cls(tuple(samples), encoder, template, library, mode, max_length)

    def __len__(self) -> int:
        return len(self.samples)

    def blocks(self, row: int) -> int:
        """B: reasoning blocks of a row, 0 where responses hold none."""
        if self.mode is Mode.DIRECT_SFT:
            return 0
        return block_count(self.samples[row].raw_labels)

    def response_text(self, row: int, stage: int) -> str:
        """The response at compression stage g: its first min(g, B) blocks are latent."""
        label = self.samples[row].raw_labels
        if self.mode is Mode.DIRECT_SFT:
            return canonical_plan(parse_label(self.samples[row], self.library).plan)
        blocks = min(stage, block_count(label)) if self.mode is Mode.PICD else 0
        return compress_response(label, blocks, self.encoder.latents)

    def prompt(self, row: int) -> Prompt:
        """The prompt of a row; it is the same at every stage."""
        return self.template.render(self.samples[row], self.library)

    def tokenize(self, row: int, stage: int) -> TokenizedSample:
        """Token ids of a row at a stage; the prompt is cut so that both fit in ``max_length``.

        Raises:
            GplanError: the response leaves no room for the prompt's constant part.
        """
        response = self.encoder.response(self.response_text(row, stage))
        prompt_ids = self.encoder.prompt_ids(
            self.prompt(row), max_length=self.max_length - len(response.ids)
        )
        return TokenizedSample(prompt_ids, response.ids, response.sections)

    def lengths(self, stages: int, *, cache_dir: Path | None = None) -> np.ndarray:
        """int32 [N, stages, 2]: tokens of prompt and of response for every row and stage.

        Counted once; ``cache_dir`` keeps the table under a hash of everything it depends on.
        """
        path = cache_dir / f"lengths-{self._fingerprint(stages)}.npy" if cache_dir else None
        if path and path.is_file():
            return np.load(path)
        table = np.zeros((len(self), stages, 2), np.int32)
        for row in track(range(len(self)), "counting tokens"):
            prompt = self.prompt(row)
            last = self.blocks(row) if self.mode is Mode.PICD else 0
            for stage in range(stages):
                if stage > last:  # fully latent: nothing changes any more
                    table[row, stage] = table[row, stage - 1]
                    continue
                response = self.encoder.response(self.response_text(row, stage))
                room = self.max_length - len(response.ids)
                prompt_ids = self.encoder.prompt_ids(prompt, max_length=room)
                table[row, stage] = len(prompt_ids), len(response.ids)
        if path:
            with atomic_write(path) as temporary, temporary.open("wb") as out:
                np.save(out, table)
        return table

    def _fingerprint(self, stages: int) -> str:
        digest = hashlib.sha256(f"{self.mode}|{self.max_length}|{stages}".encode())
        digest.update(self.encoder.fingerprint.encode())
        for row, sample in enumerate(self.samples):
            prompt = self.prompt(row)
            digest.update(f"{prompt.system}|{prompt.user}|{sample.raw_labels}".encode())
        return digest.hexdigest()[:16]
