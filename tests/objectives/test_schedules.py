from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.objectives import (
    CompressionCurriculum,
    calr_schedule,
    warmup_constant,
    warmup_cosine,
)


def test_calr_equals_golden_rates(shared: Path) -> None:
    for case in json.loads((shared / "golden/calr.json").read_text()):
        expected = np.array(case["lr"])
        schedule = calr_schedule(
            steps_per_epoch=case["steps_per_epoch"],
            total_steps=case["steps_per_epoch"] * case["epochs"],
            structure_lr=case["structure_lr"],
            polish_lr=case["polish_lr"],
            target_blocks=case["target_blocks"],
            warmup_ratio=case["warmup_ratio"],
            polish_decay_epochs=case["polish_decay_epochs"],
        )
        # The cosine's last value is a rounding residue of about 1e-8 of the peak.
        np.testing.assert_allclose(
            schedule(np.arange(len(expected))), expected, rtol=1e-6, atol=case["polish_lr"] * 1e-7
        )


@given(steps_per_epoch=st.integers(1, 20), target=st.integers(0, 12), pace=st.integers(1, 3))
def test_boundary_follows_the_curriculum(steps_per_epoch: int, target: int, pace: int) -> None:
    curriculum = CompressionCurriculum(samples_per_epoch=7, epochs_per_stage=pace)
    epochs = 16
    schedule = calr_schedule(
        steps_per_epoch=steps_per_epoch,
        total_steps=epochs * steps_per_epoch,
        structure_lr=1.0,
        polish_lr=0.25,
        target_blocks=target,
        curriculum=curriculum,
    )
    for epoch in range(epochs):
        rate = float(schedule(epoch * steps_per_epoch))
        if curriculum.stage_of_epoch(epoch) <= target:
            assert rate == 1.0
        else:
            assert rate <= 0.25


def test_single_phase_schedules() -> None:
    constant = warmup_constant(2.0, total_steps=100, warmup_ratio=0.1)
    assert [float(constant(t)) for t in (0, 5, 10, 99)] == pytest.approx([0, 1, 2, 2])
    cosine = warmup_cosine(2.0, total_steps=100, warmup_ratio=0.1)
    assert float(cosine(10)) == pytest.approx(2.0)
    assert float(cosine(55)) == pytest.approx(1.0)
    assert float(cosine(25)) == pytest.approx(1 + math.cos(math.pi * 15 / 90))
    assert float(warmup_cosine(2.0, total_steps=10)(0)) == pytest.approx(2.0)
