"""The planner: contexts in, raw plan texts out, with the prompts the model was trained on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import jax.numpy as jnp

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.data.tasks.registry import load_task
from gplan_jax.data.tasks.task import Response, Task
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.gsisr import IntentLibrary, Sample
from gplan_jax.gsisr.intent_counts import IntentCounts
from gplan_jax.inference.engine.beam import beam_search
from gplan_jax.inference.engine.continuous import decode_all
from gplan_jax.inference.engine.decoder_setup import (
    Parts,
    build_decoder,
    build_prompter,
    grammar_of,
    load_counts,
)
from gplan_jax.inference.engine.programs import Programs, shapes_of
from gplan_jax.inference.engine.requests import DecodingMode, EngineConfig, PlanRequest
from gplan_jax.inference.engine.sequences import longest_response
from gplan_jax.models import Qwen3, load_qwen3
from gplan_jax.reasoning import Prompt

MAX_NEW_TOKENS = 512
_MOST_SLOTS = 256


@dataclass(frozen=True)
class Planner:
    """A model with all that turns a row into a prompt and its answer back into text."""

    model: Qwen3
    encoder: ChatEncoder
    task: Task
    max_new_tokens: int = MAX_NEW_TOKENS  # tokens an answer may have
    batch_size: int = 16  # rows decoded together; no more than 256 are
    # "unconstrained" is plain greedy decoding; the other modes follow the plan grammar, and
    # "drafted" takes fewer passes to the same tokens
    mode: DecodingMode = "unconstrained"
    counts: IntentCounts = field(default_factory=IntentCounts)  # of training plans, for the drafts
    # see ``PlanRequest``; row i is drawn with seed + i
    temperature: float = 0.0
    seed: int = 0
    beams: int = 1  # beginnings that a beam search keeps; 1 searches none

    def __post_init__(self) -> None:
        if self.mode == "unconstrained" and (self.temperature > 0 or self.beams > 1):
            raise GplanError(
                "Temperature and beams are for the constrained modes; decode with mode drafted."
            )
        if self.temperature > 0 and self.beams > 1:
            raise GplanError("A beam search draws nothing; leave out temperature or beams.")

    @classmethod
    def load(
        cls,
        model_dir: str | Path,
        *,
        template: str | None = None,
        library: str | None = None,
        compute_dtype: str = "float32",
        prompt_length: int | None = None,
        max_new_tokens: int | None = None,
        batch_size: int = 16,
        mode: DecodingMode = "unconstrained",
        response: Response | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        beams: int = 1,
    ) -> Planner:
        """Loads a model directory or a Hugging Face directory.

        Prompt template, intent library, the length of prompts and the form of responses are those
        that training stored in the directory, unless others are given; a directory without them
        gets the shipped Amap ones.

        Raises:
            GplanError: the directory, the template or the library is missing or broken.
        """
        folder = Path(model_dir)
        task = load_task(
            folder,
            template=template,
            library=library,
            prompt_length=prompt_length,
            response=response,
        )
        model = load_qwen3(folder, compute_dtype=jnp.dtype(compute_dtype))
        return cls(
            model,
            ChatEncoder.load(folder),
            task,
            max_new_tokens=max_new_tokens or MAX_NEW_TOKENS,
            batch_size=batch_size,
            mode=mode,
            counts=load_counts(folder),
            temperature=temperature,
            seed=seed,
            beams=beams,
        )

    @property
    def library(self) -> IntentLibrary:
        """The intent library of its plans; GplanError where its task has none."""
        if not isinstance(self.task, GsisrTask):
            raise GplanError(
                f"This is a model of the task {self.task.name}, which has no plans, library or "
                f"grammar; `gplan evaluate` scores it by {', '.join(self.task.measures)}."
            )
        return self.task.library

    def generate(self, samples: Sequence[Sample | Prompt]) -> list[str]:
        """Answers of the model, one text a sample, in order; a progress bar counts them.

        Raises:
            GplanError: a prompt has no room, or the grammar can't be made.
        """
        if not samples:
            return []
        grammar = None
        if self.mode != "unconstrained":
            grammar = grammar_of("this model", self.task.response, self.library, self.encoder)
        parts = Parts("planner", self.model, self.encoder, self.task, grammar, self.counts)
        config = EngineConfig(
            mode=self.mode,
            slots=min(self.batch_size, len(samples), _MOST_SLOTS),
            max_new_tokens=self.max_new_tokens,
            prefix_cache_mib=0,
        )
        prompter = build_prompter(self.task, self.encoder, config)
        prompts = [
            prompter.prompted(PlanRequest(sample, temperature=self.temperature, seed=seed))
            for seed, sample in enumerate(samples, start=self.seed)
        ]

        if self.beams == 1 or grammar is None:
            decoder = build_decoder(
                parts, config, prompter, prompts=prompts, sample=samples[0], ahead=False
            )
            with ProgressBar("planning", len(prompts)) as bar:
                rows = decode_all(decoder, prompts, on_row=lambda: bar.advance(steps=1))
            return [self.encoder.decode(row.response) for row in rows]

        # A beam search runs one prompt at a time, all its beginnings as one tree.
        system = prompter.system_ids(samples[0])
        shapes = shapes_of(
            prompt=self.task.prompt_length - len(system),
            tail=0,
            response=2 * self.beams * longest_response(grammar),  # trees go up to a power of two
            slots=1,
            nodes=1,
            queries=1,
        )
        programs = Programs(
            self.model,
            system,
            shapes,
            vocabulary=self.encoder.vocabulary_size,
            grammar=grammar,
            pages=False,
            ahead=False,
        )
        texts = []
        with ProgressBar("planning", len(prompts)) as bar:
            for prompt in prompts:
                ids = prompt.ids[len(system) :]
                best = beam_search(programs, grammar, ids, beams=self.beams)
                texts.append(self.encoder.decode(best.tokens))
                bar.advance(steps=1)
        return texts
