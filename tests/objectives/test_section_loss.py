from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.objectives import section_normalized_loss
from gplan_jax.objectives.section_loss import (
    section_counts,
    section_loss_sums,
    section_weights,
    token_nll,
    token_weights,
)


@pytest.mark.parametrize("case", [0, 1, 2])
def test_equals_golden_loss_and_gradient(shared: Path, case: int) -> None:
    golden = np.load(shared / "golden/section_loss.npz")
    logits, labels, sections, weights = (
        golden[f"{case}_{name}"] for name in ("logits", "labels", "sections", "weights")
    )

    def loss_of(logits: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        return section_normalized_loss(
            logits,
            labels,
            sections,
            reasoning_weight=float(weights[0]),
            plan_weight=float(weights[1]),
        )

    (loss, metrics), gradient = jax.value_and_grad(loss_of, has_aux=True)(jnp.asarray(logits))
    np.testing.assert_allclose(loss, golden[f"{case}_loss"], atol=1e-5)
    np.testing.assert_allclose(metrics["loss_reasoning"], golden[f"{case}_cot"], atol=1e-5)
    np.testing.assert_allclose(metrics["loss_plan"], golden[f"{case}_json"], atol=1e-5)
    np.testing.assert_allclose(gradient, golden[f"{case}_grad"], atol=1e-5)


@given(seed=st.integers(0, 2**31), rows=st.integers(1, 6))
def test_microbatches_add_up_to_the_whole_batch(seed: int, rows: int) -> None:
    rng = np.random.default_rng(seed)
    nll = jnp.asarray(rng.exponential(size=(rows, 9)), jnp.float32)
    sections = jnp.asarray(rng.integers(0, 3, size=(rows, 9)))
    counts = section_counts(sections)
    weights = section_weights(counts, reasoning_weight=0.5, plan_weight=1.5)
    whole = jnp.sum(section_loss_sums(nll, sections) * weights)
    parts = sum(
        jnp.sum(section_loss_sums(nll[i : i + 1], sections[i : i + 1]) * weights)
        for i in range(rows)
    )
    np.testing.assert_allclose(parts, whole, rtol=1e-5)


@given(seed=st.integers(0, 2**31))
def test_plain_token_loss_is_the_mean_over_the_response(seed: int) -> None:
    rng = np.random.default_rng(seed)
    nll = rng.exponential(size=(3, 9)).astype(np.float32)
    sections = rng.integers(0, 3, size=(3, 9))
    sections[0, 0] = 2
    loss = jnp.sum(section_loss_sums(nll, sections) * token_weights(section_counts(sections)))
    np.testing.assert_allclose(loss, nll[sections > 0].mean(), rtol=1e-5)


def test_an_absent_section_leaves_the_average() -> None:
    logits = jax.random.normal(jax.random.key(0), (2, 5, 7))
    labels = jnp.full((2, 5), 3)
    loss, metrics = section_normalized_loss(logits, labels, jnp.full((2, 5), 2))
    np.testing.assert_allclose(loss, token_nll(logits[:, :-1], labels[:, 1:]).mean(), rtol=1e-6)
    assert metrics["loss_reasoning"] == 0 and metrics["tokens_reasoning"] == 0
    nothing, _ = section_normalized_loss(logits, jnp.full((2, 5), -100), jnp.zeros((2, 5)))
    assert nothing == 0


def test_labels_of_another_shape_are_refused_rather_than_broadcast() -> None:
    logits, labels = jnp.zeros((2, 5, 7)), jnp.zeros((1, 5), jnp.int32)
    with pytest.raises(AssertionError, match=r"\(1, 5\)"):
        section_normalized_loss(logits, labels, labels)
    with pytest.raises(AssertionError, match=r"\(1, 5\)"):
        section_loss_sums(jnp.zeros((2, 5)), labels)
    with pytest.raises(AssertionError, match=r"\(1, 5\)"):
        token_nll(logits, labels)
