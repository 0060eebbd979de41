"""What a teacher does: plan for a context, and explain why each intent of a plan follows; and the
rules as one, which may be made to err as often as language models do.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Plan, Sample, Violation
from gplan_jax.reasoning import ReasoningTrace
from gplan_jax.synthesis.rules.service_rules import ServiceRules
from gplan_jax.synthesis.world.faults import draw_code, plant_fault


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


class RuleTeacher:
    """The rules as a ``Teacher``; of its raw answers a share breaks a rule of the filter.

    Which ones, and how, is a function of the context alone. ``origin`` names the planted code.
    """

    at_once = 1

    def __init__(self, library: IntentLibrary, faulty_share: float = 0.0) -> None:
        """Raises GplanError where that is no share, or its service has no rules."""
        if not 0 <= faulty_share <= 1:
            raise GplanError(f"faulty_share is {faulty_share}; give a share between 0 and 1.")
        # Rows tell by the name whether their teacher erred.
        self.name = "world" if faulty_share else "rules"
        self._library, self._rules = library, ServiceRules(library)
        self._faulty_share = faulty_share

    async def answer(self, sample: Sample) -> TeacherAnswer:
        """The rules' plan for the context, whole or faulty; see ``Teacher.answer``."""
        label = self._rules.label(sample)
        context = "\x1f".join(sample.context().values())
        generator = random.Random(f"faults {context}")
        if generator.random() >= self._faulty_share:
            return TeacherAnswer(label)
        code = draw_code(generator)
        return TeacherAnswer(plant_fault(label, code, self._library, generator), {"planted": code})

    async def explain(self, sample: Sample, plan: Plan) -> ReasoningTrace:
        return self._rules.trace(sample, plan)

    async def close(self) -> None:
        """Nothing is held."""
