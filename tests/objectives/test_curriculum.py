from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.objectives.curriculum import CompressionCurriculum


def test_one_block_more_every_epoch() -> None:
    curriculum = CompressionCurriculum(samples_per_epoch=5)
    assert [curriculum.stage(i) for i in range(15)] == [0] * 5 + [1] * 5 + [2] * 5


def test_a_stage_may_last_several_epochs() -> None:
    curriculum = CompressionCurriculum(samples_per_epoch=2, epochs_per_stage=3)
    assert [curriculum.stage(i) for i in range(14)] == [0] * 6 + [1] * 6 + [2] * 2
    still = CompressionCurriculum(samples_per_epoch=2, first_stage=1, epochs_per_stage=None)
    assert {still.stage(i) for i in range(20)} == {1}


def test_a_short_plan_is_latent_before_a_long_one() -> None:
    short, long = 2 + 4, 2 + 6
    stages = [CompressionCurriculum(1).stage(epoch) for epoch in range(13)]
    first_latent = {blocks: next(s for s in stages if s >= blocks) for blocks in (short, long)}
    assert first_latent == {short: 6, long: 8}


@given(
    samples=st.integers(1, 50),
    first=st.integers(0, 5),
    pace=st.integers(1, 3),
    stage=st.integers(0, 20),
)
def test_first_epoch_beyond_is_the_first(samples: int, first: int, pace: int, stage: int) -> None:
    curriculum = CompressionCurriculum(samples, first, pace)
    epoch = curriculum.first_epoch_beyond(stage)
    assert curriculum.stage_of_epoch(epoch) > stage
    assert epoch == 0 or curriculum.stage_of_epoch(epoch - 1) <= stage


def test_refuses_what_has_no_meaning() -> None:
    with pytest.raises(ValueError, match="samples_per_epoch"):
        CompressionCurriculum(0)
    with pytest.raises(ValueError, match="negative"):
        CompressionCurriculum(1, first_stage=-1)
    with pytest.raises(ValueError, match="epochs_per_stage"):
        CompressionCurriculum(1, epochs_per_stage=0)
    with pytest.raises(ValueError, match="stands still"):
        CompressionCurriculum(1, epochs_per_stage=None).first_epoch_beyond(3)
