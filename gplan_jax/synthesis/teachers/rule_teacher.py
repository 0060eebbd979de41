"""The rules as a teacher, which may be made to err as often as language models do."""

from __future__ import annotations

import random

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, Plan, Sample
from gplan_jax.reasoning import ReasoningTrace
from gplan_jax.synthesis.rules.service_rules import ServiceRules
from gplan_jax.synthesis.teachers.protocol import TeacherAnswer
from gplan_jax.synthesis.world.faults import draw_code, plant_fault


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
