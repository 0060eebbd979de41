"""From a model directory and options to a decoder that is ready to run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import jax.numpy as jnp

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.task_files import COUNTS_FILE, Response, Task, load_task
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import COLUMNS, IntentLibrary, Sample
from gplan_jax.gsisr.intent_counts import IntentCounts
from gplan_jax.inference.engine.continuous import ContinuousDecoder
from gplan_jax.inference.engine.engine_config import EngineConfig
from gplan_jax.inference.engine.programs import PAGE, Programs, shapes_of
from gplan_jax.inference.engine.prompting import Prompter
from gplan_jax.inference.engine.rows import longest_prefix, longest_response
from gplan_jax.inference.grammar.drafts import DraftModel
from gplan_jax.inference.grammar.plan_grammar import PlanGrammar
from gplan_jax.models import Qwen3, load_qwen3
from gplan_jax.models.layers.projection import round_layers_to_int8

# What a prefill verifies of a response at most, a latent prefix not counted.
START_TOKENS, START_DECISIONS = 64, 16
_ANY_CONTEXT = Sample(**dict.fromkeys(COLUMNS, "") | {"currenttime": "2000-01-01 00:00:00"})


@dataclass(frozen=True)
class Parts:
    """A model with what it reads and writes.

    Attributes:
        name: for messages and answers.
        grammar: of its responses; None where they are not constrained.
        counts: of the plans it was trained on; empty where they are not known.
    """

    name: str
    model: Qwen3
    encoder: ChatEncoder
    task: Task
    grammar: PlanGrammar | None
    counts: IntentCounts


def load_parts(
    model_dir: Path,
    config: EngineConfig,
    *,
    template: str | None = None,
    library: str | None = None,
    max_length: int | None = None,
) -> Parts:
    """Loads a model directory; what is named replaces what training stored there.

    Raises:
        GplanError: the directory is broken, or the grammar can't be made; see ``grammar_of``.
    """
    task = load_task(model_dir, template=template, library=library, max_length=max_length)
    encoder = ChatEncoder.load(model_dir)
    grammar = None
    if config.mode != "unconstrained":
        response = config.response or task.response
        grammar = grammar_of(model_dir.name, response, task.library, encoder)
    model = load_qwen3(model_dir, param_dtype=config.compute_dtype)
    model.compute_dtype = jnp.dtype(config.compute_dtype)
    if config.weights == "int8":
        round_layers_to_int8(model)
    return Parts(model_dir.name, model, encoder, task, grammar, load_counts(model_dir))


def load_counts(model_dir: Path) -> IntentCounts:
    """The counts of a model's training plans; empty ones where the directory has none.

    Raises:
        GplanError: the file is broken.
    """
    path = model_dir / COUNTS_FILE
    return IntentCounts.load(path) if path.is_file() else IntentCounts()


def grammar_of(
    name: str, response: Response | None, library: IntentLibrary, encoder: ChatEncoder
) -> PlanGrammar:
    """The grammar of a model's responses.

    Args:
        name: of the model, for error messages.
        response: what they hold.

    Raises:
        GplanError: no grammar describes them, or they or the library can't be compiled.
    """
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


def build_prompter(task: Task, encoder: ChatEncoder, config: EngineConfig) -> Prompter:
    """What makes the prompts of a task."""
    room = task.max_length - config.response_room
    find_shared = config.prefix_cache_mib > 0
    return Prompter(encoder, task.template, task.library, room, find_shared=find_shared)


def build_decoder(
    parts: Parts,
    config: EngineConfig,
    prompter: Prompter,
    *,
    longest_prompt: int | None = None,
    ahead: bool = True,
) -> ContinuousDecoder:
    """A decoder for a model's prompts and responses.

    Args:
        prompter: what makes the prompts.
        longest_prompt: tokens of the longest one, where it is known.
        ahead: whether to compile all programs now, rather than each when it is first needed.

    Raises:
        GplanError: prompts and responses have more positions than the model.
    """
    encoder, grammar = parts.encoder, parts.grammar
    drafted = config.mode == "drafted"
    cache_bytes = config.prefix_cache_mib << 20
    system = prompter.system_ids(_ANY_CONTEXT)
    longest = prompter.max_length
    if longest_prompt is not None:  # Rounded, so that files of about that length share programs.
        longest = min(longest, -(-longest_prompt // PAGE) * PAGE)
    shapes = shapes_of(
        prompt=longest - len(system),
        tail=longest_prefix(grammar) + START_TOKENS if drafted and grammar else 0,
        response=config.max_new_tokens if grammar is None else longest_response(grammar),
        slots=config.slots,
        nodes=config.draft_tokens if drafted else 1,
        least_nodes=config.draft_tokens if drafted else 1,
        queries=START_DECISIONS if drafted else 1,
    )
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
