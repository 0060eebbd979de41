"""Reasoning traces: named blocks inside ``<THOUGHT>``, read and written strictly; leading ones
may be latent (paper sections 4.1.2 and 4.1.3).

    <THOUGHT><CONTEXT>...</CONTEXT><STRATEGY>...</STRATEGY><STEP_1>...</STEP_1>...</THOUGHT>

The source is the paper's "Chain of Thought Structure" (section 4.1.1).

Reserved tokens stand for compressed blocks: one named CONTEXT becomes
``<THOUGHT_CONTEXT_a><THOUGHT_CONTEXT_b><THOUGHT_CONTEXT_c>``, step i becomes
``<T_i_a><T_i_b><T_i_c>``. Each of these is one vocabulary entry of the model. A task whose answers
have no steps names all its blocks itself, and ``max_steps`` is 0.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Container, Iterable, Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any, NamedTuple

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import strict_json

_BLOCK_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_STEP_NAME = re.compile(r"STEP_([1-9][0-9]*)")
THOUGHT_OPEN, THOUGHT_CLOSE = "<THOUGHT>", "</THOUGHT>"

# What a tokenizer could read as a control token, or a parser as structure: never inside a block.
_MARKUP = re.compile(r"</?[A-Z][A-Za-z0-9_]*>|<\|[^|<>]*\|>")
_LINE_BREAKS = re.compile(r"\s*[\r\n]\s*")
_EXCERPT = 40
REASONING_SECTION, PLAN_SECTION = 1, 2


def step_number(block_name: str) -> int | None:
    """The i of ``STEP_i``, or None where the name is not that of a step."""
    match = _STEP_NAME.fullmatch(block_name)
    return int(match.group(1)) if match else None


def check_block_name(name: str) -> None:
    """Raises GplanError where ``name`` can't be that of a block and of its tokens."""
    if not _BLOCK_NAME.fullmatch(name) or name == "THOUGHT":
        raise GplanError(
            f"{name!r} can't name a reasoning block; use upper-case letters, digits and _, a "
            "letter first, and not THOUGHT."
        )


@dataclass(frozen=True)
class LatentVocabulary:
    """The latent tokens of one task: ``width`` (K in the paper) a block, lettered a, b, c, ... z.

    ``context_blocks`` are written before the steps, in this order. ``max_steps`` is the longest
    plan that has latent tokens; 0 where no block is numbered as a step, and then a block may be
    called STEP_i. GplanError where a name is not upper case, occurs twice or could be mistaken for
    a step, or there is no block at all.
    """

    context_blocks: tuple[str, ...] = ("CONTEXT", "STRATEGY")
    max_steps: int = 9
    width: int = 3

    def __post_init__(self) -> None:
        if not 1 <= self.width <= len(string.ascii_lowercase):
            raise GplanError(f"Latent width {self.width} is not between 1 and 26.")
        if self.max_steps < 0 or not self.block_names:
            raise GplanError(f"max_steps is {self.max_steps}; name blocks, or a step at least.")
        if len(set(self.context_blocks)) != len(self.context_blocks):
            raise GplanError(f"Block names repeat: {', '.join(self.context_blocks)}.")
        for name in self.context_blocks:
            check_block_name(name)
            if self.max_steps and step_number(name):
                raise GplanError(f"{name} can't name a context block: it is that of a step.")

    @cached_property
    def block_names(self) -> tuple[str, ...]:
        """All blocks that have tokens, in the order they are written."""
        return (*self.context_blocks, *(f"STEP_{i}" for i in range(1, self.max_steps + 1)))

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """All latent tokens: context blocks first, then the steps; 33 for GSISR."""
        return tuple(token for name in self.block_names for token in self.block_tokens(name))

    def block_tokens(self, name: str) -> tuple[str, ...]:
        """The tokens of block ``name`` (``CONTEXT``, ``STEP_2``, ...); GplanError for another."""
        step = step_number(name)
        if name in self.context_blocks:
            stem = f"THOUGHT_{name}"
        elif step is not None and step <= self.max_steps:
            stem = f"T_{step}"
        else:
            raise GplanError(
                f"No latent tokens for block {name}: this vocabulary has "
                f"{', '.join(self.block_names)}."
            )
        return tuple(f"<{stem}_{letter}>" for letter in string.ascii_lowercase[: self.width])

    def to_dict(self) -> dict[str, Any]:
        """Plain values for a JSON file; ``from_dict`` reads them back."""
        return asdict(self) | {"context_blocks": list(self.context_blocks)}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> LatentVocabulary:
        """The vocabulary that ``to_dict`` described; GplanError where ``values`` describes none."""
        try:
            return cls(**{**values, "context_blocks": tuple(values["context_blocks"])})
        except (KeyError, TypeError):
            keys = ", ".join(field.name for field in fields(cls))
            raise GplanError(f"{values!r} is no latent vocabulary; it needs {keys}.") from None


GSISR_LATENTS = LatentVocabulary()


@dataclass(frozen=True)
class ReasoningTrace:
    """A trace: pairs of block name and text, the context blocks first, then STEP_1 .. STEP_n.

    GplanError where a name repeats, steps are not numbered 1..n at the end, or a text is empty or
    holds markup.
    """

    blocks: tuple[tuple[str, str], ...]

    def __post_init__(self) -> None:
        names = [name for name, _ in self.blocks]
        if len(set(names)) != len(names):
            raise GplanError(f"A reasoning trace names a block twice: {', '.join(names)}.")
        numbers = [number for name in names if (number := step_number(name))]
        steps = [f"STEP_{i}" for i in range(1, len(numbers) + 1)]
        if not numbers or names[-len(numbers) :] != steps:
            raise GplanError(
                "The steps of a reasoning trace must be STEP_1, STEP_2, ... without a gap, after "
                f"all other blocks; these are {', '.join(names) or 'no blocks'}."
            )
        for name, text in self.blocks:
            check_plain(text, f"block {name}")
            if not text.strip():
                raise GplanError(f"Block {name} is empty; write at least a word.")

    @property
    def step_count(self) -> int:
        """The number of STEP blocks, which must equal the plan's length."""
        return sum(step_number(name) is not None for name, _ in self.blocks)

    def __getitem__(self, name: str) -> str:
        return dict(self.blocks)[name]


class Block(NamedTuple):
    """One block of a response; ``text`` is None where it is latent."""

    name: str
    text: str | None = None


def check_plain(text: str, what: str) -> None:
    """Raises GplanError where ``text`` holds a tag or control token that would break out."""
    if found := _MARKUP.search(text):
        raise GplanError(f"{what} contains {found.group()}; tags and control tokens can't nest.")


def split_response(raw_label: str) -> tuple[str | None, str]:
    """The ``<THOUGHT>`` block, or None, and the plan text; GplanError where it never closes."""
    text = raw_label.strip()
    if not text.startswith(THOUGHT_OPEN):
        return None, text
    end = text.find(THOUGHT_CLOSE)
    if end < 0:
        raise GplanError(f"{THOUGHT_OPEN} is never closed by {THOUGHT_CLOSE}.")
    end += len(THOUGHT_CLOSE)
    return text[:end], text[end:].strip()


def scan_blocks(thought: str, vocabulary: LatentVocabulary) -> list[Block]:
    """Reads the blocks of a ``<THOUGHT>`` block whose leading ones may already be latent.

    GplanError where blocks are missing, out of order or nested, a latent block follows a textual
    one, or anything else stands between the blocks.
    """
    inner = thought[len(THOUGHT_OPEN) : -len(THOUGHT_CLOSE)].strip()
    blocks: list[Block] = []
    while inner:
        name = _expected_name(len(blocks), vocabulary)
        latent = "".join(vocabulary.block_tokens(name))
        if inner.startswith(latent) and all(block.text is None for block in blocks):
            blocks.append(Block(name, None))
            inner = inner[len(latent) :].lstrip()
            continue
        if not inner.startswith(f"<{name}>"):
            raise GplanError(f"Expected <{name}> in the reasoning but found {_excerpt(inner)}.")
        text, close, rest = inner[len(name) + 2 :].partition(f"</{name}>")
        if not close:
            raise GplanError(f"<{name}> is never closed by </{name}>.")
        blocks.append(Block(name, _LINE_BREAKS.sub(" ", text.strip())))
        inner = rest.lstrip()
    if len(blocks) <= len(vocabulary.context_blocks):
        name = _expected_name(len(blocks), vocabulary)
        raise GplanError(f"The reasoning ends before <{name}>; every plan has at least one step.")
    return blocks


def parse_trace(text: str, vocabulary: LatentVocabulary = GSISR_LATENTS) -> ReasoningTrace:
    """Reads a trace strictly: all blocks textual, in order, nothing else beside them.

    Text is kept as written but for its ends, which are stripped, and line breaks, which become one
    space each. GplanError as ``scan_blocks`` and ``ReasoningTrace``.
    """
    thought, rest = split_response(text)
    if thought is None or rest:
        raise GplanError(
            f"A reasoning trace is one {THOUGHT_OPEN}...{THOUGHT_CLOSE} block and nothing else, "
            f"but here is {_excerpt(rest)}."
        )
    blocks = []
    for block in scan_blocks(thought, vocabulary):
        if block.text is None:
            raise GplanError(f"Block {block.name} is already latent; a trace holds its text.")
        blocks.append((block.name, block.text))
    return ReasoningTrace(tuple(blocks))


def write_trace(trace: ReasoningTrace) -> str:
    """Writes a trace without whitespace between tags; ``parse_trace`` reads it back."""
    body = "".join(f"<{name}>{text}</{name}>" for name, text in trace.blocks)
    return f"{THOUGHT_OPEN}{body}{THOUGHT_CLOSE}"


def _expected_name(index: int, vocabulary: LatentVocabulary) -> str:
    if index < len(vocabulary.context_blocks):
        return vocabulary.context_blocks[index]
    return f"STEP_{index - len(vocabulary.context_blocks) + 1}"


def _excerpt(text: str) -> str:
    return repr(text if len(text) <= _EXCERPT else text[:_EXCERPT] + "...")


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
) -> tuple[tuple[Block, ...], str]:
    """A response's blocks, () for no reasoning, and plan; GplanError as ``compress_response``."""
    thought, plan_text = split_response(raw_label)
    plan = strict_json(plan_text, "The plan")
    if not isinstance(plan, list):
        raise GplanError("The plan must be a JSON array of objects.")
    compact_plan = json.dumps(plan, ensure_ascii=False, separators=(",", ":"))
    check_plain(compact_plan, "The plan")
    if thought is None:
        return (), compact_plan
    blocks = scan_blocks(thought, vocabulary)
    steps = len(blocks) - len(vocabulary.context_blocks)
    if steps != len(plan):
        raise GplanError(
            f"The reasoning has {steps} steps but the plan has {len(plan)} intents; "
            "write one STEP block for each intent."
        )
    for block in blocks:
        check_plain(block.text or "", f"Block {block.name}")
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
    return "".join([THOUGHT_OPEN, *parts, THOUGHT_CLOSE, answer]) if parts else answer


def latent_prefix(vocabulary: LatentVocabulary, steps: int) -> str:
    """``<THOUGHT>``, all context blocks, the first ``steps`` steps and ``</THOUGHT>``: a trace of
    that many steps once it is fully latent. What it says doesn't depend on the trace.
    """
    names = (*vocabulary.context_blocks, *(f"STEP_{i + 1}" for i in range(steps)))
    return write_response((Block(name) for name in names), "", vocabulary)


def response_sections(text: str) -> list[tuple[int, int, int]]:
    """Spans ``(start, end, section)`` of a written response, in characters, without a gap.

    Section 1 is the reasoning, up to and with ``</THOUGHT>``; section 2 is the plan after it. A
    response without reasoning is one plan span (paper equation 5).
    """
    end = 0
    if text.startswith(THOUGHT_OPEN) and THOUGHT_CLOSE in text:
        end = text.index(THOUGHT_CLOSE) + len(THOUGHT_CLOSE)
    spans = [(0, end, REASONING_SECTION), (end, len(text), PLAN_SECTION)]
    return [span for span in spans if span[0] < span[1]]


@dataclass(frozen=True)
class Prompt:
    """The two parts of a request; ``system`` is the same for all rows of a data set."""

    system: str
    user: str
