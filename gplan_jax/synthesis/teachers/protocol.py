"""What a teacher does: plan for a context, and explain why each intent of a plan follows."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gplan_jax.gsisr import Plan, Sample, Violation
from gplan_jax.reasoning import ReasoningTrace


@dataclass(frozen=True, slots=True)
class TeacherAnswer:
    """What a teacher answered to one context."""

    # A raw label (reasoning, then plan), not checked yet; an answer that can't be read as one stays
    # as it came, and ``faults`` says why.
    text: str
    # Where it comes from, in plain JSON values (model, request, tokens ...); empty for rules.
    origin: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Violation, ...] = ()


class Teacher(Protocol):
    """Plans and explains: rules, or a language model behind the same calls."""

    name: str  # Its name in the provenance of what it wrote.

    @property
    def at_once(self) -> int: ...  # How many calls may run at a time.

    async def answer(self, sample: Sample) -> TeacherAnswer:
        """The teacher's own plan for the context of ``sample``, with its reasoning.

        The caller checks it by the rule filter; ``raw_labels`` of ``sample`` is not read.
        RequestFailed where this one row has no answer; GplanError where the context can't be read,
        or no row gets an answer any more.
        """
        ...

    async def explain(self, sample: Sample, plan: Plan) -> ReasoningTrace:
        """A trace with one STEP per intent of ``plan`` in ``sample``'s context; errors as above."""
        ...

    async def close(self) -> None:
        """Closes connections; no call follows."""
        ...
