"""Teachers: who plans for a context, and who writes why each intent of a plan follows from it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gplan_jax.chat import RequestFailed
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Plan, Sample, Violation
from gplan_jax.reasoning import ReasoningTrace


@dataclass(frozen=True, slots=True)
class TeacherAnswer:
    """What a teacher answered to one context.

    Attributes:
        text: a raw label, the reasoning and then the plan; nobody has checked it yet. Where the
            answer could not be read as one, the answer as it came.
        origin: where it comes from, in plain JSON values (model, request, tokens, repairs ...);
            empty for rules.
        faults: why the answer could not be read as a raw label; empty where it could.
    """

    text: str
    origin: Mapping[str, Any] = field(default_factory=dict)
    faults: tuple[Violation, ...] = ()


class NoTrace(GplanError):
    """The teacher's explanation of one plan can't be used; the others may be."""


# What concerns one row alone, so that a run may leave the row out and go on.
ROW_TROUBLE = (RequestFailed, NoTrace)


class Teacher(Protocol):
    """Whatever plans and explains: rules, or a language model behind the same calls.

    Attributes:
        name: how the provenance of what it wrote calls it.
        at_once: how many calls are worth having under way at a time.
    """

    @property
    def name(self) -> str: ...

    @property
    def at_once(self) -> int: ...

    async def answer(self, sample: Sample) -> TeacherAnswer:
        """The teacher's own plan for the context of ``sample``, with its reasoning.

        Whether the plan passes the rule filter is for the caller to check; ``raw_labels`` of
        ``sample`` is not looked at.

        Raises:
            RequestFailed: this one row has no answer.
            GplanError: the context can't be read, or nobody gets an answer any more.
        """
        ...

    async def explain(self, sample: Sample, plan: Plan) -> ReasoningTrace:
        """A trace with one STEP per intent of ``plan``, given the context of ``sample``.

        Raises:
            RequestFailed, NoTrace: this one row has no trace.
            GplanError: ``plan`` is empty, or nobody gets an answer any more.
        """
        ...

    async def close(self) -> None:
        """Lets go of what the teacher holds (connections); it isn't asked again."""
        ...
