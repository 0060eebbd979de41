"""A library's intents, numbered, and the rules of plans over them as bitsets: bit i, intent i."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr.library import IntentLibrary
from gplan_jax.gsisr.plans import Intent


def admissible_intents(library: IntentLibrary) -> tuple[Intent, ...]:
    """Every intent that the library admits, canonical; GplanError where a tool takes free text."""
    intents: list[Intent] = []
    for name, tool in library.tools.items():
        keys = [key for key in library.parameters if key in (*tool.parameters, *tool.optional)]
        choices: list[list[str | None]] = []
        for key in keys:
            values = library.parameters[key].values
            if values is None:
                raise GplanError(
                    f"{name} takes any text as {key}, so the library's plans can't be listed; "
                    f"list the values of {key} in the library, or decode unconstrained."
                )
            absent: list[str | None] = [None] if key in tool.optional else []
            choices.append(absent + [value for value in values if value])
        for combination in itertools.product(*choices):
            given = {k: v for k, v in zip(keys, combination, strict=True) if v is not None}
            intents.append({library.tool_key: name, **given})
    if not intents:
        raise GplanError(f"The library {library.name} admits no intent; give parameters values.")
    return tuple(intents)


@dataclass(frozen=True)
class PlanRules:
    """What ``check_plan`` asks of a plan whose intents are admissible."""

    # bounds of the plan length
    minimum: int
    maximum: int
    all: int  # every intent
    free: int  # those that do not refer to the previous place
    yields: int  # those that yield a place
    # for each intent those that can't follow it: itself, and all of its groups' tools
    closes: tuple[int, ...]
    groups: tuple[int, ...]  # the intents of each exclusive group

    def within_reach(self, available: int) -> int:
        """How many of the intents ``available`` any plan can take up at least.

        Those that never close, and one for each cluster of groups that share a tool: until one of a
        cluster is taken, all that is available of it stays so.
        """
        grouped = 0
        clusters: list[int] = []
        for group in self.groups:
            apart = [cluster for cluster in clusters if not cluster & group]
            for cluster in clusters:
                group |= cluster if cluster & group else 0
            clusters = [*apart, group]
            grouped |= group
        return (available & ~grouped).bit_count() + sum(bool(c & available) for c in clusters)


def plan_rules(
    library: IntentLibrary, intents: Sequence[Intent], *, most_steps: int | None = None
) -> PlanRules:
    """The rules of a library; ``most_steps`` bounds plans whose length is announced beforehand.

    Whatever a plan holds, it can be brought to the minimum, else it is a GplanError; an announced
    length must be within reach whatever is taken, so the maximum is lowered to what always is.
    """
    of_tool: dict[str, int] = dict.fromkeys(library.tools, 0)
    free = yields = 0
    for i, intent in enumerate(intents):
        tool = intent[library.tool_key]
        of_tool[tool] |= 1 << i
        refers = any(
            v == library.previous_place for k, v in intent.items() if k != library.tool_key
        )
        free |= 0 if refers else 1 << i
        yields |= (1 << i) * library.tools[tool].yields_place
    groups = tuple(
        sum(of_tool[tool] for tool in dict.fromkeys(group)) for group in library.exclusive_groups
    )
    closes = []
    for i in range(len(intents)):
        together = 1 << i
        for group in groups:
            together |= group if group >> i & 1 else 0
        closes.append(together)
    minimum, maximum = library.plan_length.minimum, library.plan_length.maximum
    every = (1 << len(intents)) - 1
    rules = PlanRules(minimum, maximum, every, free, yields, tuple(closes), groups)
    reach = rules.within_reach(free)
    if reach < minimum:
        raise GplanError(
            f"A plan of the library {library.name} could get stuck after {reach} intents, but "
            f"plan_length.minimum is {minimum}: only {reach} are available whatever a plan holds "
            "already. Lower the minimum, or add intents without exclusive group or reference."
        )
    if most_steps is not None:
        maximum = min(maximum, most_steps, reach)
    if maximum < minimum:
        raise GplanError(
            f"The latent vocabulary has {most_steps} steps, but a plan of the library "
            f"{library.name} has at least {minimum} intents."
        )
    return replace(rules, maximum=maximum)
