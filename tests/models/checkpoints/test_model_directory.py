"""Model directories: live models on disk, their record, and params/ read one by one."""

from __future__ import annotations

import dataclasses
import errno
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors
from flax import nnx
from orbax.checkpoint import v1 as ocp

from gplan_jax.foundation.errors import GplanError
from gplan_jax.models import (
    ModelRecord,
    Qwen3,
    Qwen3Config,
    convert_checkpoint,
    export_checkpoint,
    load_qwen3,
    save_model_directory,
)
from gplan_jax.models.checkpoints.hugging_face import rules
from gplan_jax.models.checkpoints.model_directory import (
    ParameterStore,
    save_parameters,
    storage_errors,
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


def test_an_exported_model_is_the_model(base: Path, trained: Qwen3, tmp_path: Path) -> None:
    save_model_directory(trained, tmp_path / "run", source_dir=base)
    export_checkpoint(tmp_path / "run", tmp_path / "exported")
    np.testing.assert_array_equal(
        logits(load_qwen3(tmp_path / "exported"), IDS), logits(trained, IDS)
    )


def test_a_hugging_face_source_needs_no_conversion_first(
    tmp_path: Path, config: Qwen3Config, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    tensors = random_tensors(config)
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"]
    source = write_checkpoint(tmp_path / "hf", config, tensors)
    model = load_qwen3(source)
    save_model_directory(model, tmp_path / "run", source_dir=source)
    export_checkpoint(tmp_path / "run", tmp_path / "again")
    again = safetensors_names(tmp_path / "again")
    assert again == set(tensors)  # the second copy of the embedding is shipped as before
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


@pytest.fixture(scope="module")
def parameters(config: Qwen3Config) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    dtypes = (np.float32, ml_dtypes.bfloat16, np.float16)
    return {
        rule.path: rng.normal(size=rule.stacked_shape(config)).astype(dtypes[number % 3])
        for number, rule in enumerate(rules(config))
    }


@pytest.fixture(scope="module")
def folder(parameters: dict[str, np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("store") / "params"
    assert list(save_parameters(folder, parameters, parameters.__getitem__)) == list(parameters)
    return folder


def test_values_and_dtypes_come_back(
    folder: Path, parameters: dict[str, np.ndarray], config: Qwen3Config
) -> None:
    store = ParameterStore(folder, config)
    assert store.dtypes == {path: value.dtype for path, value in parameters.items()}
    for path, value in parameters.items():
        found = store.read(path)
        assert isinstance(found, np.ndarray)
        assert (found.dtype, found.tobytes()) == (value.dtype, value.tobytes()), path


def test_a_config_of_another_shape_is_refused_with_every_difference(
    folder: Path, config: Qwen3Config
) -> None:
    other = dataclasses.replace(config, vocab_size=41, tie_word_embeddings=False)
    with pytest.raises(GplanError) as error:
        ParameterStore(folder, other)
    assert "misshapen: embedding is [40, 12], config.json asks for [41, 12]" in str(error.value)
    assert "missing: head [41, 12]" in str(error.value)


def test_extra_parameters_are_refused(tmp_path: Path, config: Qwen3Config) -> None:
    untied = dataclasses.replace(config, tie_word_embeddings=False)
    values = {r.path: np.zeros(r.stacked_shape(untied), np.float32) for r in rules(untied)}
    for _ in save_parameters(tmp_path / "params", values, values.__getitem__):
        pass
    with pytest.raises(GplanError, match=r"extra: head \[40, 12\]"):
        ParameterStore(tmp_path / "params", config)


def test_no_checkpoint_there(tmp_path: Path, config: Qwen3Config) -> None:
    with pytest.raises(GplanError, match="not a whole set of parameters"):
        ParameterStore(tmp_path / "params", config)
    (tmp_path / "empty").mkdir()
    with pytest.raises(GplanError, match="not a whole set of parameters"):
        ParameterStore(tmp_path / "empty", config)


def test_lost_data_files_are_an_error_that_names_the_folder(
    folder: Path, config: Qwen3Config, tmp_path: Path
) -> None:
    copy = tmp_path / "params"
    shutil.copytree(folder, copy)
    for data in copy.rglob("d/*"):
        data.unlink()
    with pytest.raises(GplanError, match=r"params is not a whole set of parameters"):
        ParameterStore(copy, config).read("embedding")


def test_a_full_disk_is_told_apart_from_a_broken_checkpoint(tmp_path: Path) -> None:
    with pytest.raises(OSError) as error, storage_errors(tmp_path):
        raise ValueError("RESOURCE_EXHAUSTED: Failed to write 8 bytes: No space left on device")
    assert error.value.errno == errno.ENOSPC


def test_what_can_not_be_found_again_is_no_success(
    tmp_path: Path, parameters: dict[str, np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(GplanError, match=r"holds '\['.*can't be read back; rename"):
        list(save_parameters(tmp_path / "lr[1e-3]", parameters, parameters.__getitem__))
    # Where Orbax gives back less than it took, for whatever reason.
    monkeypatch.setattr(ocp, "pytree_metadata", lambda _: SimpleNamespace(metadata={"a": 1}))
    with pytest.raises(GplanError, match="not all that was written is found again"):
        list(save_parameters(tmp_path / "params", parameters, parameters.__getitem__))
