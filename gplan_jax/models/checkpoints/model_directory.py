"""A GPlan model directory: its parts, and how a live model is written as one.

config.json  tokenizer.json  tokenizer_config.json  generation_config.json  gplan.json  params/

``params/`` is an Orbax checkpoint of stacked parameters, written and read one at a time, so that a
model needs host memory for its largest parameter and not for itself.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import nnx
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.typing import DTypeLike
from orbax.checkpoint import v1 as ocp

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import atomic_directory, read_json, write_json
from gplan_jax.foundation.paths import refuse_pattern
from gplan_jax.models.checkpoints import hugging_face
from gplan_jax.models.checkpoints.tokenizer_files import write_end_token
from gplan_jax.models.qwen3.config import Qwen3Config
from gplan_jax.models.qwen3.model import Qwen3

PARAMS, RECORD = "params", "gplan.json"
_FORMAT = 1
_CHUNK_BYTES = 64 * 2**20  # compressed and buffered piece by piece, not as one array
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
    """What ``gplan.json`` remembers of a model's origin."""

    new_tokens: dict[str, int]  # latent tokens and their ids
    original_tokens: int | None  # ids of the source's tokenizer; None where it had none
    original_vocab_size: int  # embedding rows of the source
    ships_lm_head: bool  # whether a tied source held lm_head.weight as well
    source_dtype: str  # of the source's embedding
    metadata: dict[str, Any]  # what the caller of convert_checkpoint wants kept

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
    """True for a GPlan model directory, False for a Hugging Face one, an exported one too."""
    weights = (hugging_face.SINGLE, hugging_face.INDEX)
    return (directory / RECORD).is_file() and not any((directory / w).is_file() for w in weights)


def read_config(directory: str | Path) -> Qwen3Config:
    """Reads the shape of a model directory or Hugging Face checkpoint."""
    path = Path(directory) / "config.json"
    return Qwen3Config.from_hf(read_json(path), source=str(path))


def copy_tokenizer(source: Path, target: Path) -> None:
    """Copies the tokenizer and what else says how text becomes tokens, over what is there."""
    for name in _COMPANIONS:
        if (source / name).is_file():
            shutil.copyfile(source / name, target / name)


def copy_companions(source: Path, target: Path, *, vocab_size: int, dtype: np.dtype) -> None:
    """Copies what lies beside the weights; config.json is rewritten only where it differs."""
    copy_tokenizer(source, target)
    values = read_json(source / "config.json")
    dtype_key = "torch_dtype" if "torch_dtype" in values else "dtype"
    changed = {**values, "vocab_size": vocab_size, dtype_key: str(dtype)}
    if changed == values:
        shutil.copyfile(source / "config.json", target / "config.json")
    else:
        write_json(target / "config.json", changed)
    if (target / "tokenizer.json").is_file():
        write_end_token(target)


def save_parameters(
    folder: Path, paths: Iterable[str], read: Callable[[str], np.ndarray | jax.Array]
) -> Iterator[str]:
    """Writes ``read(path)`` for each path, in turn; yields each path once written.

    Nothing is written until the iterator is consumed; the folder appears at its end.
    """
    context = ocp.Context()
    context.array.saving.storage_options.chunk_byte_size = _CHUNK_BYTES
    # Orbax copies host arrays against changes during an async save; here nothing changes them.
    context.memory.deepcopy_host_arrays = False
    refuse_pattern(folder)
    target, paths = folder.resolve(), list(paths)
    for path in paths:
        with context, storage_errors(folder):
            ocp.partial.save(target, unflatten_dict({path: read(path)}, sep="."))
        yield path
    with context, storage_errors(folder):
        ocp.partial.finalize(target)
        # Success is said of what can be found again.
        if jax.process_index() == 0 and _stored_leaves(target).keys() != set(paths):
            raise ValueError("not all that was written is found again")


class ParameterStore:
    """A saved ``params/`` folder, checked against a config and read parameter by parameter."""

    def __init__(self, folder: Path, config: Qwen3Config) -> None:
        refuse_pattern(folder)
        self._folder = folder.resolve()
        with storage_errors(folder):
            self._leaves = _stored_leaves(self._folder)
        wanted = {rule.path: rule.stacked_shape(config) for rule in hugging_face.rules(config)}
        found = {path: tuple(leaf.shape) for path, leaf in self._leaves.items()}
        if faults := hugging_face.shape_faults(found, wanted, layers=config.num_hidden_layers):
            raise GplanError(f"{folder} does not match its config.json:\n  " + "\n  ".join(faults))

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        return {path: np.dtype(leaf.dtype) for path, leaf in self._leaves.items()}

    def read(self, path: str) -> np.ndarray:
        """Reads one parameter into host memory; GplanError where it is not finite."""
        array: np.ndarray = self._load(path, self._leaves[path], np.ndarray)
        hugging_face.require_finite(array, f"{self._folder}: {path}")
        return array

    def read_to_devices(
        self, path: str, dtype: DTypeLike | None, sharding: jax.sharding.Sharding
    ) -> jax.Array:
        """Reads of one parameter what this process's devices hold, as ``dtype`` (None: as stored).

        Converting and slicing are left to the storage, so the host holds no more than its slices.
        """
        leaf = self._leaves[path]
        wanted = jax.ShapeDtypeStruct(leaf.shape, dtype or leaf.dtype, sharding=sharding)
        return self._load(path, wanted, jax.Array)

    def _load(self, path: str, leaf: Any, kind: type) -> Any:
        context = ocp.Context()
        context.pytree.loading.partial_load = True
        with context, storage_errors(self._folder):
            tree = ocp.load_pytree(self._folder, unflatten_dict({path: leaf}, sep="."))
            # Where an array's files are gone, Orbax logs it and returns nothing in its place.
            found = flatten_dict(tree, sep=".")[path] if isinstance(tree, dict) else None
            if not isinstance(found, kind):
                raise ValueError(f"{path} is lost")
        return found


def _stored_leaves(folder: Path) -> dict[str, Any]:
    metadata = ocp.pytree_metadata(folder).metadata
    if not isinstance(metadata, dict):
        raise ValueError("no parameters in it")
    return flatten_dict(metadata, sep=".")


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns what TensorStore raises for a full or read-only disk, ValueErrors, into OSErrors."""
    known = {
        "No space left on device": errno.ENOSPC,
        "Disk quota exceeded": errno.EDQUOT,
        "Read-only file system": errno.EROFS,
        "Permission denied": errno.EACCES,
    }
    try:
        yield
    except OSError:
        raise
    except Exception as error:
        for cause in causes_of(error):
            for text, number in known.items():
                if text in str(cause):
                    raise OSError(number, text, str(folder)) from None
        raise


def causes_of(error: BaseException) -> list[BaseException]:
    """An error and what caused it, the first cause last."""
    causes = [error]
    while (cause := causes[-1].__cause__ or causes[-1].__context__) is not None:
        causes.append(cause)
    return causes


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turns Orbax's errors into GplanError, and ``disk_errors`` into OSError."""
    try:
        with disk_errors(folder):
            yield
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        raise GplanError(
            f"{folder} is not a whole set of parameters ({storage_reason(error)}); copy or convert "
            "it again."
        ) from None


def storage_reason(error: Exception) -> str:
    """The message of an error of Orbax without TensorStore's dump of its settings."""
    return str(error).partition(" [tensorstore_spec")[0]


def save_model_directory(
    model: Qwen3, out_dir: str | Path, *, source_dir: str | Path, shards: Path | None = None
) -> None:
    """Writes a live model as a GPlan model directory, in the dtype of its weights.

    Tokenizer, config and record are taken over from ``source_dir`` (a model directory or Hugging
    Face checkpoint). ``shards`` is what ``save_shards`` has written of this model, which is moved;
    without it the weights are written here, by this process alone. GplanError where ``out_dir``
    holds something, or the source is of another shape.
    """
    source, parameters = Path(source_dir), model_parameters(model)
    # The origin of a live model is that of what it was loaded from.
    config = read_config(source)
    if config != model.config:
        raise GplanError(
            f"The model to be saved has {model.config}, but {source} has {config}; name the "
            "directory that the model was loaded from."
        )
    if (source / RECORD).is_file():
        record = ModelRecord.read(source)
    else:
        tensors = hugging_face.stored_tensors(source)
        record = ModelRecord(
            new_tokens={},
            original_tokens=None,
            original_vocab_size=config.vocab_size,
            ships_lm_head=hugging_face.LM_HEAD in tensors,
            source_dtype=str(tensors[hugging_face.EMBEDDING].dtype),
            metadata={},
        )
    with atomic_directory(out_dir) as target:
        dtype = np.dtype(model.embedding[...].dtype)
        copy_companions(source, target, vocab_size=model.config.vocab_size, dtype=dtype)
        record.write(target)
        if shards:
            os.replace(shards, target / PARAMS)
            return
        for _ in save_parameters(
            target / PARAMS, parameters, lambda path: np.asarray(parameters[path])
        ):
            pass


def save_shards(model: Qwen3, folder: Path) -> None:
    """Writes the weights from all processes at once, each the shards that its devices hold.

    Every process must call it, with the same free ``folder``: Orbax waits for all of them.
    """
    parameters = model_parameters(model)
    for _ in save_parameters(folder, parameters, parameters.__getitem__):
        pass


def model_parameters(model: Qwen3) -> dict[str, Any]:
    """Returns parameter path -> array of a live model, in table order."""
    found = flatten_dict(nnx.to_pure_dict(nnx.state(model, nnx.Param)), sep=".")
    return {rule.path: found[rule.path] for rule in hugging_face.rules(model.config)}
