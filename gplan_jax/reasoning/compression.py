"""Replacing the leading blocks of a response by latent tokens (paper sections 4.1.2 and 4.1.3)."""

from __future__ import annotations

import json
from collections.abc import Container, Iterable

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import strict_json
from gplan_jax.reasoning import traces
from gplan_jax.reasoning.latents import GSISR_LATENTS, LatentVocabulary

REASONING_SECTION, PLAN_SECTION = 1, 2


def compress_response(
    raw_label: str, compressed_blocks: int, vocabulary: LatentVocabulary = GSISR_LATENTS
) -> str:
    """Writes a response with its first ``min(compressed_blocks, B)`` blocks latent.

    B = context blocks + plan length (paper equation 3). Whitespace between tags is dropped, line
    breaks inside a block become one space, the plan is rewritten as compact JSON. A response that
    is already partly latent is compressed further, so a fully latent one is a fixed point; one
    without reasoning is only rewritten. GplanError where the reasoning is malformed, the plan is
    not a JSON array, or the number of steps is not the plan's length.
    """
    if compressed_blocks < 0:
        raise GplanError(f"compressed_blocks is {compressed_blocks}; it counts from 0.")
    blocks, plan = read_response(raw_label, vocabulary)
    return write_response(blocks, plan, vocabulary, latent=range(compressed_blocks))


def read_response(
    raw_label: str, vocabulary: LatentVocabulary = GSISR_LATENTS
) -> tuple[tuple[traces.Block, ...], str]:
    """A response's blocks, () for no reasoning, and plan; GplanError as ``compress_response``."""
    thought, plan_text = traces.split_response(raw_label)
    plan = strict_json(plan_text, "The plan")
    if not isinstance(plan, list):
        raise GplanError("The plan must be a JSON array of objects.")
    compact_plan = json.dumps(plan, ensure_ascii=False, separators=(",", ":"))
    traces.check_plain(compact_plan, "The plan")
    if thought is None:
        return (), compact_plan
    blocks = traces.scan_blocks(thought, vocabulary)
    steps = len(blocks) - len(vocabulary.context_blocks)
    if steps != len(plan):
        raise GplanError(
            f"The reasoning has {steps} steps but the plan has {len(plan)} intents; "
            "write one STEP block for each intent."
        )
    for block in blocks:
        traces.check_plain(block.text or "", f"Block {block.name}")
    return tuple(blocks), compact_plan


def write_response(
    blocks: Iterable[tuple[str, str | None]],
    answer: str,
    vocabulary: LatentVocabulary,
    *,
    latent: Container[int] = (),
) -> str:
    """``<THOUGHT>``, the blocks, ``</THOUGHT>`` and the answer; the answer alone without blocks.

    Blocks whose index is in ``latent``, and those without a text, are written as their tokens.
    """
    parts = [
        "".join(vocabulary.block_tokens(name))
        if text is None or index in latent
        else f"<{name}>{text}</{name}>"
        for index, (name, text) in enumerate(blocks)
    ]
    return "".join([traces.THOUGHT_OPEN, *parts, traces.THOUGHT_CLOSE, answer]) if parts else answer


def latent_prefix(vocabulary: LatentVocabulary, steps: int) -> str:
    """``<THOUGHT>``, all context blocks, the first ``steps`` steps and ``</THOUGHT>``: a trace of
    that many steps once it is fully latent. What it says doesn't depend on the trace.
    """
    names = (*vocabulary.context_blocks, *(f"STEP_{i + 1}" for i in range(steps)))
    return write_response((traces.Block(name) for name in names), "", vocabulary)


def response_sections(text: str) -> list[tuple[int, int, int]]:
    """Spans ``(start, end, section)`` of a written response, in characters, without a gap.

    Section 1 is the reasoning, up to and with ``</THOUGHT>``; section 2 is the plan after it. A
    response without reasoning is one plan span (paper equation 5).
    """
    end = 0
    if text.startswith(traces.THOUGHT_OPEN) and traces.THOUGHT_CLOSE in text:
        end = text.index(traces.THOUGHT_CLOSE) + len(traces.THOUGHT_CLOSE)
    spans = [(0, end, REASONING_SECTION), (end, len(text), PLAN_SECTION)]
    return [span for span in spans if span[0] < span[1]]
