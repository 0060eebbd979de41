"""Preference losses: against a float64 computation, finite differences, TRL and identities."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from gplan_jax import objectives
from gplan_jax.foundation.config import parse_config
from gplan_jax.foundation.errors import GplanError
from gplan_jax.objectives import (
    PreferenceLoss,
    ScDpoConfig,
    dpo_loss,
    ipo_loss,
    loss_at_reference,
    preference_terms,
    scdpo_loss,
    sppo_hard_loss,
)
from gplan_jax.objectives.preference import LOSSES

PAPER = ScDpoConfig()
ODD = ScDpoConfig(
    beta=0.7,
    anchor_margin=0.3,
    anchor_weight=1.5,
    gap_low=-0.2,
    gap_high=0.9,
    gap_low_weight=0.25,
    gap_high_weight=4.0,
    center_target=-0.4,
    center_weight=2.0,
    dpop_weight=3.0,
)
NO_EXTRAS = ScDpoConfig(anchor_weight=0, gap_low_weight=0, gap_high_weight=0, center_weight=0)
MEANS: dict[PreferenceLoss, Callable[..., Any]] = {
    name: getattr(objectives, f"{name}_loss") for name in LOSSES
}
Batch = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def random_batch(seed: int, *, size: int = 7, spread: float = 3.0) -> Batch:
    """Log-probabilities as a model has them: sums near -60, the policy near the reference."""
    rng = np.random.default_rng(seed)
    reference = rng.uniform(-120, -1, (2, size))
    policy = reference + rng.normal(0, spread, (2, size))
    return tuple(x.astype(np.float32) for x in (*policy, *reference))  # type: ignore[return-value]


def reference_terms(name: str, batch: Batch, c: ScDpoConfig) -> dict[str, np.ndarray]:
    """All terms in float64, written down from the papers' formulas."""
    pc, pr, rc, rr = (x.astype(np.float64) for x in batch)
    plus, minus = c.beta * (pc - rc), c.beta * (pr - rr)
    margin, mid = plus - minus, (plus + minus) / 2
    out = {
        "rewards/chosen": plus,
        "rewards/rejected": minus,
        "rewards/accuracies": np.where(plus > minus, 1.0, 0.0),
        "rewards/margins": margin,
        "gap/below": np.where(margin < c.gap_low, 1.0, 0.0),
        "gap/inside": np.where((c.gap_low <= margin) & (margin <= c.gap_high), 1.0, 0.0),
        "gap/above": np.where(margin > c.gap_high, 1.0, 0.0),
        "center": mid,
        "anchor_violations": np.where(plus < c.anchor_margin, 1.0, 0.0),
        "logps/chosen": pc,
        "logps/rejected": pr,
    }
    if name == "scdpo":
        terms = {
            "loss_dpo": np.logaddexp(0, -margin),
            "loss_anchor": np.fmax(0, c.anchor_margin - plus) ** 2,
            "loss_gap_low": np.fmax(0, c.gap_low - margin) ** 2,
            "loss_gap_high": np.fmax(0, margin - c.gap_high) ** 2,
            "loss_center": (mid - c.center_target) ** 2,
        }
        weights = (1, c.anchor_weight, c.gap_low_weight, c.gap_high_weight, c.center_weight)
        loss = sum(w * t for w, t in zip(weights, terms.values(), strict=True))
        return {**out, **terms, "loss": np.asarray(loss)}
    a, b, half = pc - rc, pr - rr, 1 / (2 * c.beta)
    squares = (a - half) ** 2 + (b + half) ** 2
    positive = np.where(a < 0, -a, 0)
    out["loss"] = {
        "dpo": np.logaddexp(0, -margin),
        "ipo": (a - b - half) ** 2,
        "dpop": np.logaddexp(0, -c.beta * (a - b - c.dpop_weight * positive)),
        "cal_dpo": np.logaddexp(0, -(a - b)) + squares,
        "sppo_hard": squares,
    }[name]
    return out


def analytic_gradient(name: str, batch: Batch, c: ScDpoConfig) -> tuple[np.ndarray, np.ndarray]:
    """d loss / d log pi(y+|x) and d log pi(y-|x), by hand, in float64."""
    pc, pr, rc, rr = (x.astype(np.float64) for x in batch)
    a, b, half = pc - rc, pr - rr, 1 / (2 * c.beta)
    margin = c.beta * (a - b)

    def slope(x: np.ndarray) -> np.ndarray:  # of -log sigmoid
        return -np.exp(-np.logaddexp(0, x))

    if name == "scdpo":
        plus, mid = c.beta * a, c.beta * (a + b) / 2
        d_gap = slope(margin)
        d_gap = d_gap - 2 * c.gap_low_weight * np.fmax(0, c.gap_low - margin)
        d_gap = d_gap + 2 * c.gap_high_weight * np.fmax(0, margin - c.gap_high)
        d_mid = 2 * c.center_weight * (mid - c.center_target)
        d_plus = -2 * c.anchor_weight * np.fmax(0, c.anchor_margin - plus)
        return c.beta * (d_gap + d_mid / 2 + d_plus), c.beta * (-d_gap + d_mid / 2)
    if name == "dpo":
        return c.beta * slope(margin), -c.beta * slope(margin)
    if name == "ipo":
        return 2 * (a - b - half), -2 * (a - b - half)
    if name == "dpop":
        outer = c.beta * slope(c.beta * (a - b - c.dpop_weight * np.fmax(0, -a)))
        return outer * np.where(a < 0, 1 + c.dpop_weight, 1.0), -outer
    outer = slope(a - b) if name == "cal_dpo" else np.zeros_like(a)
    return outer + 2 * (a - half), -outer + 2 * (b + half)


@cache
def gradient_of(name: PreferenceLoss, config: ScDpoConfig) -> Callable[..., tuple[jax.Array, ...]]:
    """The gradient of the batch mean by all four arrays, times B."""
    mean = MEANS[name]
    return jax.grad(lambda *x: len(x[0]) * mean(*x, config)[0], argnums=(0, 1, 2, 3))


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return jax.jit(function)


def gradient(name: PreferenceLoss, batch: Any, config: ScDpoConfig) -> tuple[jax.Array, ...]:
    return gradient_of(name, config)(*map(jnp.asarray, batch))


def far_from_bounds(batch: Batch, c: ScDpoConfig) -> bool:
    """False where rounding to float32 could decide on which side of a bound a value lies."""
    terms = reference_terms("dpo", batch, c)
    margin, plus = terms["rewards/margins"], terms["rewards/chosen"]
    gaps = [margin - c.gap_low, margin - c.gap_high, margin, plus - c.anchor_margin, plus]
    return min(np.abs(gap).min() for gap in gaps) > 1e-5


@pytest.mark.parametrize("config", [PAPER, ODD], ids=["paper", "odd"])
@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=25)
@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.1, 1.0, 3.0, 20.0]))
def test_all_terms_equal_a_float64_computation(
    name: PreferenceLoss, config: ScDpoConfig, seed: int, spread: float
) -> None:
    # A response that has drifted by 20 nats from the reference has its log-ratio rounded to 2e-6.
    near = 1e-6 if spread < 20 else 1e-5
    batch = random_batch(seed, spread=spread)
    assume(far_from_bounds(batch, config))
    expected = reference_terms(name, batch, config)
    found = preference_terms(name, *batch, config)
    assert found.keys() == expected.keys()
    for key, values in found.items():
        assert values.dtype == jnp.float32
        np.testing.assert_allclose(values, expected[key], rtol=near, atol=near, err_msg=key)
    loss, means = MEANS[name](*batch, config)
    assert means.keys() == expected.keys()
    assert float(loss) == float(means["loss"])
    for key, mean in means.items():
        wanted = expected[key].mean()
        size = np.abs(expected[key]).mean()  # a mean of both signs rounds as its parts do
        np.testing.assert_allclose(mean, wanted, rtol=near, atol=near * (1 + size), err_msg=key)


@pytest.mark.parametrize("config", [PAPER, ODD], ids=["paper", "odd"])
@pytest.mark.parametrize("name", LOSSES)
@settings(max_examples=15)
@given(seed=st.integers(0, 2**32 - 1))
def test_gradients_equal_finite_differences_and_the_formula(
    name: PreferenceLoss, config: ScDpoConfig, seed: int
) -> None:
    batch = random_batch(seed)
    assume(far_from_bounds(batch, config))
    found = compiled(gradient_of(name, config))(*batch)
    by_hand = analytic_gradient(name, batch, config)
    for which in range(4):
        step = 1e-6
        moved = [
            reference_terms(
                name,
                tuple(
                    x.astype(np.float64) + (sign * step if i == which else 0)
                    for i, x in enumerate(batch)
                ),  # type: ignore[arg-type]
                config,
            )["loss"]
            for sign in (1, -1)
        ]
        difference = (moved[0] - moved[1]) / (2 * step)
        scale = 1 + np.abs(difference).max()
        np.testing.assert_allclose(found[which], difference, rtol=1e-4, atol=1e-5 * scale)
        # A response's reference log-probability pulls exactly as hard the other way.
        sign = 1 if which < 2 else -1
        np.testing.assert_allclose(
            found[which], sign * by_hand[which % 2], rtol=2e-6, atol=2e-6 * scale
        )


def without_extras(loss: Callable[..., Any]) -> Callable[..., Any]:
    return jax.value_and_grad(lambda *x: loss(*x, NO_EXTRAS), argnums=(0, 1, 2, 3), has_aux=True)


AS_WRITTEN = (without_extras(scdpo_loss), without_extras(dpo_loss))
COMPILED = tuple(map(jax.jit, AS_WRITTEN))


@pytest.mark.parametrize("pair", [AS_WRITTEN, COMPILED], ids=["as written", "compiled"])
@settings(max_examples=30)
@given(seed=st.integers(0, 2**32 - 1))
def test_without_the_extra_weights_scdpo_is_dpo_bit_for_bit(
    pair: tuple[Callable[..., Any], Callable[..., Any]], seed: int
) -> None:
    batch = tuple(map(jnp.asarray, random_batch(seed)))
    (loss, metrics), gradients = pair[0](*batch)
    (plain_loss, plain_metrics), plain_gradients = pair[1](*batch)
    assert np.asarray(loss).tobytes() == np.asarray(plain_loss).tobytes()
    for one, other in zip(gradients, plain_gradients, strict=True):
        assert np.asarray(one).tobytes() == np.asarray(other).tobytes()
    assert metrics.keys() - plain_metrics.keys() == {"loss_dpo"}
    assert all(float(metrics[key]) == float(plain_metrics[key]) for key in plain_metrics)


def test_a_term_without_weight_is_not_computed() -> None:
    config = ScDpoConfig(anchor_weight=0, gap_high_weight=0)
    terms = preference_terms("scdpo", *random_batch(0), config)
    named = {key for key in terms if key.startswith("loss_")}
    assert named == {"loss_dpo", "loss_gap_low", "loss_center"}


@given(seed=st.integers(0, 2**32 - 1), beta=st.floats(0.05, 2.0))
def test_sppo_hard_is_half_a_center_term_and_half_ipo(seed: int, beta: float) -> None:
    config = ScDpoConfig(beta=beta)
    pc, pr, rc, rr = batch = random_batch(seed)
    a, b = pc.astype(np.float64) - rc, pr.astype(np.float64) - rr
    half = ((a + b) ** 2 + (a - b - 1 / beta) ** 2) / 2
    found = preference_terms("sppo_hard", *batch, config)["loss"]
    np.testing.assert_allclose(found, half, rtol=1e-5, atol=1e-5)


# TRL's own figures: DPOTrainer._compute_loss of trl 1.16.0 (torch 2.13.0, float64), called unbound
# with a stand-in trainer (beta 0.2, reverse_kl, precomputed reference) and a stand-in model whose
# token log-probabilities sum to the ones below, over 1 token and over 5. Only its ipo depends on
# the length: since its first versions TRL divides each log-ratio by the completion's tokens before
# the square, so ours (and the paper's) is TRL's at length 1.
TRL_BATCH: Batch = (
    np.array([-41.25, -18.5, -97.75, -3.0], np.float32),
    np.array([-44.0, -17.25, -120.5, -3.5], np.float32),
    np.array([-42.0, -18.0, -95.5, -3.0], np.float32),
    np.array([-43.0, -18.5, -99.25, -3.5], np.float32),
)
TRL_SIGMOID_GRADIENT = [
    -0.020669121054133502,
    -0.0293308789458665,
    -0.0010940635468065234,
    -0.025,
    0.020669121054133502,
    0.0293308789458665,
    0.0010940635468065234,
    0.025,
]
TRL: list[tuple[PreferenceLoss, int, float, list[float]]] = [
    ("dpo", 1, 0.5330089269630947, TRL_SIGMOID_GRADIENT),
    ("dpo", 5, 0.5330089269630947, TRL_SIGMOID_GRADIENT),
    ("ipo", 1, 74.28125, [-0.375, -2.125, 8.25, -1.25, 0.375, 2.125, -8.25, 1.25]),
    ("ipo", 5, 5.17125, [-0.215, -0.285, 0.13, -0.25, 0.215, 0.285, -0.13, 0.25]),
    ("sppo_hard", 1, 103.75, [-0.875, -1.5, -2.375, -1.25, 0.75, 1.875, -9.375, 1.25]),
    ("sppo_hard", 5, 103.75, [-0.875, -1.5, -2.375, -1.25, 0.75, 1.875, -9.375, 1.25]),
]
TRL_METRICS = {
    "rewards/chosen": -0.1,
    "rewards/rejected": -1.05,
    "rewards/accuracies": 0.5,
    "rewards/margins": 0.95,
    "logps/chosen": -40.125,
    "logps/rejected": -46.3125,
}


@pytest.mark.parametrize(("name", "length", "loss", "gradients"), TRL)
def test_equals_the_figures_of_trl(
    name: PreferenceLoss, length: int, loss: float, gradients: list[float]
) -> None:
    config = ScDpoConfig(beta=0.2)
    # What TRL's ipo does with a completion of several tokens.
    tokens = length if name == "ipo" else 1
    batch = tuple(jnp.asarray(x) / tokens for x in TRL_BATCH)
    found, metrics = MEANS[name](*batch, config)
    np.testing.assert_allclose(found, loss, rtol=1e-6)
    of_policy = np.concatenate(gradient(name, batch, config)[:2]) / (tokens * 4)
    np.testing.assert_allclose(of_policy, gradients, rtol=1e-5, atol=1e-7)
    if tokens == 1:
        for key, value in TRL_METRICS.items():
            np.testing.assert_allclose(metrics[key], value, rtol=1e-6, err_msg=key)


@pytest.mark.parametrize("config", [PAPER, ODD], ids=["paper", "odd"])
@pytest.mark.parametrize("name", LOSSES)
def test_the_loss_at_the_reference_has_a_closed_form(
    name: PreferenceLoss, config: ScDpoConfig
) -> None:
    chosen, rejected, *_ = random_batch(3)
    loss, metrics = MEANS[name](chosen, rejected, chosen, rejected, config)
    np.testing.assert_allclose(loss, loss_at_reference(name, config), rtol=1e-6)
    assert float(metrics["rewards/margins"]) == float(metrics["center"]) == 0.0
    assert float(metrics["rewards/accuracies"]) == 0.0


def test_the_paper_starts_at_log_two_and_the_lower_gap_term() -> None:
    assert loss_at_reference("scdpo") == math.log(2) + 10 * 0.1**2
    assert loss_at_reference("dpo") == loss_at_reference("scdpo", NO_EXTRAS) == math.log(2)


EXTREMES = [1e30, -1e30, -math.inf, math.inf, 0.0, -50.0, 3.4e38, 1e-38]


@pytest.mark.parametrize("name", LOSSES)
def test_extreme_log_probabilities_give_finite_loss_and_gradients(name: PreferenceLoss) -> None:
    grid = np.array(np.meshgrid(*[EXTREMES] * 4), np.float32).reshape(4, -1)
    terms = preference_terms(name, *grid, PAPER)
    for key, values in terms.items():
        assert np.isfinite(values).all(), key
    loss, _ = MEANS[name](*grid, PAPER)
    assert np.isfinite(loss)
    for values in gradient(name, tuple(grid), PAPER):
        assert np.isfinite(values).all()


@pytest.mark.parametrize("name", LOSSES)
@pytest.mark.parametrize("which", range(4))
def test_nan_stays_nan_where_it_is_and_nowhere_else(name: PreferenceLoss, which: int) -> None:
    batch = [x.copy() for x in random_batch(5)]
    batch[which][2] = np.nan
    terms = preference_terms(name, *batch, PAPER)
    for key in ("loss", "rewards/margins", "gap/inside", "rewards/accuracies"):
        assert np.flatnonzero(np.isnan(terms[key])).tolist() == [2], key
    assert np.isnan(MEANS[name](*batch, PAPER)[0])
    assert np.isnan(gradient(name, batch, PAPER)[which][2])


@given(seed=st.integers(0, 2**32 - 1), spread=st.sampled_from([0.1, 1.0, 1e3]))
def test_shares_of_the_band_sum_to_one(seed: int, spread: float) -> None:
    _, metrics = scdpo_loss(*random_batch(seed, spread=spread))
    shares = [float(metrics[f"gap/{place}"]) for place in ("below", "inside", "above")]
    assert sum(shares) == pytest.approx(1.0, abs=1e-6)


def test_the_ends_of_the_band_belong_to_it() -> None:
    config = ScDpoConfig(beta=0.5, gap_low=0.25, gap_high=0.5)
    chosen = np.array([0.5, 1.0, 0.49, 1.01], np.float32)
    zero = np.zeros(4, np.float32)
    terms = preference_terms("scdpo", chosen, zero, zero, zero, config)
    assert terms["gap/inside"].tolist() == [1, 1, 0, 0]
    assert terms["gap/below"].tolist() == [0, 0, 1, 0]
    assert terms["gap/above"].tolist() == [0, 0, 0, 1]


def pull(of: ScDpoConfig, chosen_shift: float, rejected_shift: float) -> tuple[float, float]:
    """Where descent moves the two log-probabilities, with DPO's own pull taken out."""
    at = (np.array([chosen_shift]) / of.beta, np.array([rejected_shift]) / of.beta, [0.0], [0.0])
    batch = [np.asarray(x, np.float32) for x in at]
    whole, plain = gradient("scdpo", batch, of), gradient("dpo", batch, of)
    return -float(whole[0][0] - plain[0][0]), -float(whole[1][0] - plain[1][0])


def only(**weights: float) -> ScDpoConfig:
    return NO_EXTRAS.model_copy(update=weights)


def test_the_anchor_lifts_the_chosen_response_below_its_bound_only() -> None:
    up, rejected = pull(only(anchor_weight=5.0), -0.1, 0.0)
    assert up == pytest.approx(2 * 5 * 0.1 * 0.2, rel=1e-5)
    assert rejected == 0
    assert pull(only(anchor_weight=5.0), 0.1, 0.0) == (0, 0)


def test_the_gap_widens_below_the_band_narrows_above_it_and_rests_inside() -> None:
    low, high = only(gap_low_weight=10.0), only(gap_high_weight=2.0)
    chosen, rejected = pull(low, 0.0, 0.0)
    assert chosen == -rejected == pytest.approx(2 * 10 * 0.1 * 0.2, rel=1e-5)
    chosen, rejected = pull(high, 0.2, -0.2)
    assert chosen == -rejected == pytest.approx(-2 * 2 * 0.2 * 0.2, rel=1e-5)
    for config in (low, high):
        assert pull(config, 0.075, -0.075) == (0, 0)
    assert pull(low, 0.2, -0.2) == pull(high, 0.0, 0.0) == (0, 0)


def test_the_center_pulls_both_responses_back_together() -> None:
    config = only(center_weight=3.0)
    for shift in (0.4, -0.4):
        chosen, rejected = pull(config, shift, shift)
        assert chosen == rejected == pytest.approx(-3 * shift * 0.2, rel=1e-5)
    assert pull(config, 0.3, -0.3) == pytest.approx((0, 0), abs=1e-8)


def test_dpop_holds_the_chosen_response_where_dpo_lets_it_fall() -> None:
    """Both fall, the rejected one more: DPO is content, DPOP is not."""
    zero = np.zeros(1, np.float32)
    batch = (zero - 2, zero - 6, zero, zero)
    by_dpo, by_dpop = gradient("dpo", batch, PAPER), gradient("dpop", batch, PAPER)
    assert float(by_dpop[0][0]) < 50 * float(by_dpo[0][0]) < 0


def test_half_precision_is_computed_in_float32() -> None:
    batch = [jnp.asarray(x, jnp.bfloat16) for x in random_batch(1)]
    exact = [x.astype(jnp.float32) for x in batch]
    assert float(scdpo_loss(*batch)[0]) == float(scdpo_loss(*exact)[0])


@pytest.mark.parametrize("loss", [scdpo_loss, ipo_loss, sppo_hard_loss])
def test_arrays_of_other_shapes_are_refused(loss: Callable[..., Any]) -> None:
    one, other = np.zeros(3, np.float32), np.zeros(1, np.float32)
    with pytest.raises(ValueError, match=r"\(1,\), \(3,\)"):
        loss(one, one, other, other)


def test_an_unknown_loss_is_named_with_those_there_are() -> None:
    batch = random_batch(0)
    for call in (lambda n: preference_terms(n, *batch), loss_at_reference):
        with pytest.raises(GplanError, match=r"'hinge'.*scdpo, dpo, ipo, dpop, cal_dpo, sppo"):
            call("hinge")


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"beta": 0}, "beta: .*greater than 0"),
        ({"beta": math.nan}, "beta"),
        ({"center_weight": -1}, "center_weight"),
        ({"gap_high": math.inf}, "gap_high"),
        ({"gap_low": 0.3}, r"gap_low 0.3 must not exceed gap_high 0.2"),
        ({"gap_lo": 0.3}, "gap_lo: unknown key; did you mean gap_low"),
    ],
)
def test_settings_that_cannot_be_are_named(values: dict[str, Any], words: str) -> None:
    with pytest.raises(GplanError, match=words):
        parse_config(ScDpoConfig, values, source="run.yaml")
