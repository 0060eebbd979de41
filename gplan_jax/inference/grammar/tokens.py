"""How a tokenizer writes plans: the pieces that every plan is made of, checked on every pair.

    [{"tool":"  a  "},{"tool":"  b  "},{"tool":"  c  "}]
    `- start -' body `- joint -' body `- joint -' body end

A plan's tokens are the model's own, those of ``encoder.response``; so pieces are cut where token
sequences part, not where characters do, and a token may straddle two of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.progress import track
from gplan_jax.gsisr import Intent, IntentLibrary, canonical_plan
from gplan_jax.reasoning import latent_prefix
from gplan_jax.reasoning.traces import THOUGHT_CLOSE, check_plain

Tokens = tuple[int, ...]


@dataclass(frozen=True)
class PlanPieces:
    """The tokens of all plans, by intent: start, body, then joint, body, ..., and an end."""

    start: Tokens  # what every plan begins with, as far as all intents agree
    bodies: tuple[Tokens, ...]  # what is left of each intent up to where going on and ending part
    joints: tuple[Tokens, ...]  # from there to the body of the next intent, whichever that is
    ends: tuple[Tokens, ...]  # from there to the end of the plan

    def plan(self, intents: Sequence[int]) -> Tokens:
        """The tokens after the start of a plan of these intents."""
        tokens: list[int] = []
        for intent in intents[:-1]:
            tokens += self.bodies[intent] + self.joints[intent]
        return (*tokens, *self.bodies[intents[-1]], *self.ends[intents[-1]])


@dataclass(frozen=True)
class LatentPieces:
    """The tokens in front of a plan in latent form: head, blocks of steps, close."""

    head: Tokens  # ``<THOUGHT>`` and the context blocks
    steps: tuple[Tokens, ...]  # the blocks T_1, T_2, ... as many as the vocabulary has.
    close: Tokens  # ``</THOUGHT>`` and the plan's start, up to the body of the first intent


def plan_pieces(
    intents: Sequence[Intent], library: IntentLibrary, encoder: ChatEncoder
) -> PlanPieces:
    """Cuts the tokens of plans into pieces and checks that every pair of intents keeps to them."""
    everything = range(len(intents))
    other = [0 if i else len(intents) - 1 for i in everything]
    alone = [_ids([intents[i]], library, encoder) for i in everything]
    paired = [_ids([intents[i], intents[other[i]]], library, encoder) for i in everything]
    for intent, ids in zip(intents, alone, strict=True):
        text = canonical_plan([intent], library)
        check_plain(text, f"The intent {text[1:-1]} of the library {library.name}")
        if (written := encoder.decode(ids)) != text:
            raise GplanError(
                f"The tokenizer turns {text[1:-1]} into {written[1:-1]}, which the library does "
                "not admit; write its names and values in Unicode's composed form (NFC)."
            )
    parting = [common_prefix(a, p) for a, p in zip(alone, paired, strict=True)]
    shared = min(common_prefix(alone[0], ids) for ids in alone)
    begin = min(shared, *parting)
    tails = [len(ids) - begin for ids in alone]
    pieces = PlanPieces(
        start=alone[0][:begin],
        bodies=tuple(alone[i][begin : parting[i]] for i in everything),
        joints=tuple(p[parting[i] : len(p) - tails[other[i]]] for i, p in enumerate(paired)),
        ends=tuple(alone[i][parting[i] :] for i in everything),
    )
    parted = _always_parted(intents, other, library, encoder)
    for first in everything if parted else track(everything, "Checking pairs of intents"):
        beside = [other[first]] if parted else everything[first + 1 :]
        if not beside:
            continue
        # A row of intents, whatever the rules say to it, must have the tokens of its pieces.
        row = [*(i for j in beside for i in (first, j)), first]
        found = _ids([intents[i] for i in row], library, encoder)
        wanted = (*pieces.start, *pieces.plan(row))
        if found != wanted:
            lengths = (len(pieces.bodies[i]) + len(pieces.joints[i]) for i in row)
            fault = common_prefix(found, wanted) - len(pieces.start)
            borders = enumerate(itertools.accumulate(lengths))
            slot = next(i for i, end in borders if fault < end or i == len(row) - 2)
            raise merged(intents[row[slot]], intents[row[slot + 1]])
    return pieces


def _always_parted(
    intents: Sequence[Intent], other: Sequence[int], library: IntentLibrary, encoder: ChatEncoder
) -> bool:
    """Whether one place in ``{"tool":"`` is a border of words for the tokenizer between any two
    intents. No token crosses it then, so what one partner shows of an intent holds for all: the
    checks grow with the library, where all pairs grow with its square.
    """
    opening = f'{{"{library.tool_key}":"'
    borders = set(range(1, len(opening)))
    for intent, beside in enumerate(other):
        for pair in ((intent, beside), (beside, intent)):
            first, both = ([intents[i] for i in part] for part in (pair[:1], pair))
            start, text = len(canonical_plan(first, library)), canonical_plan(both, library)
            if not text.startswith(opening, start):
                return False
            borders &= {end - start for end in encoder.word_borders(text)}
    return bool(borders)


def latent_pieces(
    intents: Sequence[Intent], pieces: PlanPieces, library: IntentLibrary, encoder: ChatEncoder
) -> LatentPieces:
    """The tokens of the latent prefixes, checked in front of every intent."""
    encoder.require_latents()
    latents = encoder.latents
    blocks = ("".join(latents.block_tokens(f"STEP_{i + 1}")) for i in range(latents.max_steps))
    steps = tuple(_encode(block, encoder) for block in blocks)
    prefix = latent_prefix(latents, latents.max_steps)
    responses = [_encode(prefix + canonical_plan([i], library), encoder) for i in intents]
    border = responses[0].index(steps[-1][-1]) + 1
    before = responses[0][: len(responses[0]) - len(pieces.plan([0]))]
    for i, ids in enumerate(responses):
        if ids != before + pieces.plan([i]):
            raise GplanError(
                f"The tokenizer writes {canonical_plan([intents[i]], library)[1:-1]} in other "
                f"tokens behind {THOUGHT_CLOSE} than elsewhere; decode unconstrained."
            )
    head = border - sum(len(block) for block in steps)
    return LatentPieces(head=before[:head], steps=steps, close=before[border:])


def _encode(text: str, encoder: ChatEncoder) -> Tokens:
    return tuple(encoder.response(text).ids[:-1].tolist())


def _ids(plan: Sequence[Intent], library: IntentLibrary, encoder: ChatEncoder) -> Tokens:
    return _encode(canonical_plan(plan, library), encoder)


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens both begin with."""
    pairs = enumerate(zip(first, second, strict=False))
    return next((i for i, (a, b) in pairs if a != b), min(len(first), len(second)))


def merged(left: Intent, right: Intent) -> GplanError:
    """The error where the tokens of two intents can't be told apart or depend on each other."""
    return GplanError(
        f"In this tokenizer the tokens of {left} and {right} depend on each other, so plans can't "
        "be compiled into a grammar; decode unconstrained, or rename one of them in the library."
    )
