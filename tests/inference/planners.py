"""Random models with everything that decoding needs around them, and a slow way to decode."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable, Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.gsisr import IntentLibrary, Plan, PromptTemplate, Sample, parse_plan
from gplan_jax.gsisr.intent_counts import intent_texts
from gplan_jax.inference.engine.continuous import ContinuousDecoder, Prompted, decode_all
from gplan_jax.inference.engine.decoder_setup import Prompter
from gplan_jax.inference.engine.programs import Programs, Shapes
from gplan_jax.inference.engine.requests import PlanRequest
from gplan_jax.inference.engine.sequences import SequenceState
from gplan_jax.inference.grammar.drafts import DraftModel, DraftTree, Start
from gplan_jax.inference.grammar.plan_grammar import GrammarState, PlanGrammar
from gplan_jax.models import Qwen3, read_config

LIBRARY = IntentLibrary.load()
TEMPLATE = PromptTemplate.load("compact_zh")
TASK = GsisrTask(TEMPLATE, LIBRARY, prompt_length=128)
# One bucket, and passes of two rows: as few programs as can be.
SHAPES = Shapes(buckets=(192,), nodes={2: 24}, queries=7, places=560, tail=48)

# What answers a row of tokens with float32 logits [V] behind each of some of its tokens.
Forward = Callable[[Sequence[int]], np.ndarray]


def tokens_of(grammar: PlanGrammar, plan: Plan) -> tuple[int, ...]:
    """A whole response in the form of the grammar, without the end token; no rule is checked."""
    written = grammar.pieces.plan([grammar.intents.index(intent) for intent in plan])
    if grammar.latent is None:
        return (*grammar.pieces.start, *written)
    steps = [token for block in grammar.latent.steps[: len(plan)] for token in block]
    return (*grammar.latent.head, *steps, *grammar.latent.close, *written)


def random_model(model_dir: Path, seed: int) -> Qwen3:
    """The shape of a checkpoint with so sharp an attention that plans hang on their contexts."""
    config = dataclasses.replace(read_config(model_dir), initializer_range=0.3)
    model = Qwen3(config, rngs=nnx.Rngs(jax.random.key(seed, impl="rbg")))
    for norm in (model.layers.attention.query_norm, model.layers.attention.key_norm):
        norm.set_value(4 * norm.get_value())
    return model


def prompter(encoder: ChatEncoder) -> Prompter:
    return Prompter(encoder, TASK)


def prompts(encoder: ChatEncoder, rows: Sequence[Sample]) -> list[Prompted]:
    return [prompter(encoder).prompted(PlanRequest(row)) for row in rows]


def decoder(
    model: Qwen3,
    encoder: ChatEncoder,
    row: Sample,
    grammar: PlanGrammar | None,
    drafter: DraftModel | None = None,
    *,
    programs: Programs | None = None,
    shapes: Shapes = SHAPES,
    **options: int,
) -> ContinuousDecoder:
    system = prompter(encoder).system_ids(row)
    pages = options.get("prefix_cache_bytes", 0) > 0
    programs = programs or Programs(
        model,
        system,
        shapes,
        vocabulary=encoder.vocabulary_size,
        grammar=grammar,
        pages=pages,
    )
    return ContinuousDecoder(
        programs,
        system=len(system),
        grammar=grammar,
        drafter=drafter,
        **{"end_id": encoder.end_id, "max_new_tokens": 40} | options,
    )


def decode(decoder: ContinuousDecoder, prompted: Sequence[Prompted]) -> list[SequenceState]:
    """All prompts, as many at a time as there are slots."""
    return decode_all(decoder, prompted, on_row=lambda: None)


def forward_of(model: Qwen3, length: int) -> Forward:
    """Logits [S, V] by whole forward passes without a cache."""
    run = jax.jit(lambda ids: model(ids)[0])

    def forward(ids: Sequence[int]) -> np.ndarray:
        padded = np.zeros((1, length), np.int32)
        padded[0, : len(ids)] = ids
        return np.asarray(run(jnp.asarray(padded)))

    return forward


def likeliest(grammar: PlanGrammar, state: GrammarState, logits_V: np.ndarray) -> int:
    """The token of the likeliest open edge, the first of equals."""
    tokens = [edge.token for edge in grammar.edges(state)]
    return tokens[int(np.argmax(logits_V[tokens]))]


def slow_greedy(grammar: PlanGrammar, forward: Forward, prompt: Sequence[int]) -> list[int]:
    """The constrained greedy response, by one forward pass over everything for each token."""
    response: list[int] = []
    state = grammar.start
    while not grammar.finished(state):
        logits_V = forward([*prompt, *response])[len(prompt) + len(response) - 1]
        response.append(likeliest(grammar, state, logits_V))
        state = grammar.advance(state, response[-1])
    return response


class RandomDrafts:
    """Trees grown blindly: what they propose must not matter."""

    def __init__(self, grammar: PlanGrammar, seed: int) -> None:
        self._grammar, self._random = grammar, random.Random(seed)

    def start(self, state: GrammarState, context: tuple[str, ...], budget: int, most: int) -> Start:
        tokens: list[int] = []
        decisions: list[tuple[int, GrammarState]] = []
        length = self._random.randint(0, budget)
        while edges := self._grammar.edges(state):
            if len(edges) > 1:
                decisions.append((len(tokens), state))
            if len(tokens) == length or len(decisions) == most:
                break
            tokens.append(self._random.choice(edges).token)
            state = self._grammar.advance(state, tokens[-1])
        return Start(tuple(tokens), tuple(decisions))

    def tree(
        self, state: GrammarState, chain: tuple[int, ...], context: tuple[str, ...], budget: int
    ) -> DraftTree:
        certain = min(len(chain), budget, self._random.randint(1, budget))
        tokens, parents = list(chain[:certain]), list(range(-1, certain - 1))
        states = [state] * certain
        children: set[tuple[int, int]] = set()
        for _ in range(self._random.randint(0, 2 * budget) if certain == len(chain) else 0):
            parent = self._random.randrange(certain - 1, len(tokens))
            edges = self._grammar.edges(states[parent])
            token = self._random.choice(edges).token if edges else -1
            if len(tokens) < budget and edges and (parent, token) not in children:
                children.add((parent, token))
                tokens.append(token)
                parents.append(parent)
                states.append(self._grammar.advance(states[parent], token))
        return DraftTree(tuple(tokens), tuple(parents), tuple(states), certain)

    def learn(self, context: tuple[str, ...], taken: tuple[int, ...]) -> None:
        assert taken


def plan_texts(text: str) -> list[str]:
    """A plan's intents, each as the text that counts go by."""
    return intent_texts(parse_plan(text), LIBRARY)
