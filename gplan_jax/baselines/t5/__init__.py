"""T5 in Flax, and beam search under a library's plan rules, for baselines that generate."""

from gplan_jax.baselines.t5.beam import Constraint, Found, Free, beam_search
from gplan_jax.baselines.t5.config import T5Config
from gplan_jax.baselines.t5.model import T5, DecoderCache, shift_right
from gplan_jax.baselines.t5.plan_constraint import PlanConstraint, longest_plan, plan_constraint
from gplan_jax.baselines.t5.plans import search_plans, target_loss

__all__ = [
    "T5",
    "Constraint",
    "DecoderCache",
    "Found",
    "Free",
    "PlanConstraint",
    "T5Config",
    "beam_search",
    "longest_plan",
    "plan_constraint",
    "search_plans",
    "shift_right",
    "target_loss",
]
