"""A GPlan model directory: what lies beside ``params/``, and how a live model is written as one.

config.json  tokenizer.json  tokenizer_config.json  generation_config.json  gplan.json  params/
"""

from __future__ import annotations

import dataclasses
import os
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import nnx

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import atomic_directory, read_json, write_json
from gplan_jax.models.checkpoints.parameter_store import save_parameters
from gplan_jax.models.checkpoints.params import EMBEDDING, LM_HEAD, checkpoint_tensors, rules
from gplan_jax.models.checkpoints.safetensors_files import stored_tensors, write_sharded
from gplan_jax.models.qwen3.config import Qwen3Config
from gplan_jax.models.qwen3.model import Qwen3

PARAMS, RECORD = "params", "gplan.json"
_FORMAT = 1
# What transformers and our own encoder read; vocab.json and merges.txt repeat tokenizer.json.
_COMPANIONS = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "generation_config.json",
)


@dataclasses.dataclass(frozen=True)
class ModelRecord:
    """What ``gplan.json`` remembers of a model's origin.

    Attributes:
        new_tokens: latent tokens and their ids.
        original_tokens: how many ids the source's tokenizer had; None where it had none.
        original_vocab_size: how many embedding rows the source had.
        ships_lm_head: whether a tied source held ``lm_head.weight`` as well.
        source_dtype: dtype of the source's embedding.
        metadata: whatever the caller of ``convert_checkpoint`` wants kept.
    """

    new_tokens: dict[str, int]
    original_tokens: int | None
    original_vocab_size: int
    ships_lm_head: bool
    source_dtype: str
    metadata: dict[str, Any]

    def write(self, directory: Path) -> None:
        write_json(directory / RECORD, {"format": _FORMAT, **dataclasses.asdict(self)})

    @classmethod
    def read(cls, directory: str | Path) -> ModelRecord:
        """Reads ``gplan.json``; GplanError where it is missing or of another format."""
        path = Path(directory) / RECORD
        if not path.is_file():
            raise GplanError(
                f"{directory} is not a GPlan model directory (no {RECORD}); make one with "
                "gplan convert."
            )
        values = read_json(path)
        if not isinstance(values, dict) or values.pop("format", None) != _FORMAT:
            raise GplanError(f"{path} is not of format {_FORMAT}; run gplan convert again.")
        at_fault = {field.name for field in dataclasses.fields(cls)} ^ values.keys()
        if at_fault:
            raise GplanError(f"{path}: keys missing or unknown: {', '.join(sorted(at_fault))}.")
        for name in ("new_tokens", "metadata"):
            if not isinstance(values[name], dict):
                raise GplanError(f"{path}: {name} is not a JSON object; run gplan convert again.")
        return cls(**values)


def is_model_directory(directory: Path) -> bool:
    """True for a GPlan model directory, False for a Hugging Face one."""
    return (directory / RECORD).is_file()


def read_config(directory: str | Path) -> Qwen3Config:
    """Reads the shape of a model directory or Hugging Face checkpoint."""
    path = Path(directory) / "config.json"
    return Qwen3Config.from_hf(read_json(path), source=str(path))


def copy_companions(source: Path, target: Path, *, vocab_size: int, dtype: np.dtype) -> None:
    """Copies what lies beside the weights; config.json is rewritten only where it differs.

    Args:
        source: a model directory or Hugging Face checkpoint.
        target: the directory being written.
        vocab_size: embedding rows of the weights in ``target``.
        dtype: dtype of the weights in ``target``.
    """
    for name in _COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)
    values = read_json(source / "config.json")
    dtype_key = "torch_dtype" if "torch_dtype" in values else "dtype"
    changed = {**values, "vocab_size": vocab_size, dtype_key: str(dtype)}
    if changed == values:
        shutil.copyfile(source / "config.json", target / "config.json")
    else:
        write_json(target / "config.json", changed)


def save_model_directory(
    model: Qwen3, out_dir: str | Path, *, source_dir: str | Path, shards: Path | None = None
) -> None:
    """Writes a live model as a GPlan model directory.

    Args:
        model: the weights; they are stored in their own dtype.
        out_dir: a new directory; it appears whole or not at all.
        source_dir: where the model came from (model directory or Hugging Face checkpoint):
            tokenizer, config and record are taken over from it.
        shards: what ``save_shards`` has written of this model, which is moved; without it the
            weights are written here, by this process alone.

    Raises:
        GplanError: ``out_dir`` holds something, or the source is of another shape.
    """
    source, parameters = Path(source_dir), model_parameters(model)
    _check_same_shape(model, source)
    with atomic_directory(out_dir) as target:
        _copy(model, source, target)
        _record_of(source).write(target)
        if shards:
            os.replace(shards, target / PARAMS)
            return
        for _ in save_parameters(target / PARAMS, parameters, _host(parameters)):
            pass


def save_shards(model: Qwen3, folder: Path) -> None:
    """Writes the weights from all processes at once, each the shards that its devices hold.

    Every process must call it, with the same free ``folder``: Orbax waits for all of them.
    """
    parameters = model_parameters(model)
    for _ in save_parameters(folder, parameters, parameters.__getitem__):
        pass


def save_qwen3(model: Qwen3, out_dir: str | Path, *, source_dir: str | Path) -> None:
    """Writes a live model as a Hugging Face directory; arguments as ``save_model_directory``."""
    source, parameters = Path(source_dir), model_parameters(model)
    _check_same_shape(model, source)
    tensors = checkpoint_tensors(
        _host(parameters),
        {path: np.dtype(value.dtype) for path, value in parameters.items()},
        model.config,
        ships_lm_head=_record_of(source).ships_lm_head,
    )
    with atomic_directory(out_dir) as target:
        _copy(model, source, target)
        for _ in write_sharded(target, list(tensors)):
            pass


def model_parameters(model: Qwen3) -> dict[str, Any]:
    """Returns parameter path -> array of a live model, in table order."""
    state = nnx.to_pure_dict(nnx.state(model, nnx.Param))
    found = {}
    for rule in rules(model.config):
        leaf = state
        for part in rule.path.split("."):
            leaf = leaf[part]
        found[rule.path] = leaf
    return found


def _host(parameters: Mapping[str, Any]) -> Callable[[str], np.ndarray]:
    return lambda path: np.asarray(parameters[path])


def _copy(model: Qwen3, source: Path, target: Path) -> None:
    dtype = np.dtype(model.embedding[...].dtype)
    copy_companions(source, target, vocab_size=model.config.vocab_size, dtype=dtype)


def _check_same_shape(model: Qwen3, source: Path) -> None:
    if read_config(source) != model.config:
        raise GplanError(
            f"The model to be saved has {model.config}, but {source} has {read_config(source)}; "
            "name the directory that the model was loaded from."
        )


def _record_of(source: Path) -> ModelRecord:
    if is_model_directory(source):
        return ModelRecord.read(source)
    tensors = stored_tensors(source)
    config = read_config(source)
    return ModelRecord(
        new_tokens={},
        original_tokens=None,
        original_vocab_size=config.vocab_size,
        ships_lm_head=LM_HEAD in tensors,
        source_dtype=str(tensors[EMBEDDING].dtype),
        metadata={},
    )
