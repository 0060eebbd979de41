"""Situations of the public set by their aspects, without rows that would be in them."""

from __future__ import annotations

from typing import Any

from gplan_jax.synthesis.rules.rule_file import HISTORY, holds
from gplan_jax.synthesis.rules.service_rules import Told, shipped_rules

AMAP = shipped_rules("amap")
# What the columns tell of; the other aspects follow from these.
OF_COLUMNS = (
    "phase", "place", "habitual", "region", "day_part", "day_off", "surroundings", "focus",
)  # fmt: skip


def values(aspect: str) -> list[str]:
    """The values of an aspect."""
    return list(dict.fromkeys(case.value for case in AMAP.file.aspects[aspect]))


def told_in(order_type: str, history: str = "", **aspects: str | None) -> Told:
    """What the rules know in a situation; an aspect that is not named does not hold."""
    known: dict[str, Any] = {"order_type": order_type, HISTORY: history}
    known |= dict.fromkeys(OF_COLUMNS) | aspects
    phrases: dict[str, str] = {}
    for name, cases in AMAP.file.aspects.items():
        if name in OF_COLUMNS:
            case = next((case for case in cases if case.value == known[name]), None)
        else:
            case = next((case for case in cases if holds(case.when, known)), None)
        known[name] = case.value if case else None
        if case:
            said = {key: phrases.get(key, "") for key in AMAP.file.aspects}
            phrases[name] = case.say.format(**said | {"order_type": order_type})
    return Told(known, phrases)
