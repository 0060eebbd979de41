"""Tensors and parameters there and back, and every fault of a checkpoint named at once."""

from __future__ import annotations

import dataclasses
import errno
import json
from collections.abc import Callable
from pathlib import Path

import jax
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from flax import nnx
from safetensors import SafetensorError

from gplan_jax.foundation.errors import GplanError
from gplan_jax.models import Qwen3, Qwen3Config
from gplan_jax.models.checkpoints import hugging_face
from gplan_jax.models.checkpoints.hugging_face import (
    LazyTensor,
    check_tensors,
    checkpoint_tensors,
    read_parameter,
    rules,
    stored_tensors,
    write_sharded,
)
from gplan_jax.models.checkpoints.model_directory import model_parameters


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
    assert shapes == {rule.path: rule.stacked_shape(any_config) for rule in rules(any_config)}
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


RNG = np.random.default_rng(0)
ARRAYS = {
    "a": RNG.normal(size=(3, 4)).astype(np.float32),
    "b": RNG.normal(size=(5,)).astype(ml_dtypes.bfloat16),
    "c": RNG.normal(size=(2, 3, 2)).astype(np.float16),
    "d": RNG.normal(size=(4, 1)).astype(np.float32),
}


def lazy(arrays: dict[str, np.ndarray]) -> list[LazyTensor]:
    return [LazyTensor(n, a.dtype, a.shape, lambda a=a: a) for n, a in arrays.items()]


def write(directory: Path, shard_bytes: int = 10**9) -> list[str]:
    return list(write_sharded(directory, lazy(ARRAYS), shard_bytes=shard_bytes))


@pytest.mark.parametrize(("shard_bytes", "files"), [(10**9, 1), (40, 3), (1, 4)])
def test_what_is_written_is_read_by_us_and_by_the_library(
    tmp_path: Path, read_checkpoint: Callable, shard_bytes: int, files: int
) -> None:
    assert write(tmp_path, shard_bytes) == list(ARRAYS)
    assert len(list(tmp_path.glob("*.safetensors"))) == files
    theirs, ours = read_checkpoint(tmp_path), stored_tensors(tmp_path)
    assert theirs.keys() == ours.keys() == ARRAYS.keys()
    for name, array in ARRAYS.items():
        assert theirs[name][1:] == (list(array.shape), array.tobytes())
        assert ours[name].read().dtype == array.dtype
        np.testing.assert_array_equal(ours[name].read(), array)


def test_index_is_what_transformers_reads(tmp_path: Path) -> None:
    write(tmp_path, 40)
    index = json.loads((tmp_path / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(a.nbytes for a in ARRAYS.values())
    assert index["weight_map"] == {
        "a": "model-00001-of-00003.safetensors",
        "b": "model-00002-of-00003.safetensors",
        "c": "model-00002-of-00003.safetensors",
        "d": "model-00003-of-00003.safetensors",
    }
    with safetensors.safe_open(tmp_path / "model-00001-of-00003.safetensors", "np") as shard:
        assert shard.metadata() == {"format": "pt"}


@pytest.fixture
def sharded(
    tmp_path: Path, config: Qwen3Config, random_tensors: Callable, write_checkpoint: Callable
) -> Path:
    return write_checkpoint(tmp_path / "hf", config, random_tensors(config), shards=3)


def test_shards_of_the_library_are_read(
    sharded: Path, config: Qwen3Config, random_tensors: Callable
) -> None:
    expected, found = random_tensors(config), stored_tensors(sharded)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        np.testing.assert_array_equal(found[name].read(), tensor)


def test_every_missing_and_torn_shard_is_named(sharded: Path) -> None:
    (sharded / "model-0-of-3.safetensors").unlink()
    torn = sharded / "model-2-of-3.safetensors"
    torn.write_bytes(torn.read_bytes()[:-5])
    with pytest.raises(GplanError) as error:
        stored_tensors(sharded)
    assert "model-0-of-3.safetensors: this shard is missing" in str(error.value)
    assert "model-2-of-3.safetensors: torn" in str(error.value)
    assert "model-1-of-3" not in str(error.value)


@pytest.mark.parametrize("keep", [0, 5, 40])
def test_a_shard_cut_inside_its_header(sharded: Path, keep: int) -> None:
    torn = sharded / "model-1-of-3.safetensors"
    torn.write_bytes(torn.read_bytes()[:keep])
    with pytest.raises(GplanError, match=r"model-1-of-3\.safetensors: torn"):
        stored_tensors(sharded)


def test_a_header_that_is_no_header(sharded: Path) -> None:
    (sharded / "model-1-of-3.safetensors").write_bytes((8).to_bytes(8, "little") + b"<html>!!")
    with pytest.raises(
        GplanError, match=r"model-1-of-3\.safetensors: torn or not safetensors: invalid JSON"
    ):
        stored_tensors(sharded)


def test_an_index_that_promises_too_much(sharded: Path) -> None:
    path = sharded / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["model.ghost.weight"] = "model-1-of-3.safetensors"
    path.write_text(json.dumps(index))
    with pytest.raises(GplanError, match=r"model\.ghost\.weight: the index places it in"):
        stored_tensors(sharded)


def test_unsupported_dtypes_are_named(tmp_path: Path) -> None:
    content = safetensors.numpy.save({"weight": np.zeros(3, np.int8)})
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(GplanError, match=r"(?s)quantised weights.*weight has dtype I8") as error:
        stored_tensors(tmp_path)
    assert "download" not in str(error.value)


def test_an_index_may_name_the_head_that_a_tied_checkpoint_lacks(
    tmp_path: Path, config: Qwen3Config, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    tensors = random_tensors(config)
    folder = write_checkpoint(tmp_path / "hf", config, tensors, shards=2)
    path = folder / "model.safetensors.index.json"
    index = json.loads(path.read_text())
    index["weight_map"]["lm_head.weight"] = "model-1-of-2.safetensors"
    path.write_text(json.dumps(index))
    check_tensors(stored_tensors(folder), config, source="here")
    untied = dataclasses.replace(config, tie_word_embeddings=False)
    with pytest.raises(GplanError, match=r"missing: lm_head\.weight"):
        check_tensors(stored_tensors(folder), untied, source="here")


def test_pickled_weights_only(tmp_path: Path) -> None:
    (tmp_path / "pytorch_model.bin").touch()
    with pytest.raises(GplanError, match="safetensors format"):
        stored_tensors(tmp_path)


@pytest.mark.parametrize("content", ["[]", "{}", '{"weight_map": {"a": 5}}'])
def test_an_index_that_is_no_index(content: str, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors.index.json").write_text(content, encoding="utf-8")
    with pytest.raises(GplanError, match="no weight_map of tensors to shards"):
        stored_tensors(tmp_path)


@pytest.mark.parametrize(
    ("header", "said"),
    [
        (b"[1]", "invalid type: sequence"),
        (b'{"w": 5}', "invalid type: integer `5`, expected struct TensorInfo"),
        (b'{"w": {"dtype": "F32", "shape": 3, "data_offsets": [0, 4]}}', "expected a sequence"),
        (b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [4]}}', "invalid length 1"),
        (b'{"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 4]}}', "invalid shape"),
    ],
)
def test_a_header_of_another_form(header: bytes, said: str, tmp_path: Path) -> None:
    raw = len(header).to_bytes(8, "little") + header
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(GplanError, match=f"model.safetensors: torn or not safetensors: .*{said}"):
        stored_tensors(tmp_path)


def test_a_full_disk_is_an_error_of_the_system(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        # What the library says on a full disk.
        raise SafetensorError(
            "Error while serializing: I/O error: No space left on device (os error 28)"
        )

    monkeypatch.setattr(hugging_face, "save_file", full)
    with pytest.raises(OSError, match="No space left on device") as error:
        write(tmp_path)
    assert error.value.errno == errno.ENOSPC
