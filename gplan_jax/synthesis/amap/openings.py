"""How plans open: what a situation calls for first, with the alternatives that it supports too.

rules.yaml lists openings of one to three intents, the usual one first; ``rules`` leaves out those
that no fact supports.
"""

from __future__ import annotations

from gplan_jax.gsisr import Plan
from gplan_jax.synthesis.amap import intents as it
from gplan_jax.synthesis.amap.situation import Situation, amap_rules, told_of

Openings = list[tuple[Plan, float]]

REMIND, FAR = it.simple(it.REMINDER), it.simple(it.LONG_DISTANCE)
DRIVE_ON, DRIVE_NEXT = it.travel(it.GUESS), it.travel(it.SHORT_TERM)
EAT_HERE = it.interest(it.HERE, it.NEARBY, "美食")


def openings(s: Situation) -> Openings:
    """What the plan may open with, the usual opening first."""
    return amap_rules().all_openings(told_of(s))
