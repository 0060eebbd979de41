"""Loading: dtypes asked for and kept; a checkpoint that does not match its config."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

from gplan_jax.foundation.errors import GplanError
from gplan_jax.models import (
    Qwen3,
    Qwen3Config,
    convert_checkpoint,
    export_checkpoint,
    load_qwen3,
    save_model_directory,
)


@pytest.fixture
def low_precision(
    tmp_path: Path, config: Qwen3Config, random_tensors: Callable, write_checkpoint: Callable
) -> Path:
    """bfloat16 projections with float32 norms of heads, as some checkpoints have them."""
    tensors = random_tensors(config, "bfloat16")
    for name in tensors:
        if "q_norm" in name:
            tensors[name] = tensors[name].astype(np.float32)
    return write_checkpoint(tmp_path / "hf", config, tensors, shards=2)


def dtypes(model: Qwen3) -> set[str]:
    return {str(leaf.dtype) for leaf in jax.tree.leaves(nnx.state(model, nnx.Param))}


def test_stored_dtypes_are_kept_unless_others_are_asked_for(low_precision: Path) -> None:
    kept = load_qwen3(low_precision)
    assert dtypes(kept) == {"bfloat16", "float32"}
    assert (kept.compute_dtype, kept.layers.attention.query_norm[...].dtype) == (
        jnp.bfloat16,
        jnp.float32,
    )
    wide = load_qwen3(low_precision, param_dtype=jnp.float32)
    assert (dtypes(wide), wide.compute_dtype) == ({"float32"}, jnp.float32)
    mixed = load_qwen3(low_precision, param_dtype=jnp.float32, compute_dtype=jnp.bfloat16)
    assert (dtypes(mixed), mixed.compute_dtype) == ({"float32"}, jnp.bfloat16)
    computed = load_qwen3(low_precision, compute_dtype=jnp.float32)
    assert (dtypes(computed), computed.compute_dtype) == ({"bfloat16", "float32"}, jnp.float32)
    ids = np.arange(8)[None]
    np.testing.assert_allclose(computed(ids), wide(ids), atol=1e-5)


def test_a_model_directory_gives_the_same_logits(low_precision: Path, tmp_path: Path) -> None:
    convert_checkpoint(low_precision, tmp_path / "model")
    ids = np.arange(8)[None]
    loaded = load_qwen3(tmp_path / "model", remat="full")
    assert loaded.remat == "full"
    np.testing.assert_array_equal(loaded(ids), load_qwen3(low_precision, remat="full")(ids))


def test_all_faults_of_a_checkpoint_reach_the_caller(low_precision: Path) -> None:
    path = low_precision / "config.json"
    values = json.loads(path.read_text()) | {"num_hidden_layers": 4, "vocab_size": 50}
    path.write_text(json.dumps(values))
    with pytest.raises(GplanError) as error:
        load_qwen3(low_precision)
    assert "missing: model.layers.3.mlp.down_proj.weight" in str(error.value)
    assert "misshapen: model.embed_tokens.weight" in str(error.value)


def test_no_checkpoint_at_all(tmp_path: Path) -> None:
    with pytest.raises(GplanError, match=r"config\.json does not exist"):
        load_qwen3(tmp_path)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_weights_that_are_not_finite_are_refused_by_name(
    value: float,
    tmp_path: Path,
    config: Qwen3Config,
    random_tensors: Callable,
    write_checkpoint: Callable,
) -> None:
    name = "model.layers.1.mlp.up_proj.weight"
    tensors = random_tensors(config, "bfloat16")
    sound = write_checkpoint(tmp_path / "sound", config, tensors)
    tensors[name] = tensors[name].copy()
    tensors[name][2, 3] = value
    source = write_checkpoint(tmp_path / "hf", config, tensors)
    for read in (load_qwen3, lambda path: convert_checkpoint(path, tmp_path / "model")):
        with pytest.raises(GplanError, match=rf"{name} holds NaN or infinity"):
            read(source)
    assert not (tmp_path / "model").exists()
    # A model directory that an earlier version has written.
    model = load_qwen3(sound)
    model.layers.mlp.up.set_value(model.layers.mlp.up[...].at[1, 0, 0].set(value))
    save_model_directory(model, tmp_path / "model", source_dir=sound)
    with pytest.raises(GplanError, match=rf"{name} holds NaN or infinity.*convert it again"):
        load_qwen3(tmp_path / "model")
    with pytest.raises(GplanError, match=r"layers\.mlp\.up holds NaN"):
        export_checkpoint(tmp_path / "model", tmp_path / "back")
