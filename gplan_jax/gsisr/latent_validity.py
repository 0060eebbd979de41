"""Latent-Valid: does a response begin with a well-formed latent prefix? (paper section 5.1.3)"""

from __future__ import annotations

import re

from gplan_jax.gsisr.library import IntentLibrary
from gplan_jax.gsisr.plans import parse_plan
from gplan_jax.reasoning import GSISR_LATENTS, LatentVocabulary
from gplan_jax.reasoning.traces import THOUGHT_CLOSE, THOUGHT_OPEN

_TOKEN = re.compile(r"<(?:THOUGHT_[A-Z0-9_]+|T_[0-9]+)_[a-z]>")


def latent_valid(
    text: str, vocabulary: LatentVocabulary = GSISR_LATENTS, library: IntentLibrary | None = None
) -> bool:
    """Whether ``text`` satisfies all conditions of Latent-Valid; see ``latent_failure``."""
    return latent_failure(text, vocabulary, library) is None


def latent_failure(
    text: str, vocabulary: LatentVocabulary = GSISR_LATENTS, library: IntentLibrary | None = None
) -> str | None:
    """Why ``text`` is not Latent-Valid, as ``code: detail``; None where it is.

    A valid text has a single ``<THOUGHT>`` block whose latent tokens follow C, S, T_1 .. T_|Y|
    (order), none of them twice or out of place (repeat, order), no raw tag such as ``<STEP_1>`` and
    no other text among them (residue), and as many steps as its plan has intents (steps).
    """
    if text.count(THOUGHT_OPEN) != 1 or text.count(THOUGHT_CLOSE) != 1:
        blocks = f"{text.count(THOUGHT_OPEN)} opened and {text.count(THOUGHT_CLOSE)} closed"
        return f"block: one {THOUGHT_OPEN} block is wanted, {blocks}"
    before, _, rest = text.partition(THOUGHT_OPEN)
    inner, close, after = rest.partition(THOUGHT_CLOSE)
    if not close:
        return f"block: {THOUGHT_CLOSE} stands before {THOUGHT_OPEN}"
    if tag := _raw_tag(vocabulary).search(text):
        return f"residue: raw tag {tag.group()}"
    if stray := _TOKEN.search(before + after):
        return f"order: {stray.group()} outside the {THOUGHT_OPEN} block"
    if residue := _TOKEN.sub("", inner).strip():
        return f"residue: {residue[:40]!r} among the latent tokens"
    tokens = _TOKEN.findall(inner)
    return _order_failure(tokens, vocabulary) or _step_failure(
        tokens, len(parse_plan(after, library)), vocabulary
    )


def _order_failure(tokens: list[str], vocabulary: LatentVocabulary) -> str | None:
    """The tokens must be a beginning of the vocabulary's own order."""
    seen: set[str] = set()
    for token in tokens:
        if token in seen:
            return f"repeat: {token} occurs twice"
        seen.add(token)
    for token, expected in zip(tokens, vocabulary.tokens, strict=False):
        if token != expected:
            return f"order: {token} where {expected} is due"
    if len(tokens) > len(vocabulary.tokens):
        return f"order: {tokens[len(vocabulary.tokens)]} is beyond the vocabulary"
    return None


def _step_failure(tokens: list[str], plan_length: int, vocabulary: LatentVocabulary) -> str | None:
    blocks, rest = divmod(len(tokens), vocabulary.width)
    if rest:
        return f"order: the last block has {rest} of {vocabulary.width} tokens"
    steps = blocks - len(vocabulary.context_blocks)
    if steps != plan_length or steps < 1:
        return f"steps: {steps} latent steps for a plan of {plan_length} intents"
    return None


def _raw_tag(vocabulary: LatentVocabulary) -> re.Pattern[str]:
    names = "|".join([*map(re.escape, vocabulary.context_blocks), r"STEP_[0-9]+"])
    return re.compile(rf"</?(?:{names})>")
