"""Logic by rules: the life cycle of a service, on the way -> arrival -> on site -> afterwards.

Each intent belongs to a range of stages; one must come before another where its last stage lies
below the other's first. Every pair in the wrong order is an inversion. Swapping two intents that
stand in the right order adds at least one inversion and takes none away, so it never raises the
score.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import combinations

from gplan_jax.evaluation.judge.case import Case, is_tagged, is_way, words
from gplan_jax.evaluation.judge.findings import Findings
from gplan_jax.gsisr import Intent, IntentLibrary
from gplan_jax.synthesis.amap.evidence import DONE
from gplan_jax.synthesis.amap.intents import (
    ARRIVAL_CARD,
    END,
    HERE,
    LONG_DISTANCE,
    ORDER_PLACE,
    PREVIOUS,
    REMINDER,
    REVIEW,
    START,
    TAG,
    TOOL,
)
from gplan_jax.synthesis.amap.situation import OrderPlace, Phase, Situation

ON_THE_WAY, ARRIVAL, ON_SITE, AFTERWARDS = range(4)
ANY_TIME = (ON_THE_WAY, AFTERWARDS)
STAGE_NAMES = ("on the way", "arrival", "on site", "afterwards")
STAGED = 3  # Intents with a stage of their own that a progression needs.


def logic_findings(case: Case, library: IntentLibrary) -> Findings:
    """Counts inversions and unmet dependencies; names progressions and chains where none is."""
    stages = [stages_of(intent, case.situation) for intent in case.plan]
    inverted = inversions(stages)
    failures = []
    if inverted:
        i, j = inverted[0]
        failures.append(f"stage inversion: {words(case.plan[i])} stands before "
                        f"{words(case.plan[j])}")  # fmt: skip
    unmet = _unresolved(case, library)
    based = [i for i in case.plan if is_tagged(i) and i.get(START) == ORDER_PLACE]
    if based and not case.at_order_place and not case.goes_to_order:
        unmet.append(f"{words(based[0])} although nothing leads to the order's place")
    if unmet:
        failures.append(f"unmet dependency: {unmet[0]}")
    if failures:
        # Failures count one by one, whatever their kind, so that curing one by causing another
        # is no gain.
        faults = len(inverted) + len(unmet)
        systemic = faults > 1 and 2 * faults > _required(stages) + len(_consumers(case))
        return Findings(failures=["; ".join(failures)], systemic=systemic)
    return Findings(positive=[*_progression(case, stages), *_chain(case)])


def stages_of(intent: Intent, s: Situation) -> tuple[int, int]:
    """The first and last stage that an intent may belong to; it does not look at its position."""
    if PREVIOUS in (intent.get(START), intent.get(END)) or (
        is_tagged(intent) and not _parks(intent)
    ):
        return ON_SITE, ON_SITE
    tool = intent[TOOL]
    if is_way(intent, ORDER_PLACE):
        return ON_THE_WAY, ON_THE_WAY
    if tool == LONG_DISTANCE and s.place is OrderPlace.OTHER_CITY and s.phase not in DONE:
        return ON_THE_WAY, ARRIVAL
    if tool == REMINDER:
        return ON_THE_WAY, ARRIVAL
    if tool == ARRIVAL_CARD or _parks(intent):
        return ARRIVAL, ARRIVAL
    if tool == REVIEW:
        # The review of an order that is over may come at once; what follows is another service.
        over = s.phase in (*DONE, Phase.LAST_DAY)
        return (ON_THE_WAY if over else AFTERWARDS), AFTERWARDS
    return ANY_TIME


def inversions(stages: Sequence[tuple[int, int]]) -> list[tuple[int, int]]:
    """The pairs (i, j), i < j, of which j should come before i."""
    pairs = combinations(range(len(stages)), 2)
    return [(i, j) for i, j in pairs if stages[j][1] < stages[i][0]]


def _required(stages: Sequence[tuple[int, int]]) -> int:
    """How many pairs have a right order at all."""
    return sum(a[1] < b[0] or b[1] < a[0] for a, b in combinations(stages, 2))


def _parks(intent: Intent) -> bool:
    return intent.get(TAG) == "停车场"


def _consumers(case: Case) -> list[int]:
    return [
        i for i, intent in enumerate(case.plan) if PREVIOUS in (intent.get(START), intent.get(END))
    ]


def _unresolved(case: Case, library: IntentLibrary) -> list[str]:
    """References to an earlier place that no earlier intent yields."""
    yields = [library.tools[intent[TOOL]].yields_place for intent in case.plan]
    unmet = [i for i in _consumers(case) if not any(yields[:i])]
    return [f"{words(case.plan[i])} before any place is given" for i in unmet]


def _progression(case: Case, stages: Sequence[tuple[int, int]]) -> list[str]:
    own = [stage for stage in stages if stage != ANY_TIME]
    names = [STAGE_NAMES[stage[0]] for stage in sorted(set(own))]
    if len(own) < STAGED or not _required(own):
        return []
    return [f"clean progression: {' -> '.join(dict.fromkeys(names))}"]


def _chain(case: Case) -> list[str]:
    """Evidence that later intents build upon where earlier ones lead."""
    tools = [intent[TOOL] for intent in case.plan]
    starts = {intent[START] for intent in case.plan if is_tagged(intent) and START in intent}
    s = case.situation
    if PREVIOUS in starts:
        return ["an intent builds on the place of an earlier one"]
    if ORDER_PLACE in starts and case.goes_to_order:
        return ["what is offered starts from the order's place, after the way there"]
    if case.at_order_place and ARRIVAL_CARD in tools and s.phase not in DONE and HERE in starts:
        return ["what is offered follows the arrival at the order's place"]
    return []
