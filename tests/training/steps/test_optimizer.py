from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from gplan_jax.foundation import GplanError
from gplan_jax.models import Qwen3, Qwen3Config
from gplan_jax.objectives import CompressionCurriculum
from gplan_jax.training.steps.step import decay_mask, make_optimizer, make_schedule
from gplan_jax.training.steps.train_config import OptimizerConfig

CONFIG = Qwen3Config(64, 16, 24, 2, 2, 1, head_dim=8, tie_word_embeddings=True)


def test_only_norm_weights_are_spared_from_decay() -> None:
    _, params = nnx.split(Qwen3(CONFIG, rngs=nnx.Rngs(0)), nnx.Param)
    mask = {
        jax.tree_util.keystr(path): decays
        for path, decays in jax.tree_util.tree_leaves_with_path(decay_mask(params))
    }
    spared = sorted(name for name, decays in mask.items() if not decays)
    assert len(mask) == 13 and len(spared) == 5
    assert all("norm" in name for name in spared)
    config = OptimizerConfig(schedule="constant", learning_rate=0.5, weight_decay=0.1)
    optimizer = make_optimizer(config, lambda step: 0.5)
    zeros = jax.tree.map(jnp.zeros_like, params)
    updates, _ = optimizer.update(zeros, optimizer.init(params), params)
    # Without a gradient only decay is left: -rate * decay * weight.
    np.testing.assert_allclose(updates.embedding[...], -0.05 * params.embedding[...], rtol=1e-6)
    assert not np.any(updates.final_norm[...])


def test_gradients_are_clipped_by_their_global_norm() -> None:
    config = OptimizerConfig(schedule="constant", learning_rate=1.0, clip_norm=1.0, eps=1e3)
    optimizer = make_optimizer(config, lambda step: 1.0)
    params = {"a": jnp.zeros(2)}
    # With an eps far above the gradient, Adam's first step is the clipped gradient over eps.
    updates, _ = optimizer.update({"a": jnp.array([30.0, 40.0])}, optimizer.init(params), params)
    np.testing.assert_allclose(updates["a"], [-0.6e-3, -0.8e-3], rtol=1e-2)


def test_calr_needs_a_moving_curriculum() -> None:
    with pytest.raises(GplanError, match="mode=picd"):
        make_schedule(
            OptimizerConfig(schedule="calr"),
            steps_per_epoch=3,
            total_steps=9,
            curriculum=CompressionCurriculum(5, epochs_per_stage=None),
        )


@pytest.mark.parametrize(("epochs_per_stage", "begins_after"), [(1, 3), (2, 6)])
def test_calr_that_would_never_polish_is_refused(epochs_per_stage: int, begins_after: int) -> None:
    def schedule(epochs: int) -> optax.Schedule:
        return make_schedule(
            OptimizerConfig(schedule="calr", target_blocks=2),
            steps_per_epoch=3,
            total_steps=3 * epochs,
            curriculum=CompressionCurriculum(5, epochs_per_stage=epochs_per_stage),
        )

    schedule(begins_after + 1)
    for epochs in range(1, begins_after + 1):
        with pytest.raises(GplanError, match=f"after {begins_after} epochs .* run has {epochs}\\."):
            schedule(epochs)


def test_calr_of_a_run_switches_after_its_target() -> None:
    config = OptimizerConfig(
        schedule="calr", learning_rate=4e-3, polish_lr=1e-3, target_blocks=2, warmup_ratio=0.0
    )
    rates = make_schedule(
        config, steps_per_epoch=3, total_steps=18, curriculum=CompressionCurriculum(5)
    )
    assert [float(rates(step)) for step in (0, 8)] == pytest.approx([4e-3, 4e-3])
    assert float(rates(9)) == pytest.approx(1e-3)
