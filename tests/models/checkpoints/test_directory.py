"""Live models on disk: a trained model's directory, its Hugging Face form, and its record."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from flax import nnx

from gplan_jax.foundation.errors import GplanError
from gplan_jax.models import (
    ModelRecord,
    Qwen3,
    Qwen3Config,
    convert_checkpoint,
    export_checkpoint,
    load_qwen3,
    save_model_directory,
    save_qwen3,
)

IDS = np.arange(10)[None]


@jax.jit
def logits(model: Qwen3, ids: np.ndarray) -> jax.Array:
    return model(ids)


@pytest.fixture
def base(
    tmp_path: Path, any_config: Qwen3Config, random_tensors: Callable, write_checkpoint: Callable
) -> Path:
    """A converted bfloat16 checkpoint with one latent token."""
    tensors = random_tensors(any_config, "bfloat16")
    source = write_checkpoint(tmp_path / "hf", any_config, tensors, tokens=30)
    convert_checkpoint(source, tmp_path / "base", new_tokens=["<T>"], metadata={"a": [1]})
    return tmp_path / "base"


@pytest.fixture
def trained(base: Path) -> Qwen3:
    """The checkpoint in float32 with other weights, as training would leave it."""
    model = load_qwen3(base, param_dtype=jnp.float32)
    nnx.update(model, jax.tree.map(lambda leaf: leaf * 1.01, nnx.state(model, nnx.Param)))
    return model


def test_a_trained_model_comes_back_with_its_origin(
    base: Path, trained: Qwen3, tmp_path: Path
) -> None:
    save_model_directory(trained, tmp_path / "run", source_dir=base)
    np.testing.assert_array_equal(logits(load_qwen3(tmp_path / "run"), IDS), logits(trained, IDS))
    assert ModelRecord.read(tmp_path / "run") == ModelRecord.read(base)
    tokenizer = (tmp_path / "run" / "tokenizer.json").read_bytes()
    assert tokenizer == (base / "tokenizer.json").read_bytes()
    assert json.loads((tmp_path / "run" / "config.json").read_text())["dtype"] == "float32"


def test_saving_and_exporting_give_the_same_checkpoint(
    base: Path, trained: Qwen3, tmp_path: Path, read_checkpoint: Callable
) -> None:
    save_qwen3(trained, tmp_path / "direct", source_dir=base)
    save_model_directory(trained, tmp_path / "run", source_dir=base)
    export_checkpoint(tmp_path / "run", tmp_path / "exported")
    assert read_checkpoint(tmp_path / "direct") == read_checkpoint(tmp_path / "exported")
    names = [path.name for path in sorted((tmp_path / "direct").iterdir())]
    assert names == [path.name for path in sorted((tmp_path / "exported").iterdir())]
    np.testing.assert_array_equal(
        logits(load_qwen3(tmp_path / "direct"), IDS), logits(trained, IDS)
    )


def test_a_hugging_face_source_needs_no_conversion_first(
    tmp_path: Path, config: Qwen3Config, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    tensors = random_tensors(config)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    source = write_checkpoint(tmp_path / "hf", config, tensors)
    model = load_qwen3(source)
    save_qwen3(model, tmp_path / "again", source_dir=source)
    again = safetensors_names(tmp_path / "again")
    assert again == set(tensors)  # the second copy of the embedding is shipped as before
    save_model_directory(model, tmp_path / "run", source_dir=source)
    assert ModelRecord.read(tmp_path / "run").ships_lm_head


def safetensors_names(directory: Path) -> set[str]:
    with safetensors.safe_open(directory / "model.safetensors", "np") as file:
        return set(file.keys())


def test_a_source_of_another_shape_is_refused(
    base: Path, tmp_path: Path, config: Qwen3Config
) -> None:
    values = config.to_hf() | {"intermediate_size": 24}
    other = nnx.eval_shape(lambda: Qwen3(Qwen3Config.from_hf(values), rngs=nnx.Rngs(0)))
    with pytest.raises(GplanError, match="intermediate_size=24"):
        save_model_directory(other, tmp_path / "run", source_dir=base)
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"format": 2}', "not of format 1"),
        ("[]", "not of format 1"),
        ('{"format": 1, "new_tokens": {}, "odd": 1}', "missing or unknown: metadata, odd"),
        ("{", "not valid"),
    ],
)
def test_broken_records_are_named(tmp_path: Path, content: str, message: str) -> None:
    (tmp_path / "gplan.json").write_text(content)
    with pytest.raises(GplanError, match=message):
        ModelRecord.read(tmp_path)
