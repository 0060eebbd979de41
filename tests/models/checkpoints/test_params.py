"""The mapping table: whole, invertible, and every fault of a checkpoint shown at once."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from flax import nnx

from gplan_jax.foundation.errors import GplanError
from gplan_jax.models import Qwen3, Qwen3Config
from gplan_jax.models.checkpoints.directory import model_parameters
from gplan_jax.models.checkpoints.parameter_store import stacked_shape
from gplan_jax.models.checkpoints.params import (
    check_tensors,
    checkpoint_tensors,
    read_parameter,
    rules,
)
from gplan_jax.models.checkpoints.safetensors_files import stored_tensors


def check(
    tmp_path: Path, write: Callable, config: Qwen3Config, tensors: dict[str, np.ndarray]
) -> str:
    """Writes the tensors and returns what the check says about them."""
    stored = stored_tensors(write(tmp_path / "hf", config, tensors))
    with pytest.raises(GplanError) as error:
        check_tensors(stored, config, source="the-checkpoint")
    assert "the-checkpoint does not match" in str(error.value)
    return str(error.value)


def test_the_table_covers_the_model_and_its_shapes(any_config: Qwen3Config) -> None:
    model = nnx.eval_shape(lambda: Qwen3(any_config, rngs=nnx.Rngs(0)))
    shapes = {path: leaf.shape for path, leaf in model_parameters(model).items()}
    assert shapes == {rule.path: stacked_shape(rule, any_config) for rule in rules(any_config)}
    assert len(shapes) == len(jax.tree.leaves(nnx.state(model)))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_there_and_back_is_the_identity(
    tmp_path: Path,
    any_config: Qwen3Config,
    random_tensors: Callable,
    write_checkpoint: Callable,
    dtype: str,
) -> None:
    tensors = random_tensors(any_config, dtype)
    stored = stored_tensors(write_checkpoint(tmp_path / "hf", any_config, tensors))
    parameters = {r.path: read_parameter(r, stored, any_config) for r in rules(any_config)}
    back = checkpoint_tensors(
        parameters.__getitem__,
        {path: value.dtype for path, value in parameters.items()},
        any_config,
        ships_lm_head=False,
    )
    found = {tensor.name: tensor.values() for tensor in back}
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        assert found[name].tobytes() == tensor.tobytes(), name


def test_all_faults_are_shown_at_once(
    tmp_path: Path, config: Qwen3Config, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    tensors = random_tensors(config)
    del tensors["model.layers.1.mlp.up_proj.weight"], tensors["model.norm.weight"]
    tensors["model.layers.3.mlp.up_proj.weight"] = np.zeros((20, 12), np.float32)
    tensors["model.layers.0.self_attn.q_proj.bias"] = np.zeros(24, np.float32)
    tensors["model.embed_tokens.weight"] = np.zeros((39, 12), np.float32)
    tensors["model.layers.2.input_layernorm.weight"] = np.ones(12, np.float16)
    message = check(tmp_path, write_checkpoint, config, tensors)
    assert "(6 faults)" in message
    for line in (
        "missing: model.layers.1.mlp.up_proj.weight [20, 12]",
        "missing: model.norm.weight [12]",
        "extra: model.layers.3.mlp.up_proj.weight [20, 12] (config.json has 3 layers)",
        "extra: model.layers.0.self_attn.q_proj.bias [24]",
        "misshapen: model.embed_tokens.weight is [39, 12], config.json asks for [40, 12]",
        "mixed dtypes: model.layers.{layer}.input_layernorm.weight is float16 and float32",
    ):
        assert line in message


def test_an_untied_checkpoint_needs_its_head(
    tmp_path: Path, random_tensors: Callable, write_checkpoint: Callable, config: Qwen3Config
) -> None:
    values = config.to_hf() | {"tie_word_embeddings": False}
    message = check(tmp_path, write_checkpoint, Qwen3Config.from_hf(values), random_tensors(config))
    assert "missing: lm_head.weight [40, 12]" in message


def test_a_tied_checkpoint_may_ship_its_embedding_again_but_nothing_else(
    tmp_path: Path, config: Qwen3Config, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    tensors = random_tensors(config)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"].copy()
    stored = stored_tensors(write_checkpoint(tmp_path / "same", config, tensors))
    check_tensors(stored, config, source="same")
    tensors["lm_head.weight"][7, 3] += 1
    message = check(tmp_path, write_checkpoint, config, tensors)
    assert "lm_head.weight: differs from model.embed_tokens.weight" in message
