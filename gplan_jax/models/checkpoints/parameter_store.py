"""The ``params/`` folder of a GPlan model directory: an Orbax checkpoint of stacked parameters.

Parameters are written and read one at a time, so that a model needs host memory for its largest
parameter and not for itself.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike
from orbax.checkpoint import v1 as ocp

from gplan_jax.foundation.errors import GplanError
from gplan_jax.models.checkpoints.params import Rule, rules
from gplan_jax.models.qwen3.config import Qwen3Config

_CHUNK_BYTES = 64 * 2**20  # compressed and buffered piece by piece, not as one array


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
    target = folder.resolve()
    for path in paths:
        with context, storage_errors(folder):
            ocp.partial.save(target, _nest(path, read(path)))
        yield path
    with context, storage_errors(folder):
        ocp.partial.finalize(target)


class ParameterStore:
    """A saved ``params/`` folder, checked against a config and read parameter by parameter.

    Raises:
        GplanError: no checkpoint there, or parameters missing, extra or misshapen; all are listed.
    """

    def __init__(self, folder: Path, config: Qwen3Config) -> None:
        self._folder = folder.resolve()
        with storage_errors(folder):
            metadata = ocp.pytree_metadata(self._folder).metadata
            if not isinstance(metadata, dict):
                raise ValueError("no parameters in it")
        self._leaves = dict(_flatten(metadata))
        _check(folder, {path: tuple(leaf.shape) for path, leaf in self._leaves.items()}, config)

    @property
    def dtypes(self) -> dict[str, np.dtype]:
        """Parameter path -> stored dtype."""
        return {path: np.dtype(leaf.dtype) for path, leaf in self._leaves.items()}

    def read(self, path: str) -> np.ndarray:
        """Reads one parameter into host memory."""
        return self._load(path, self._leaves[path], np.ndarray)

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
            tree = ocp.load_pytree(self._folder, _nest(path, leaf))
            # Where an array's files are gone, Orbax logs it and returns nothing in its place.
            if not isinstance(tree, dict) or not isinstance(dict(_flatten(tree))[path], kind):
                raise ValueError(f"{path} is lost")
        return dict(_flatten(tree))[path]


@contextmanager
def storage_errors(folder: Path) -> Iterator[None]:
    """Turns Orbax's errors into ones a user can act on.

    Raises:
        OSError: ENOSPC where the disk is full (TensorStore raises a ValueError for it).
        GplanError: ``folder`` is missing, torn or not a checkpoint.
    """
    try:
        with full_disk_errors(folder):
            yield
    except (ValueError, FileNotFoundError, NotADirectoryError) as error:
        raise GplanError(
            f"{folder} is not a whole set of parameters ({storage_reason(error)}); copy or convert "
            "it again."
        ) from None


@contextmanager
def full_disk_errors(folder: Path) -> Iterator[None]:
    """Turns what TensorStore raises on a full disk, a ValueError, into OSError ENOSPC."""
    try:
        yield
    except Exception as error:
        if "No space left on device" in str(error):
            raise OSError(errno.ENOSPC, "No space left on device", str(folder)) from None
        raise


def storage_reason(error: Exception) -> str:
    """The message of an error of Orbax without TensorStore's dump of its settings."""
    return str(error).partition(" [tensorstore_spec")[0]


def stacked_shape(rule: Rule, config: Qwen3Config) -> tuple[int, ...]:
    """Shape of a parameter with its layer axis, where it has one."""
    layers = (config.num_hidden_layers,) if rule.stacked else ()
    return layers + rule.shape(config)


def _check(folder: Path, found: Mapping[str, tuple[int, ...]], config: Qwen3Config) -> None:
    wanted = {rule.path: stacked_shape(rule, config) for rule in rules(config)}
    faults = [f"missing: {path} {list(wanted[path])}" for path in wanted if path not in found]
    faults += [f"extra: {path} {list(found[path])}" for path in found if path not in wanted]
    faults += [
        f"misshapen: {path} is {list(found[path])}, config.json asks for {list(shape)}"
        for path, shape in wanted.items()
        if path in found and found[path] != shape
    ]
    if faults:
        raise GplanError(f"{folder} does not match its config.json:\n  " + "\n  ".join(faults))


def _nest(path: str, leaf: Any) -> dict[str, Any]:
    for part in reversed(path.split(".")):
        leaf = {part: leaf}
    return leaf


def _flatten(tree: Any, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value
