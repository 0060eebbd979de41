"""From a model directory and options to a decoder, and from contexts to its prompts.

What a user made of earlier plans is the state of the grammar that the next one begins in: accepted
intents are no decision any more, their tokens are forced, in front of all that the model decides.
Dismissed ones are closed, as if the plan held them already. So nothing is trained, and the tokens
are those of greedy (or drawn, or best) decoding among the plans that are left.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax.numpy as jnp
from jax.typing import DTypeLike

from gplan_jax.data.batch_plan import round_up
from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.gsisr_task import COUNTS_FILE, GsisrTask
from gplan_jax.data.tasks.task import Response, Task
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample
from gplan_jax.gsisr.context_pairs import SPATIOTEMPORAL_COLUMNS
from gplan_jax.gsisr.facts import ORDER_TIMES, REQUEST_TIME
from gplan_jax.gsisr.intent_counts import IntentCounts, context_key
from gplan_jax.inference.engine.continuous import ContinuousDecoder, Prompted
from gplan_jax.inference.engine.programs import PAGE, Programs, Shapes, shapes_of
from gplan_jax.inference.engine.requests import BadOption, EngineConfig, PlanRequest, Weights
from gplan_jax.inference.engine.sequences import longest_prefix, longest_response
from gplan_jax.inference.grammar.drafts import DraftModel
from gplan_jax.inference.grammar.plan_grammar import GrammarState, PlanGrammar
from gplan_jax.models import Qwen3, Qwen3Config, load_qwen3
from gplan_jax.models.layers.projection import round_layers
from gplan_jax.models.qwen3.model import abstract_qwen3
from gplan_jax.reasoning import Prompt

# What a prefill verifies of a response at most, a latent prefix not counted.
START_TOKENS, START_DECISIONS = 64, 16
SEARCH_NODES = 64  # tokens of a pass for each row of a file whose best plans are searched for
_TRIGGER_COLUMNS = tuple(f"trigger_{number}" for number in range(1, 8))
_TIMES = ("2000-01-01 00:00:00", "2001-12-31 12:59:59")
_TIME_COLUMNS = (REQUEST_TIME, *ORDER_TIMES)
MOMENT_COLUMNS = (*SPATIOTEMPORAL_COLUMNS, *_TRIGGER_COLUMNS)  # the others are the user's own


@dataclass(frozen=True)
class Parts:
    """A model with what it reads and writes."""

    name: str  # for messages and answers
    model: Qwen3
    encoder: ChatEncoder
    task: Task
    grammar: PlanGrammar | None  # of its responses; None where they are not constrained
    counts: IntentCounts  # of the plans it was trained on; empty where they are not known


def load_parts(
    model_dir: Path, config: EngineConfig, *, shape: Qwen3Config | None = None, **prompts: Any
) -> Parts:
    """Loads a model directory; see ``PlanEngine.load``. With a ``shape`` the model is one of shapes
    alone, and no weights are read.
    """
    task = GsisrTask.load(model_dir, response=config.response, **prompts)
    encoder = ChatEncoder.load(model_dir)
    grammar = None
    if config.mode != "unconstrained":
        grammar = grammar_of(model_dir.name, task.response, task.library, encoder)
    dtype = config.compute_dtype
    model = load_weights(shape or model_dir, config.weights, dtype, stored=dtype)
    return Parts(model_dir.name, model, encoder, task, grammar, load_counts(model_dir))


def load_weights(
    source: Path | Qwen3Config,
    weights: Weights,
    compute_dtype: str,
    *,
    stored: DTypeLike | None = None,
) -> Qwen3:
    """The model of a directory, or of shapes alone, with weights held as a user says.

    "stored" holds them in the dtype ``stored`` (None: as on disk), "bf16" in bfloat16; "int8" and
    "fp8" round the layers' matrices (``round_layers``).
    """
    dtype = jnp.bfloat16 if weights == "bf16" else stored
    if isinstance(source, Qwen3Config):
        model = abstract_qwen3(source, dtype or compute_dtype)
    else:
        model = load_qwen3(source, param_dtype=dtype)
    model.compute_dtype = jnp.dtype(compute_dtype)
    if weights in ("int8", "fp8"):
        round_layers(model, weights)
    return model


def load_counts(model_dir: Path) -> IntentCounts:
    """The counts of a model's training plans; empty ones where the directory has none."""
    path = model_dir / COUNTS_FILE
    return IntentCounts.load(path) if path.is_file() else IntentCounts()


def grammar_of(
    name: str, response: Response | None, library: IntentLibrary, encoder: ChatEncoder
) -> PlanGrammar:
    """The grammar of a model's responses; GplanError where none describes or compiles them."""
    if response is None:
        raise GplanError(
            f"{name} does not say what its responses hold (older models don't); name it with "
            "--response plan (Direct-SFT) or --response latent (PICD, SC-DPO), or decode without "
            "the grammar (--mode unconstrained)."
        )
    if response == "reasoning":
        raise GplanError(
            f"The responses of {name} hold reasoning in words, which no grammar describes; decode "
            "without it (--mode unconstrained)."
        )
    if response == "latent":
        encoder.require_latents()
    return PlanGrammar.compile(library, encoder, response)


@dataclass(frozen=True)
class Prompter:
    """All that turns a request into a prompt."""

    encoder: ChatEncoder
    task: Task
    # whether to find out what the user's next prompt shares with this one, which costs a second
    # rendering
    find_shared: bool = True

    def prompted(self, request: PlanRequest) -> Prompted:
        """The prompt of a request; GplanError where a time or the template is at fault, BadOption
        where a whole prompt is not one of this model.
        """
        sample, shared, known = request.sample, 0, tuple[str, ...]()
        ids = self._given_ids(sample) if isinstance(sample, str | tuple) else self._ids(sample)
        if isinstance(sample, Sample):
            known = context_key(sample)
            shared = self._shared(sample, ids) if self.find_shared else 0
        return Prompted(ids, shared, known, request.temperature, request.seed, request.best)

    def _given_ids(self, prompt: str | tuple[int, ...]) -> list[int]:
        """The tokens of a whole prompt, which has to begin with the system prompt."""
        any_prompt, most = self.task.prompt(any_context(self.task)), self.task.most_prompt_tokens
        mend = "is not in the chat layout of this model's prompts, with its system part."
        if isinstance(prompt, str):
            if (read := self.encoder.read_prompt(prompt, any_prompt.system)) is None:
                raise BadOption("prompt", mend)
            return [int(token) for token in self.encoder.prompt_ids(read, max_length=most)]
        head = [int(token) for token in self.encoder.system_ids(any_prompt)]
        if [*prompt[: len(head)]] != head:
            raise BadOption("prompt", mend)
        if not len(head) < len(prompt) <= most:
            raise BadOption("prompt", f"has {len(prompt)} tokens, not {len(head) + 1} to {most}.")
        if not 0 <= min(prompt) <= max(prompt) < self.encoder.vocabulary_size:
            raise BadOption("prompt", "holds a token that the tokenizer lacks.")
        return [*prompt]

    def system_ids(self, sample: Sample | Prompt) -> list[int]:
        """What the prompts of all samples begin with; it does not depend on the sample's values."""
        prompt = self.task.prompt(sample)
        self.encoder.user_room(prompt, max_length=self.task.most_prompt_tokens)
        return [int(token) for token in self.encoder.system_ids(prompt)]

    def _ids(self, sample: Sample | Prompt) -> list[int]:
        return [int(token) for token in self.task.prompt_ids(sample, self.encoder)]

    def _shared(self, sample: Sample, ids: list[int]) -> int:
        """Tokens in front of the first one that another time, place or trigger would change."""
        try:
            other = self._ids(elsewhere(sample))
        except GplanError:  # A template that takes no such values: nothing is known to be shared.
            return 0
        pairs = enumerate(itertools.zip_longest(ids, other))
        return next((index for index, (mine, theirs) in pairs if mine != theirs), len(ids))


def elsewhere(sample: Sample) -> Sample:
    """The same user at another time and place after another order: none of these columns agrees."""
    changed = {}
    for column in MOMENT_COLUMNS:
        value = getattr(sample, column)
        if column in _TIME_COLUMNS:
            changed[column] = next(time for time in _TIMES if time != value)
        elif column.endswith("flag"):
            changed[column] = "0" if value == "1" else "1"
        else:
            changed[column] = "#" + value
    return sample.with_texts(changed)


def any_context(task: Task) -> Sample:
    """A context of the task's rows with nothing but a time, where all prompts begin alike."""
    rows = task.library.rows if isinstance(task, GsisrTask) else None
    time = rows.names["currenttime"] if rows else "currenttime"
    return Sample.from_context({time: _TIMES[0]}, rows)


def build_prompter(task: Task, encoder: ChatEncoder, config: EngineConfig) -> Prompter:
    """What makes the prompts of a task."""
    return Prompter(encoder, task, find_shared=config.prefix_cache_mib > 0)


def engine_shapes(config: EngineConfig, grammar: PlanGrammar | None, prompt: int) -> Shapes:
    """The shapes of an engine for prompts of so many tokens after their system part."""
    drafted = config.mode == "drafted"
    return shapes_of(
        prompt=prompt,
        tail=longest_prefix(grammar) + START_TOKENS if drafted and grammar else 0,
        response=config.max_new_tokens if grammar is None else longest_response(grammar),
        slots=config.slots,
        nodes=config.draft_tokens if drafted else 1,
        queries=START_DECISIONS if drafted else 1,
        chunk=config.prefill_chunk,
    )


def build_decoder(
    parts: Parts,
    config: EngineConfig,
    prompter: Prompter,
    *,
    prompts: Sequence[Prompted] = (),
    sample: Sample | Prompt | None = None,
    ahead: bool = True,
) -> ContinuousDecoder:
    """A decoder for a model's prompts and responses, its programs compiled now where ``ahead``;
    GplanError where they have more positions than the model.

    ``prompts`` are all that it will be given, if known; the prompt of ``sample`` begins as all do.
    """
    encoder, grammar = parts.encoder, parts.grammar
    cache_bytes = config.prefix_cache_mib << 20
    system = prompter.system_ids(sample or any_context(prompter.task))
    longest = prompter.task.most_prompt_tokens
    if prompts:  # Rounded, so that files of about that length share programs.
        longest = min(longest, round_up(max(len(prompt.ids) for prompt in prompts), PAGE))
    shapes = engine_shapes(config, grammar, longest - len(system))
    drafted = config.mode == "drafted"
    searched = any(prompt.best for prompt in prompts)
    if not ahead and (searched or not drafted):
        # A file keeps the slots full but for its last rows: other sizes cost more to compile than
        # they save.
        nodes = {config.slots: SEARCH_NODES if searched else 1}
        shapes = dataclasses.replace(shapes, nodes=nodes)
    programs = Programs(
        parts.model,
        system,
        shapes,
        vocabulary=encoder.vocabulary_size,
        grammar=grammar,
        pages=cache_bytes > 0,
        ahead=ahead,
    )
    return ContinuousDecoder(
        programs,
        system=len(system),
        grammar=grammar,
        drafter=DraftModel(grammar, parts.counts) if drafted and grammar else None,
        end_id=encoder.end_id,
        max_new_tokens=config.max_new_tokens,
        prefix_cache_bytes=cache_bytes,
    )


def start_after(grammar: PlanGrammar, request: PlanRequest) -> GrammarState:
    """The state in front of the plans that go on from a request's feedback.

    BadOption names the intent at fault, or the list.
    """
    rules, numbers = grammar.rules, dict[str, list[int]]()
    for name in ("shown", "accepted", "dismissed"):
        numbers[name] = []
        for place, intent in enumerate(getattr(request, name)):
            number, path = grammar.numbers.get(frozenset(intent.items())), f"{name}.{place}"
            if number is None:
                library = grammar.library.name
                raise BadOption(path, f"is no intent of the library {library}; see GET /v1/model.")
            if number in numbers[name]:
                raise BadOption(path, f"is in {name} already.")
            if number not in numbers["shown"] and name != "shown" and request.shown:
                raise BadOption(path, "is not among the intents of shown.")
            numbers[name].append(number)
    accepted, dismissed = numbers["accepted"], numbers["dismissed"]

    if len(accepted) > rules.maximum:
        raise BadOption("accepted", f"holds more than the {rules.maximum} intents of a plan.")
    closed, has_place = 0, False
    for place, number in enumerate(accepted):
        path = f"accepted.{place}"
        if number in dismissed:
            raise BadOption(path, f"is dismissed too, by dismissed.{dismissed.index(number)}.")
        if closed >> number & 1:
            raise BadOption(path, "can't follow: an intent before it excludes it.")
        if not (has_place or rules.free >> number & 1):
            raise BadOption(path, "needs the place of an intent before it, and none yields one.")
        closed |= rules.closes[number]
        has_place = has_place or bool(rules.yields >> number & 1)

    out = sum(1 << number for number in dismissed)
    left = (rules.all if has_place else rules.free) & ~(closed | out)
    reach = len(accepted) + rules.within_reach(left)
    if reach < rules.minimum:
        least = f"too few for every plan to reach {rules.minimum} intents; dismiss fewer."
        raise BadOption("dismissed", f"leaves {reach} of the library's intents, {least}")
    # Where a length is announced beforehand, it must be within reach.
    most = min(rules.maximum, reach) if grammar.latent else rules.maximum
    return grammar.start._replace(closed=out, most=most, ahead=tuple(accepted))
