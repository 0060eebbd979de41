"""Which facts of a situation support an intent: the reasons a STEP may give.

Every reason is a phrase of the situation, so it is true of the row; rules.yaml says which.
"""

from __future__ import annotations

from gplan_jax.gsisr import Intent, Plan
from gplan_jax.synthesis.amap.situation import Situation, amap_rules, told_of

FOLLOWS_STEP = "承接上一步"
AFTER_ARRIVING = "到订单地之后"


def reasons_for(intent: Intent, situation: Situation) -> tuple[str, ...]:
    """The phrases of ``situation`` that support ``intent``, the strongest first; may be empty."""
    return amap_rules().reasons(intent, told_of(situation))


def links_to(intent: Intent, earlier: Plan) -> str | None:
    """How an intent follows from the intents before it, None where it stands by itself."""
    return amap_rules().link(intent, earlier)
