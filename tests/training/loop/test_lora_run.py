"""A run that trains adapters: what it leaves is an ordinary model directory."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jax.numpy as jnp
import numpy as np

from gplan_jax.data import ChatEncoder
from gplan_jax.models import convert_checkpoint, load_qwen3
from gplan_jax.models.checkpoints.model_directory import model_parameters
from gplan_jax.training.loop.loop import train
from gplan_jax.training.loop.metrics_log import read_log
from gplan_jax.training.steps.train_config import TrainConfig


def test_adapters_train_and_are_merged_at_the_end(
    training_data: dict[str, Any], tiny_hf_dir: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    config = TrainConfig.model_validate(
        {
            "mode": "picd",
            "model": str(tiny_model_dir),
            "output": str(tmp_path / "run"),
            "epochs": 2,
            "batch_size": 4,
            "accumulation_steps": 2,
            "data": training_data,
            "optimizer": {"learning_rate": 1e-2, "polish_lr": 1e-2, "target_blocks": 0},
            "precision": {"compute": "float32", "remat": "none"},
            "lora": {"rank": 4, "alpha": 8.0, "targets": ["query", "down"]},
        }
    )
    finished = train(config)
    losses = [r["loss"] for r in read_log(tmp_path / "run" / "log.jsonl") if r["kind"] == "step"]
    assert losses[-1] < losses[0]

    before = model_parameters(load_qwen3(tiny_model_dir))
    after = model_parameters(load_qwen3(finished))
    changed = {path for path in before if (before[path] != after[path]).any()}
    assert changed == {"embedding", "layers.attention.query", "layers.mlp.down"}
    rows = np.flatnonzero(np.asarray((before["embedding"] != after["embedding"]).any(axis=1)))
    # Two epochs: at most one block of each row is latent, its three tokens and no other row moved.
    latents = ChatEncoder.load(tiny_model_dir).latent_ids
    assert set(rows) <= set(latents) and len(rows) >= 3
    update = after["layers.mlp.down"] - before["layers.mlp.down"]
    for layer in update:
        assert jnp.linalg.matrix_rank(layer, rtol=1e-3) <= 4

    # The adapter itself lies beside the weights, and merged into the checkpoint gives them again.
    tokens = ChatEncoder.load(tiny_model_dir).latents.tokens
    adapter = finished / "adapter"
    convert_checkpoint(tiny_hf_dir, tmp_path / "again", new_tokens=tokens, adapter=adapter)
    again = model_parameters(load_qwen3(tmp_path / "again"))
    for path in changed:
        np.testing.assert_allclose(again[path], after[path], rtol=0, atol=1e-6)
