"""Hugging Face checkpoints: tensor names against the model's parameters, and their safetensors.

Hugging Face stores a projection as [outputs, inputs] and one tensor a layer; the model stores
[inputs..., outputs...] stacked over layers. Both directions only move bytes, a tensor at a time.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import read_json, write_json
from gplan_jax.models.qwen3.config import Qwen3Config

# The library holds the tensors of a file while it writes it: this bounds an export's memory.
SHARD_BYTES = 1_000_000_000
LM_HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
SINGLE, INDEX = "model.safetensors", "model.safetensors.index.json"
_DTYPES = {
    "F32": np.dtype(np.float32),
    "F16": np.dtype(np.float16),
    "BF16": np.dtype(ml_dtypes.bfloat16),
}


@dataclasses.dataclass(frozen=True)
class Rule:
    """How one parameter of the model corresponds to tensors of a checkpoint."""

    template: str  # tensor name; {layer} marks one that exists once a layer
    path: str  # the parameter, dotted
    axes: tuple[str, ...]  # fields of Qwen3Config: the parameter's shape without layers
    inputs: int = 0  # leading axes that are a projection's inputs; 0: not transposed

    @property
    def stacked(self) -> bool:
        return "{layer}" in self.template

    def shape(self, config: Qwen3Config) -> tuple[int, ...]:
        """Shape of the parameter, or of one layer of it."""
        return tuple(getattr(config, axis) for axis in self.axes)

    def stacked_shape(self, config: Qwen3Config) -> tuple[int, ...]:
        """Shape of the parameter with its layer axis, where it has one."""
        return ((config.num_hidden_layers,) if self.stacked else ()) + self.shape(config)

    def tensor_shape(self, config: Qwen3Config) -> tuple[int, ...]:
        """Shape of the checkpoint's tensor."""
        shape = self.shape(config)
        if not self.inputs:
            return shape
        return math.prod(shape[self.inputs :]), math.prod(shape[: self.inputs])

    def names(self, config: Qwen3Config) -> list[str]:
        """The checkpoint's tensors that make up this parameter, in layer order."""
        if not self.stacked:
            return [self.template]
        return [self.template.format(layer=n) for n in range(config.num_hidden_layers)]

    def to_parameter(self, tensor: np.ndarray, config: Qwen3Config) -> np.ndarray:
        """Turns one tensor into (one layer of) the parameter."""
        return _transposed(tensor).reshape(self.shape(config)) if self.inputs else tensor

    def to_tensor(self, parameter: np.ndarray) -> np.ndarray:
        """Turns (one layer of) the parameter into the checkpoint's tensor."""
        if not self.inputs:
            return parameter
        return _transposed(parameter.reshape(math.prod(parameter.shape[: self.inputs]), -1))


_D, _F, _H, _V = "hidden_size", "intermediate_size", "head_dim", "vocab_size"
_N, _K = "num_attention_heads", "num_key_value_heads"
_LAYER = "model.layers.{layer}."
_TABLE: tuple[Rule, ...] = (
    Rule(EMBEDDING, "embedding", (_V, _D)),
    Rule(_LAYER + "input_layernorm.weight", "layers.attention_norm", (_D,)),
    Rule(_LAYER + "self_attn.q_proj.weight", "layers.attention.query", (_D, _N, _H), inputs=1),
    Rule(_LAYER + "self_attn.k_proj.weight", "layers.attention.key", (_D, _K, _H), inputs=1),
    Rule(_LAYER + "self_attn.v_proj.weight", "layers.attention.value", (_D, _K, _H), inputs=1),
    Rule(_LAYER + "self_attn.o_proj.weight", "layers.attention.output", (_N, _H, _D), inputs=2),
    Rule(_LAYER + "self_attn.q_norm.weight", "layers.attention.query_norm", (_H,)),
    Rule(_LAYER + "self_attn.k_norm.weight", "layers.attention.key_norm", (_H,)),
    Rule(_LAYER + "post_attention_layernorm.weight", "layers.mlp_norm", (_D,)),
    Rule(_LAYER + "mlp.gate_proj.weight", "layers.mlp.gate", (_D, _F), inputs=1),
    Rule(_LAYER + "mlp.up_proj.weight", "layers.mlp.up", (_D, _F), inputs=1),
    Rule(_LAYER + "mlp.down_proj.weight", "layers.mlp.down", (_F, _D), inputs=1),
    Rule("model.norm.weight", "final_norm", (_D,)),
    Rule(LM_HEAD, "head", (_V, _D)),
)


def rules(config: Qwen3Config) -> tuple[Rule, ...]:
    """The rules of a model of this shape: a tied one has no parameter ``head``."""
    return tuple(r for r in _TABLE if not (r.path == "head" and config.tie_word_embeddings))


def parameter_count(config: Qwen3Config) -> int:
    """How many numbers the weights of a model of this shape are; a tied head counts once."""
    return sum(math.prod(rule.stacked_shape(config)) for rule in rules(config))


@dataclasses.dataclass(frozen=True)
class StoredTensor:
    """Where one tensor lies in a checkpoint."""

    file: Path
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]

    def read(self) -> np.ndarray:
        # Opened for each tensor and not mapped: memory holds no more of the file than the tensor.
        with safe_open(self.file, "np", backend="pread") as shard:
            return shard.get_tensor(self.name)


@dataclasses.dataclass(frozen=True)
class LazyTensor:
    """A tensor to be written: its size now, its values when their turn comes."""

    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    values: Callable[[], np.ndarray]

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize


def stored_tensors(directory: Path) -> dict[str, StoredTensor]:
    """Reads the headers of a checkpoint's shards; GplanError lists every fault found."""
    index = directory / INDEX
    promised: dict[str, str] = {}  # tensor -> shard
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
        promised = weight_map
    elif not (directory / SINGLE).is_file():
        raise GplanError(
            f"{directory} holds neither {INDEX} nor {SINGLE}; name a Hugging Face checkpoint in "
            "safetensors format (pickled .bin weights are not read)."
        )
    tensors: dict[str, StoredTensor] = {}
    faults: list[str] = []
    unread: list[str] = []
    for file in sorted(set(promised.values())) or [SINGLE]:
        if not (directory / file).is_file():
            faults.append(f"{file}: this shard is missing")
            continue
        try:
            with safe_open(directory / file, "np", backend="pread") as shard:
                slices = {name: shard.get_slice(name) for name in shard.keys()}  # noqa: SIM118
        except SafetensorError as error:
            reason = str(error).removeprefix("Error while deserializing header: ")
            faults.append(f"{file}: torn or not safetensors: {reason}")
            continue
        codes = {name: tensor.get_dtype() for name, tensor in slices.items()}
        if unknown := [name for name, code in codes.items() if code not in _DTYPES]:
            unread.append(f"{file}: {unknown[0]} has dtype {codes[unknown[0]]}")
            continue
        for name, tensor in slices.items():
            shape = tuple(tensor.get_shape())
            tensors[name] = StoredTensor(directory / file, name, _DTYPES[codes[name]], shape)
    if unread:
        raise GplanError(
            f"{directory} holds quantised weights (FP8, AWQ, GPTQ ...) or others that are not read "
            f"(supported are {', '.join(_DTYPES)}); name the checkpoint they were made from:\n  "
            + "\n  ".join(unread)
        )
    if not faults:
        # A tied checkpoint's index may name a head that nobody saved; the config says if it lacks.
        faults = [
            f"{name}: the index places it in {file}, which does not hold it"
            for name, file in promised.items()
            if (name not in tensors and name != LM_HEAD)
            or (name in tensors and tensors[name].file.name != file)
        ]
    if faults:
        raise GplanError(
            f"{directory} is not a whole checkpoint; download it again:\n  " + "\n  ".join(faults)
        )
    return tensors


def check_tensors(tensors: Mapping[str, StoredTensor], config: Qwen3Config, *, source: str) -> None:
    """Compares a checkpoint's tensors with what the config asks for.

    GplanError lists every missing, extra and misshapen tensor, every parameter whose layers differ
    in dtype, and a tied checkpoint whose lm_head is not its embedding.
    """
    wanted = {
        name: rule.tensor_shape(config) for rule in rules(config) for name in rule.names(config)
    }
    tied_head = tensors.get(LM_HEAD) if config.tie_word_embeddings else None
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if tied_head is not None:
        del found[LM_HEAD]
    faults = shape_faults(found, wanted, layers=config.num_hidden_layers)
    for rule in rules(config):
        dtypes = {str(tensors[name].dtype) for name in rule.names(config) if name in tensors}
        if len(dtypes) > 1:
            faults.append(f"mixed dtypes: {rule.template} is {' and '.join(sorted(dtypes))}")
    if tied_head is not None and EMBEDDING in tensors:
        embedding = tensors[EMBEDDING]
        alike = (tied_head.shape, tied_head.dtype) == (embedding.shape, embedding.dtype)
        alike = alike and np.array_equal(
            tied_head.read().view(np.uint8), embedding.read().view(np.uint8)
        )
        if not alike:
            faults.append(
                f"{LM_HEAD}: differs from {EMBEDDING}, but config.json says tie_word_embeddings"
            )
    if faults:
        raise GplanError(
            f"{source} does not match its config.json ({len(faults)} faults):\n  "
            + "\n  ".join(faults)
        )


def shape_faults(
    found: Mapping[str, tuple[int, ...]], wanted: Mapping[str, tuple[int, ...]], *, layers: int
) -> list[str]:
    """What is missing, extra or misshapen among arrays that a config asks for."""
    faults = [f"missing: {name} {list(wanted[name])}" for name in wanted if name not in found]
    for name in found:
        if name not in wanted:
            layer = re.match(r"model\.layers\.(\d+)\.", name)
            beyond = layer is not None and int(layer[1]) >= layers
            hint = f" (config.json has {layers} layers)" if beyond else ""
            faults.append(f"extra: {name} {list(found[name])}{hint}")
    faults += [
        f"misshapen: {name} is {list(found[name])}, config.json asks for {list(shape)}"
        for name, shape in wanted.items()
        if name in found and found[name] != shape
    ]
    return faults


def read_parameter(
    rule: Rule, tensors: Mapping[str, StoredTensor], config: Qwen3Config
) -> np.ndarray:
    """Reads one parameter, a tensor at a time, into its (stacked) array."""
    layers = layers_of(rule, tensors, config)
    if not rule.stacked:
        return next(layers)
    stacked = np.empty(rule.stacked_shape(config), tensors[rule.names(config)[0]].dtype)
    for number, layer in enumerate(layers):
        stacked[number] = layer
    return stacked


def layers_of(
    rule: Rule, tensors: Mapping[str, StoredTensor], config: Qwen3Config
) -> Iterator[np.ndarray]:
    """Yields the layers of a parameter as they are read; one array where it is not stacked."""
    for name in rule.names(config):
        tensor = tensors[name].read()
        require_finite(tensor, f"{tensors[name].file}: {name}")
        yield rule.to_parameter(tensor, config)


def require_finite(array: np.ndarray, what: str) -> None:
    """Raises GplanError where an array of floats holds NaN or infinity."""
    # As integers, these are the largest of either sign: two fast sweeps that take no memory.
    size = array.dtype.itemsize
    infinite = np.array([np.inf, -np.inf], array.dtype)
    positive, negative = infinite.view(f"i{size}")[0], infinite.view(f"u{size}")[1]
    if array.view(f"i{size}").max() >= positive or array.view(f"u{size}").max() >= negative:
        raise GplanError(
            f"{what} holds NaN or infinity, which would make every plan meaningless; bring the "
            "weights from their source again, or take an earlier checkpoint of their training."
        )


def checkpoint_tensors(
    read: Callable[[str], np.ndarray],
    dtypes: Mapping[str, np.dtype],
    config: Qwen3Config,
    *,
    ships_lm_head: bool,
) -> list[LazyTensor]:
    """The Hugging Face tensors of a model, parameter by parameter.

    ``read`` gives the array of a parameter path. It is called when a tensor is written and only the
    last array is kept, so memory holds one parameter. ``ships_lm_head`` writes a tied model's
    ``lm_head.weight`` too, as its source checkpoint did.
    """
    read = functools.lru_cache(maxsize=1)(read)

    def values(rule: Rule, layer: int) -> np.ndarray:
        parameter = read(rule.path)
        return rule.to_tensor(parameter[layer] if rule.stacked else parameter)

    tensors = []
    for rule in rules(config):
        names = rule.names(config)
        if rule.path == "embedding" and config.tie_word_embeddings and ships_lm_head:
            names = [EMBEDDING, LM_HEAD]
        for layer, name in enumerate(names):
            shape, dtype = rule.tensor_shape(config), dtypes[rule.path]
            tensors.append(LazyTensor(name, dtype, shape, functools.partial(values, rule, layer)))
    return tensors


def write_sharded(
    directory: Path, tensors: Sequence[LazyTensor], *, shard_bytes: int = SHARD_BYTES
) -> Iterator[str]:
    """Writes shards of at most ``shard_bytes`` and their index; yields each tensor's name in turn.

    A checkpoint that fits in one shard is ``model.safetensors`` without an index. Nothing is
    written until the iterator is consumed.
    """
    shards: list[list[LazyTensor]] = [[]]
    for tensor in tensors:
        filled = sum(other.nbytes for other in shards[-1])
        if shards[-1] and filled + tensor.nbytes > shard_bytes:
            shards.append([])
        shards[-1].append(tensor)
    weight_map: dict[str, str] = {}
    for number, shard in enumerate(shards, start=1):
        file = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        file = SINGLE if len(shards) == 1 else file
        arrays = {}
        for tensor in shard:
            values = np.ascontiguousarray(tensor.values())
            if values.shape != tensor.shape or values.dtype != tensor.dtype:
                raise ValueError(f"{tensor.name}: {values.shape} {values.dtype} is not as promised")
            arrays[tensor.name] = values
            yield tensor.name
        try:
            # transformers refuses a file that does not say which framework's layout it has.
            save_file(arrays, directory / file, metadata={"format": "pt"})
        except SafetensorError as error:
            if code := re.search(r"\(os error (\d+)\)", str(error)):
                errno = int(code[1])
                raise OSError(errno, os.strerror(errno), str(directory / file)) from None
            raise
        weight_map |= dict.fromkeys(arrays, file)
    if len(shards) > 1:
        total = sum(tensor.nbytes for tensor in tensors)
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_json(directory / INDEX, index)


def _transposed(matrix: np.ndarray) -> np.ndarray:
    # Same-size integers copy several times faster than bfloat16, which numpy moves one by one.
    bits = matrix.view(f"u{matrix.dtype.itemsize}")
    return np.ascontiguousarray(bits.T).view(matrix.dtype)
