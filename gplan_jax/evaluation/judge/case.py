"""The plan that the rules judge and its situation, with what several axes ask about them."""

from __future__ import annotations

from dataclasses import dataclass

from gplan_jax.gsisr import Intent, IntentLibrary, Plan
from gplan_jax.synthesis.amap import intents as it
from gplan_jax.synthesis.amap.situation import OrderPlace, Phase, Situation, links_to, reasons_for

WAYS = (it.RIDE, it.TRAVEL)
DUE = (Phase.SOON, Phase.THIS_DAY, Phase.JUST_STARTED, Phase.ACTIVE, Phase.LAST_DAY)
LATER = (Phase.LATER, Phase.LATER_TODAY)


@dataclass(frozen=True, slots=True)
class Case:
    """A plan in its situation: the intents that the library admits, and words for the others."""

    plan: Plan
    broken: tuple[str, ...]
    situation: Situation

    @property
    def at_order_place(self) -> bool:
        """Whether the user is where the order is for."""
        return self.situation.place is OrderPlace.AT

    @property
    def goes_to_order(self) -> bool:
        """Whether the plan brings the user to the order's place, or towards its city."""
        return any(
            it.leads_to(intent, it.ORDER_PLACE) or intent[it.TOOL] == it.LONG_DISTANCE
            for intent in self.plan
        )

    def reasons(self, index: int) -> tuple[str, ...]:
        """What in this very situation supports an intent; what holds on every trip is left out."""
        intent, s = self.plan[index], self.situation
        everywhere = (str(s.region), str(s.day_off))
        found = [reason for reason in reasons_for(intent, s) if reason not in everywhere]
        link = links_to(intent, self.plan[:index])
        return (*([link] if link else []), *found)


def case_of(plan: Plan, situation: Situation, library: IntentLibrary) -> Case:
    """Sorts out the intents that the library does not admit, which the rules can't speak of."""
    sound = [intent for intent in plan if admitted(intent, library)]
    broken = [
        str(intent.get(it.TOOL, "no tool")) for intent in plan if not admitted(intent, library)
    ]
    return Case(sound, tuple(broken), situation)


def admitted(intent: Intent, library: IntentLibrary) -> bool:
    """Whether the tool is known and has its parameters, each with an admissible value."""
    tool = library.tools.get(intent.get(library.tool_key, ""))
    if tool is None or not set(tool.parameters) <= set(intent):
        return False
    given = {key: value for key, value in intent.items() if key != library.tool_key}
    return all(
        key in (*tool.parameters, *tool.optional)
        and value in (library.parameters[key].values or {value: ""})
        for key, value in given.items()
    )


def is_way(intent: Intent, *ends: str) -> bool:
    """Whether the intent leads somewhere within the city, to one of ``ends`` where given."""
    return intent[it.TOOL] in WAYS and (not ends or intent[it.END] in ends)
