"""Sharded safetensors files, read and written one tensor at a time.

The format: 8 bytes little-endian header length, a JSON header ``{name: {dtype, shape,
data_offsets}}``, then the raw bytes. Reading it directly keeps memory at one tensor, needs no
torch for bfloat16, and lets a torn shard be named.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import read_json, write_json

SHARD_BYTES = 5_000_000_000
_SINGLE, _INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}
_CODES = {dtype: code for code, dtype in _DTYPES.items()}


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies in a checkpoint."""

    file: Path
    dtype: np.dtype
    shape: tuple[int, ...]
    offset: int

    def read(self) -> np.ndarray:
        """Reads the tensor from disk."""
        count = math.prod(self.shape)
        raw = np.fromfile(
            self.file, np.uint8, count=count * self.dtype.itemsize, offset=self.offset
        )
        return raw.view(self.dtype).reshape(self.shape)


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor to be written: its header entry now, its values when their turn comes."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Reads the headers of a checkpoint's shards.

    Raises:
        GplanError: no safetensors, a shard missing or torn, a tensor that the index promises and
            its shard does not hold, an unsupported dtype; all faults are listed at once.
    """
    shards, promised = _shards(directory)
    tensors: dict[str, StoredTensor] = {}
    faults: list[str] = []
    for shard in shards:
        try:
            tensors.update(_read_header(directory / shard))
        except GplanError as fault:
            faults.append(str(fault))
    if not faults:
        faults = [
            f"{name}: the index places it in {shard}, which does not hold it"
            for name, shard in promised.items()
            if name not in tensors or tensors[name].file.name != shard
        ]
    if faults:
        raise GplanError(
            f"{directory} is not a whole checkpoint; download it again:\n  " + "\n  ".join(faults)
        )
    return tensors


def _shards(directory: Path) -> tuple[list[str], dict[str, str]]:
    """Returns the shard file names and, where there is an index, tensor name -> shard."""
    index = directory / _INDEX
    if index.is_file():
        content = read_json(index)
        weight_map = content.get("weight_map") if isinstance(content, dict) else None
        if (
            not isinstance(weight_map, dict)
            or not weight_map
            or not all(isinstance(shard, str) for shard in weight_map.values())
        ):
            raise GplanError(
                f"{index} has no weight_map of tensors to shards; download the checkpoint again."
            )
        return sorted(set(weight_map.values())), weight_map
    if (directory / _SINGLE).is_file():
        return [_SINGLE], {}
    raise GplanError(
        f"{directory} holds neither {_INDEX} nor {_SINGLE}; name a Hugging Face checkpoint in "
        "safetensors format (pickled .bin weights are not read)."
    )


def _read_header(path: Path) -> Iterator[tuple[str, StoredTensor]]:
    if not path.is_file():
        raise GplanError(f"{path.name}: this shard is missing")
    size = path.stat().st_size
    with path.open("rb") as shard:
        length = int.from_bytes(shard.read(8), "little")
        if size < 8 or length > size - 8:
            raise GplanError(f"{path.name}: torn: {size} bytes are too few for its header")
        try:
            header: dict[str, Any] = json.loads(shard.read(length))
        except ValueError:
            raise GplanError(f"{path.name}: its header is not JSON") from None
    if not isinstance(header, dict):
        raise GplanError(f"{path.name}: its header is not a JSON object")
    header.pop("__metadata__", None)
    if broken := [name for name, entry in header.items() if not _is_entry(entry)]:
        raise GplanError(f"{path.name}: its header does not describe {', '.join(broken)}")
    end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
    if end != size:
        raise GplanError(f"{path.name}: torn: {size} bytes, but its header describes {end}")
    return iter([(name, _entry(path, 8 + length, name, header[name])) for name in header])


def _is_entry(entry: Any) -> bool:
    if not isinstance(entry, dict) or not isinstance(entry.get("dtype"), str):
        return False
    shape, offsets = entry.get("shape"), entry.get("data_offsets")
    if not isinstance(shape, list) or not isinstance(offsets, list) or len(offsets) != 2:
        return False
    return all(isinstance(number, int) and number >= 0 for number in shape + offsets)


def _entry(path: Path, data_start: int, name: str, entry: dict[str, Any]) -> StoredTensor:
    dtype = _DTYPES.get(entry["dtype"])
    if dtype is None:
        raise GplanError(
            f"{path.name}: {name} has dtype {entry['dtype']}; supported are {', '.join(_DTYPES)}"
        )
    first, last = entry["data_offsets"]
    shape = tuple(entry["shape"])
    if last - first != math.prod(shape) * dtype.itemsize:
        raise GplanError(f"{path.name}: {name} has {last - first} bytes, not those of {shape}")
    return StoredTensor(path, dtype, shape, data_start + first)


def write_sharded(
    directory: Path, tensors: Sequence[LazyTensor], *, shard_bytes: int = SHARD_BYTES
) -> Iterator[LazyTensor]:
    """Writes shards of at most ``shard_bytes`` and their index; yields each tensor once written.

    A checkpoint that fits in one shard is ``model.safetensors`` without an index. Nothing is
    written until the iterator is consumed.
    """
    shards = _split(tensors, shard_bytes)
    if len(shards) == 1:
        yield from _write_shard(directory / _SINGLE, shards[0])
        return
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        weight_map |= {tensor.name: name for tensor in shard}
        yield from _write_shard(directory / name, shard)
    total = sum(tensor.nbytes for tensor in tensors)
    write_json(directory / _INDEX, {"metadata": {"total_size": total}, "weight_map": weight_map})


def _split(tensors: Sequence[LazyTensor], shard_bytes: int) -> list[list[LazyTensor]]:
    shards: list[list[LazyTensor]] = [[]]
    filled = 0
    for tensor in tensors:
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.nbytes
    return shards


def _write_shard(path: Path, tensors: Sequence[LazyTensor]) -> Iterator[LazyTensor]:
    # transformers refuses a file that does not say which framework's layout it has.
    header: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    offset = 0
    for tensor in tensors:
        header[tensor.name] = {
            "dtype": _CODES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [offset, offset + tensor.nbytes],
        }
        offset += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)  # tensors start at a multiple of 8 bytes
    with path.open("wb") as shard:
        shard.write(len(text).to_bytes(8, "little") + text)
        for tensor in tensors:
            values = tensor.values()
            if values.shape != tensor.shape or values.dtype != tensor.dtype:
                raise ValueError(f"{tensor.name}: {values.shape} {values.dtype} is not as promised")
            shard.write(np.ascontiguousarray(values).view(np.uint8).data)
            yield tensor
