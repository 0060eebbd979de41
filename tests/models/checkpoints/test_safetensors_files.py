"""Streamed safetensors against the safetensors library, and checkpoints that are not whole."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy

from gplan_jax.foundation.errors import GplanError
from gplan_jax.models import Qwen3Config
from gplan_jax.models.checkpoints.safetensors_files import LazyTensor, stored_tensors, write_sharded

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
    return [t.name for t in write_sharded(directory, lazy(ARRAYS), shard_bytes=shard_bytes)]


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
    with pytest.raises(GplanError, match="its header is not JSON"):
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
    with pytest.raises(GplanError, match="weight has dtype I8"):
        stored_tensors(tmp_path)


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
        (b"[1]", "its header is not a JSON object"),
        (b'{"w": 5}', "does not describe w"),
        (b'{"w": {"dtype": "F32", "shape": 3, "data_offsets": [0, 4]}}', "does not describe w"),
        (b'{"w": {"dtype": "F32", "shape": [1], "data_offsets": [4]}}', "does not describe w"),
    ],
)
def test_a_header_of_another_form(header: bytes, said: str, tmp_path: Path) -> None:
    raw = len(header).to_bytes(8, "little") + header
    (tmp_path / "model.safetensors").write_bytes(raw)
    with pytest.raises(GplanError, match=said):
        stored_tensors(tmp_path)
