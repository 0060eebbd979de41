"""Plans as short sequences of numbers: atom i is the i-th intent that the library admits."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import Intent, IntentLibrary, Plan, canonical_plan
from gplan_jax.gsisr.filter import admissible_intents


@dataclass(frozen=True, eq=False)
class Atoms:
    """The A admissible intents of a library, numbered 0..A-1; A itself stands for a plan's end."""

    library: IntentLibrary
    intents: tuple[Intent, ...]  # in canonical writing, in the library's order
    numbers: Mapping[str, int]  # canonical text of a plan of that one intent -> its number

    @classmethod
    def of(cls, library: IntentLibrary) -> Atoms:
        """Numbers a library's intents; GplanError where it takes free text or admits none."""
        intents = admissible_intents(library)
        texts = (canonical_plan([intent], library) for intent in intents)
        return cls(library, intents, {text: i for i, text in enumerate(texts)})

    @property
    def count(self) -> int:
        """A, the number of intents."""
        return len(self.intents)

    @property
    def END(self) -> int:
        """The number that ends a plan: A."""
        return len(self.intents)

    def ids(self, plan: Plan) -> tuple[int, ...]:
        """The numbers of a plan's intents; GplanError where the library does not admit one."""
        texts = [canonical_plan([intent], self.library) for intent in plan]
        for position, text in enumerate(texts, start=1):
            if text not in self.numbers:
                raise GplanError(
                    f"Intent {position}, {text[1:-1]}, is none that the library "
                    f"{self.library.name} admits; add its tool, parameter or value to the library."
                )
        return tuple(self.numbers[text] for text in texts)

    def plan(self, ids: Iterable[int]) -> Plan:
        """The intents of numbers up to the first END."""
        plan: Plan = []
        for i in ids:
            if i == self.END:
                break
            plan.append(self.intents[i])
        return plan

    def text(self, ids: Iterable[int]) -> str:
        """The canonical plan text of numbers up to the first END."""
        return canonical_plan(self.plan(ids), self.library)


def padded_plans(plans: Sequence[Sequence[int]], width: int, fill: int) -> np.ndarray:
    """Plans as int32 [N, width], filled up with ``fill``; GplanError where one is longer."""
    table = np.full((len(plans), width), fill, np.int32)
    for row, plan in zip(table, plans, strict=True):
        if len(plan) > width:
            raise GplanError(f"A plan of {len(plan)} intents does not fit into {width}.")
        row[: len(plan)] = plan
    return table
