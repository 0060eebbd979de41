"""params/: values come back with their dtype, one by one; a folder that does not fit is refused."""

from __future__ import annotations

import dataclasses
import errno
import shutil
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest

from gplan_jax.foundation.errors import GplanError
from gplan_jax.models import Qwen3Config
from gplan_jax.models.checkpoints.parameter_store import (
    ParameterStore,
    save_parameters,
    stacked_shape,
    storage_errors,
)
from gplan_jax.models.checkpoints.params import rules


@pytest.fixture(scope="module")
def parameters(config: Qwen3Config) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(0)
    dtypes = (np.float32, ml_dtypes.bfloat16, np.float16)
    return {
        rule.path: rng.normal(size=stacked_shape(rule, config)).astype(dtypes[number % 3])
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
    values = {r.path: np.zeros(stacked_shape(r, untied), np.float32) for r in rules(untied)}
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
