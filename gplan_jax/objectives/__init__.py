"""The mathematics of training as pure functions of arrays: curriculum, schedules, losses."""

from gplan_jax.objectives.curriculum import BlockOrder, CompressionCurriculum
from gplan_jax.objectives.preference import (
    PreferenceLoss,
    ScDpoConfig,
    cal_dpo_loss,
    dpo_loss,
    dpop_loss,
    ipo_loss,
    loss_at_reference,
    preference_terms,
    scdpo_loss,
    sppo_hard_loss,
)
from gplan_jax.objectives.schedules import calr_schedule, warmup_constant, warmup_cosine
from gplan_jax.objectives.section_loss import (
    PLAN,
    REASONING,
    section_loss_sums,
    section_normalized_loss,
)
from gplan_jax.objectives.token_nll import chunked_token_nll, token_nll
