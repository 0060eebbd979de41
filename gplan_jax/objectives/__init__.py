"""The mathematics of training as pure functions of arrays: curriculum, schedules, losses."""

from gplan_jax.objectives.curriculum import (
    BlockOrder,
    CompressionCurriculum,
    calr_schedule,
    warmup_constant,
    warmup_cosine,
)
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
from gplan_jax.objectives.section_loss import (
    PLAN,
    REASONING,
    chunked_token_nll,
    section_loss_sums,
    section_normalized_loss,
    token_nll,
)
