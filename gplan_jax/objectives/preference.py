"""SC-DPO and the preference losses it is compared with, by example and as batch means.

Letters: B examples of a batch; y+ the response matched to the context x ("chosen"), y- the one
matched to the other context of the pair ("rejected"); a = log pi(y+|x) - log ref(y+|x) and
b = log pi(y-|x) - log ref(y-|x) the log-ratios against the frozen reference; r+ = beta a and
r- = beta b the reward shifts (paper, section 4.2.2, equations 6 and 7); gap = r+ - r-.

Every loss takes the same four arrays: float [B], log-probabilities summed over the completion's
tokens with its end token. They are clipped to +-1e9 first, so that -inf and 1e30 still give a
finite loss and a finite gradient (0 for what was clipped); NaN stays NaN. All is float32.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Literal, Protocol, get_args

import jax
import jax.numpy as jnp
import pydantic
from jax import Array
from jax.typing import ArrayLike

from gplan_jax.foundation.config import Config
from gplan_jax.foundation.errors import GplanError

PreferenceLoss = Literal["scdpo", "dpo", "ipo", "dpop", "cal_dpo", "sppo_hard"]
LOSSES: tuple[PreferenceLoss, ...] = get_args(PreferenceLoss)
Terms = dict[str, Array]

LOG_PROBABILITY_BOUND = 1e9

Finite = Annotated[float, pydantic.Field(allow_inf_nan=False)]
Positive = Annotated[float, pydantic.Field(gt=0, allow_inf_nan=False)]
Weight = Annotated[float, pydantic.Field(ge=0, allow_inf_nan=False)]


class ScDpoConfig(Config):
    """Settings of the preference losses; the defaults are the paper's (section 5.1.3)."""

    beta: Positive = 0.20  # DPO temperature; tau of IPO, and 1/eta of sppo_hard
    anchor_margin: Finite = 0.0  # delta, the least reward shift of the chosen response
    anchor_weight: Weight = 5.0  # lambda_a
    gap_low: Finite = 0.10  # gamma_l, lower end of the band of the gap
    gap_high: Finite = 0.20  # gamma_h, its upper end
    gap_low_weight: Weight = 10.0  # lambda_gl, the weight below the band
    gap_high_weight: Weight = 2.0  # lambda_gh, the weight above it
    center_target: Finite = 0.0  # m, where the mean of the two reward shifts is held
    center_weight: Weight = 3.0  # lambda_c
    dpop_weight: Weight = 50.0  # lambda of DPOP; 50 as in Pal et al. 2024

    @pydantic.model_validator(mode="after")
    def _band_is_not_empty(self) -> ScDpoConfig:
        if self.gap_low > self.gap_high:
            raise ValueError(f"gap_low {self.gap_low} must not exceed gap_high {self.gap_high}")
        return self


PAPER = ScDpoConfig()


@jax.named_scope("loss")
def preference_terms(
    name: PreferenceLoss,
    policy_chosen: ArrayLike,
    policy_rejected: ArrayLike,
    reference_chosen: ArrayLike,
    reference_rejected: ArrayLike,
    config: ScDpoConfig = PAPER,
) -> Terms:
    """The loss ``name`` and all metrics, example by example.

    Args:
        name: which loss; the metrics beside it do not depend on it.
        policy_chosen: [B] log pi(y+|x).
        policy_rejected: [B] log pi(y-|x).
        reference_chosen: [B] log ref(y+|x).
        reference_rejected: [B] log ref(y-|x).
        config: temperature, band, targets and weights.

    Returns:
        float32 [B] each: ``loss``; for scdpo its terms before weighting, ``loss_dpo`` and, where
        the weight is not 0, ``loss_anchor``, ``loss_gap_low``, ``loss_gap_high``, ``loss_center``;
        ``rewards/chosen`` r+, ``rewards/rejected`` r-, ``rewards/margins`` gap, ``center``
        (r+ + r-) / 2; the indicators (0 or 1, NaN where the value is NaN) ``rewards/accuracies``
        r+ > r-, ``gap/below``, ``gap/inside`` (its ends belong to the band), ``gap/above``,
        ``anchor_violations`` r+ < delta; ``logps/chosen``, ``logps/rejected`` of the policy.

    Raises:
        ValueError: the four arrays differ in shape.
        GplanError: there is no loss of that name.
    """
    _check_name(name)
    given = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
    if len(shapes := {jnp.shape(array) for array in given}) > 1:
        raise ValueError(f"the log-probabilities must have one shape, not {sorted(shapes)}")
    # float32 and finite, so that no infinite term meets another of the other sign.
    bound = LOG_PROBABILITY_BOUND
    chosen_B, rejected_B, reference_chosen_B, reference_rejected_B = (
        jnp.clip(jnp.asarray(array, jnp.float32), -bound, bound) for array in given
    )
    a_B, b_B = chosen_B - reference_chosen_B, rejected_B - reference_rejected_B
    chosen_shift_B, rejected_shift_B, gap_B, center_B = _shifts(a_B, b_B, config)
    inside_B = (gap_B >= config.gap_low) & (gap_B <= config.gap_high)
    return {
        **_EXAMPLE_LOSSES[name](a_B, b_B, config),
        "rewards/chosen": chosen_shift_B,
        "rewards/rejected": rejected_shift_B,
        "rewards/accuracies": _indicator(gap_B > 0, gap_B),
        "rewards/margins": gap_B,
        "gap/below": _indicator(gap_B < config.gap_low, gap_B),
        "gap/inside": _indicator(inside_B, gap_B),
        "gap/above": _indicator(gap_B > config.gap_high, gap_B),
        "center": center_B,
        "anchor_violations": _indicator(chosen_shift_B < config.anchor_margin, chosen_shift_B),
        "logps/chosen": chosen_B,
        "logps/rejected": rejected_B,
    }


def loss_at_reference(name: PreferenceLoss, config: ScDpoConfig = PAPER) -> float:
    """The loss in closed form where the policy is the reference, r+ = r- = 0.

    dpo and dpop: log 2. scdpo: ``log 2 + lambda_a max(0, delta)^2 + lambda_gl max(0, gamma_l)^2 +
    lambda_gh max(0, -gamma_h)^2 + lambda_c m^2`` (0.7931 with the paper's settings). ipo:
    ``1 / (4 beta^2)``; sppo_hard twice that; cal_dpo log 2 more.

    Raises:
        GplanError: there is no loss of that name.
    """
    _check_name(name)
    square = (0.5 / config.beta) ** 2
    extras = (
        config.anchor_weight * max(0.0, config.anchor_margin) ** 2
        + config.gap_low_weight * max(0.0, config.gap_low) ** 2
        + config.gap_high_weight * max(0.0, -config.gap_high) ** 2
        + config.center_weight * config.center_target**2
    )
    values: dict[PreferenceLoss, float] = {
        "scdpo": math.log(2) + extras,
        "dpo": math.log(2),
        "ipo": square,
        "dpop": math.log(2),
        "cal_dpo": math.log(2) + 2 * square,
        "sppo_hard": 2 * square,
    }
    return values[name]


def _check_name(name: str) -> None:
    if name not in LOSSES:
        raise GplanError(f"There is no preference loss {name!r}; there are {', '.join(LOSSES)}.")


def _scdpo(a_B: Array, b_B: Array, config: ScDpoConfig) -> Terms:
    """Spatiotemporal Counterfactual DPO (paper, equations 8 to 13), the mean over B of

        -log sigmoid(gap)
        + lambda_a  max(0, delta - r+)^2          (the matched plan is not pushed down)
        + lambda_gl max(0, gamma_l - gap)^2       (a margin, but ...
        + lambda_gh max(0, gap - gamma_h)^2        ... a bounded one)
        + lambda_c  ((r+ + r-) / 2 - m)^2         (the pair does not drift)

    A term of weight 0 is not computed, so with all four at 0 this is ``dpo_loss`` bit for bit.
    """
    chosen_B, _, gap_B, center_B = _shifts(a_B, b_B, config)
    loss_B = _negative_log_sigmoid(gap_B)
    terms = {"loss_dpo": loss_B}
    if config.anchor_weight > 0:
        terms["loss_anchor"] = _squared_hinge(config.anchor_margin - chosen_B)
        loss_B = loss_B + config.anchor_weight * terms["loss_anchor"]
    if config.gap_low_weight > 0:
        terms["loss_gap_low"] = _squared_hinge(config.gap_low - gap_B)
        loss_B = loss_B + config.gap_low_weight * terms["loss_gap_low"]
    if config.gap_high_weight > 0:
        terms["loss_gap_high"] = _squared_hinge(gap_B - config.gap_high)
        loss_B = loss_B + config.gap_high_weight * terms["loss_gap_high"]
    if config.center_weight > 0:
        terms["loss_center"] = jnp.square(center_B - config.center_target)
        loss_B = loss_B + config.center_weight * terms["loss_center"]
    return {"loss": loss_B, **terms}


def _dpo(a_B: Array, b_B: Array, config: ScDpoConfig) -> Terms:
    """Vanilla DPO, the mean of ``-log sigmoid(r+ - r-)`` (Rafailov et al. 2023, equation 7)."""
    return {"loss": _negative_log_sigmoid(_shifts(a_B, b_B, config)[2])}


def _ipo(a_B: Array, b_B: Array, config: ScDpoConfig) -> Terms:
    """IPO, the mean of ``((a - b) - 1 / (2 beta))^2`` (Azar et al. 2023, equation 17).

    On summed log-probabilities, as in the paper; TRL divides each by its completion's length.
    """
    return {"loss": jnp.square(a_B - b_B - 0.5 / config.beta)}


def _dpop(a_B: Array, b_B: Array, config: ScDpoConfig) -> Terms:
    """DPO-Positive, the mean of ``-log sigmoid(beta (a - b - lambda max(0, -a)))``.

    lambda is ``config.dpop_weight`` (Pal et al. 2024, "Smaug", equation 3).
    """
    penalty_B = config.dpop_weight * jnp.maximum(-a_B, 0.0)
    return {"loss": _negative_log_sigmoid(config.beta * (a_B - b_B - penalty_B))}


def _cal_dpo(a_B: Array, b_B: Array, config: ScDpoConfig) -> Terms:
    """Cal-DPO, the mean of ``-log sigmoid(a - b) + (a - 1/(2 beta))^2 + (b + 1/(2 beta))^2``.

    The sigmoid's argument has no beta (Xiao et al. 2024); the authors' training script halves the
    two squares, which we do not.
    """
    calibration_B = _sppo_hard(a_B, b_B, config)["loss"]
    return {"loss": _negative_log_sigmoid(a_B - b_B) + calibration_B}


def _sppo_hard(a_B: Array, b_B: Array, config: ScDpoConfig) -> Terms:
    """SPPO with hard labels, the mean of ``(a - 1/(2 beta))^2 + (b + 1/(2 beta))^2``.

    Wu et al. 2024, as TRL's ``sppo_hard``. It equals half of ``(a + b)^2 + (a - b - 1/beta)^2``: a
    center term and IPO at once.
    """
    target = 0.5 / config.beta
    return {"loss": jnp.square(a_B - target) + jnp.square(b_B + target)}


_EXAMPLE_LOSSES: dict[PreferenceLoss, Callable[[Array, Array, ScDpoConfig], Terms]] = {
    "scdpo": _scdpo,
    "dpo": _dpo,
    "ipo": _ipo,
    "dpop": _dpop,
    "cal_dpo": _cal_dpo,
    "sppo_hard": _sppo_hard,
}


class BatchLoss(Protocol):
    """A preference loss as training and papers have it: the mean over a batch."""

    def __call__(
        self,
        policy_chosen: ArrayLike,
        policy_rejected: ArrayLike,
        reference_chosen: ArrayLike,
        reference_rejected: ArrayLike,
        config: ScDpoConfig = PAPER,
    ) -> tuple[Array, Terms]:
        """Arguments and errors as ``preference_terms``.

        Returns:
            The scalar mean loss, and the batch means of everything in ``preference_terms``.
        """


def _batch_mean(name: PreferenceLoss) -> BatchLoss:
    def loss(
        policy_chosen: ArrayLike,
        policy_rejected: ArrayLike,
        reference_chosen: ArrayLike,
        reference_rejected: ArrayLike,
        config: ScDpoConfig = PAPER,
    ) -> tuple[Array, Terms]:
        given = (policy_chosen, policy_rejected, reference_chosen, reference_rejected)
        terms = preference_terms(name, *given, config)
        means = {term: jnp.mean(values_B) for term, values_B in terms.items()}
        return means["loss"], means

    loss.__name__ = loss.__qualname__ = f"{name}_loss"
    loss.__doc__ = f"{_EXAMPLE_LOSSES[name].__doc__}\n{BatchLoss.__call__.__doc__}"
    return loss


scdpo_loss = _batch_mean("scdpo")
dpo_loss = _batch_mean("dpo")
ipo_loss = _batch_mean("ipo")
dpop_loss = _batch_mean("dpop")
cal_dpo_loss = _batch_mean("cal_dpo")
sppo_hard_loss = _batch_mean("sppo_hard")


def _shifts(a_B: Array, b_B: Array, config: ScDpoConfig) -> tuple[Array, Array, Array, Array]:
    """r+, r-, gap and center.

    The difference and the sum come before beta: where a and b are large and close, a - b is exact,
    while r+ - r- would subtract two rounded products.
    """
    gap_B, center_B = config.beta * (a_B - b_B), 0.5 * config.beta * (a_B + b_B)
    return config.beta * a_B, config.beta * b_B, gap_B, center_B


def _negative_log_sigmoid(x: Array) -> Array:
    return -jax.nn.log_sigmoid(x)


def _squared_hinge(excess: Array) -> Array:
    """max(0, excess)^2."""
    return jnp.square(jnp.maximum(excess, 0.0))


def _indicator(condition: Array, of: Array) -> Array:
    """1 where the condition holds, else 0; a comparison with NaN says nothing and stays NaN."""
    return jnp.where(jnp.isnan(of), jnp.nan, condition.astype(jnp.float32))
