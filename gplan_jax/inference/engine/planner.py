"""The planner: contexts in, raw plan texts out, with the prompts the model was trained on."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.data.tasks.registry import load_task
from gplan_jax.data.tasks.task import Response, Task
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.gsisr import IntentLibrary, Sample
from gplan_jax.gsisr.intent_counts import IntentCounts
from gplan_jax.inference.engine import decoder_setup
from gplan_jax.inference.engine.best_plans import SearchRow
from gplan_jax.inference.engine.continuous import Prompted, decode_all
from gplan_jax.inference.engine.requests import DecodingMode, EngineConfig, PlanRequest, Weights
from gplan_jax.inference.grammar.plan_grammar import PlanGrammar
from gplan_jax.models import Qwen3
from gplan_jax.reasoning import Prompt

MAX_NEW_TOKENS = 512
_MOST_SLOTS = 256


@dataclass(frozen=True)
class Answer:
    """A model's whole text."""

    text: str
    # natural, of its decisions among what the grammar allows; None where it was decoded freely
    log_probability: float | None
    # of an answer among several: whether it is proven that none that lacks is likelier
    exact: bool | None = None


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
    best: int = 0  # likeliest whole plans to search for; 0 decodes token by token instead

    def __post_init__(self) -> None:
        if self.mode == "unconstrained" and (self.temperature > 0 or self.best):
            raise GplanError(
                "Temperature and best are for the constrained modes; decode with mode drafted."
            )
        if self.temperature > 0 and self.best:
            raise GplanError(
                "A search for the best plans draws nothing; leave out temperature or best."
            )

    @classmethod
    def load(
        cls,
        model_dir: str | Path,
        *,
        template: str | None = None,
        service: str | None = None,
        compute_dtype: str = "float32",
        weights: Weights = "stored",
        prompt_length: int | None = None,
        max_new_tokens: int | None = None,
        batch_size: int = 16,
        mode: DecodingMode = "unconstrained",
        response: Response | None = None,
        temperature: float = 0.0,
        seed: int = 0,
        best: int = 0,
    ) -> Planner:
        """Loads a model directory or a Hugging Face directory.

        Prompt template, service, the length of prompts and the form of responses are those that
        training stored in the directory; a directory without them needs a ``service``.

        Raises:
            GplanError: the directory, the template or the service is missing or broken.
        """
        folder = Path(model_dir)
        task = load_task(
            folder,
            template=template,
            service=service,
            prompt_length=prompt_length,
            response=response,
        )
        model = decoder_setup.load_weights(folder, weights, compute_dtype)
        return cls(
            model,
            ChatEncoder.load(folder),
            task,
            max_new_tokens=max_new_tokens or MAX_NEW_TOKENS,
            batch_size=batch_size,
            mode=mode,
            counts=decoder_setup.load_counts(folder),
            temperature=temperature,
            seed=seed,
            best=best,
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

    @cached_property
    def prompter(self) -> decoder_setup.Prompter:
        """What makes its prompts."""
        return decoder_setup.build_prompter(
            self.task, self.encoder, EngineConfig(prefix_cache_mib=0)
        )

    @cached_property
    def grammar(self) -> PlanGrammar | None:
        """The grammar of its answers, None where they are decoded freely."""
        if self.mode == "unconstrained":
            return None
        return decoder_setup.grammar_of(
            "this model", self.task.response, self.library, self.encoder
        )

    def generate(self, contexts: Sequence[Sample | Prompt]) -> list[str]:
        """Answers of the model, one text a context, in order; a progress bar counts them.

        Raises:
            GplanError: a prompt has no room, or the grammar can't be made.
        """
        if not contexts:
            return []
        prompts = [self.prompt(context, row) for row, context in enumerate(contexts)]
        with ProgressBar("planning", len(prompts)) as bar:
            answers = self.answers(prompts, contexts[0], on_row=lambda: bar.advance(steps=1))
        return [likeliest.text for likeliest, *_ in answers]

    def prompt(self, context: Sample | Prompt, row: int = 0) -> Prompted:
        """The prompt of a context, drawn for with the seed of its row, counted from 0."""
        seed = self.seed + row
        request = PlanRequest(context, temperature=self.temperature, seed=seed, best=self.best)
        return self.prompter.prompted(request)

    def answers(
        self, prompts: Sequence[Prompted], context: Sample | Prompt, *, on_row: Callable[[], None]
    ) -> list[list[Answer]]:
        """The answers to each prompt, likeliest first; several where ``best`` asks for them.

        The same prompts in the same order give the same answers to the last bit: nothing is kept
        from call to call. ``context`` is that of any of the prompts, which all begin alike.
        """
        grammar = self.grammar
        config = EngineConfig(
            mode=self.mode,
            slots=min(self.batch_size, len(prompts), _MOST_SLOTS),
            max_new_tokens=self.max_new_tokens,
            prefix_cache_mib=0,
        )
        # The drafts learn from the answers of this call alone.
        counts = copy.deepcopy(self.counts)
        parts = decoder_setup.Parts("planner", self.model, self.encoder, self.task, grammar, counts)
        decoder = decoder_setup.build_decoder(
            parts, config, self.prompter, prompts=prompts, sample=context, ahead=False
        )
        decode = self.encoder.decode
        answers = []
        for row in decode_all(decoder, prompts, on_row=on_row):
            if isinstance(row, SearchRow) and (found := row.found) is not None:
                answers.append(
                    [Answer(decode(p.tokens), p.score, found.exact) for p in found.plans]
                )
            else:
                log = row.log_probability if grammar else None
                answers.append([Answer(decode(row.response), log)])
        return answers
