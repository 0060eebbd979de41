"""The reserved tokens that stand for compressed reasoning blocks (paper section 4.1.2).

A block named CONTEXT becomes ``<THOUGHT_CONTEXT_a><THOUGHT_CONTEXT_b><THOUGHT_CONTEXT_c>``, step i
becomes ``<T_i_a><T_i_b><T_i_c>``. Each of these is one vocabulary entry of the model. A task whose
answers have no steps names all its blocks itself, and ``max_steps`` is 0.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from functools import cached_property
from typing import Any

from gplan_jax.foundation.errors import GplanError

_BLOCK_NAME = re.compile(r"[A-Z][A-Z0-9_]*")
_STEP_NAME = re.compile(r"STEP_([1-9][0-9]*)")


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
