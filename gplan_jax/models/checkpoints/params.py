"""The table between Hugging Face tensor names and the model's parameters, both ways.

Hugging Face stores a projection as [outputs, inputs] and one tensor a layer; the model stores
[inputs..., outputs...] stacked over layers. Both directions only move bytes.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from gplan_jax.foundation.errors import GplanError
from gplan_jax.models.checkpoints.safetensors_files import LazyTensor, StoredTensor
from gplan_jax.models.qwen3.config import Qwen3Config

LM_HEAD = "lm_head.weight"
EMBEDDING = "model.embed_tokens.weight"
_LAYER = "model.layers.{layer}."


@dataclasses.dataclass(frozen=True)
class Rule:
    """How one parameter of the model corresponds to tensors of a checkpoint.

    Attributes:
        template: tensor name; ``{layer}`` marks a tensor that exists once a layer.
        path: the parameter, dotted.
        shape: config -> shape of the parameter without its layer axis.
        inputs: how many leading axes of that shape are inputs of a projection (the tensor is then
            transposed); 0 where the tensor is taken as it is.
    """

    template: str
    path: str
    shape: Callable[[Qwen3Config], tuple[int, ...]]
    inputs: int = 0

    @property
    def pattern(self) -> re.Pattern[str]:
        return re.compile(re.escape(self.template).replace(r"\{layer\}", r"(?P<layer>\d+)"))

    @property
    def stacked(self) -> bool:
        return "{layer}" in self.template

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


def _attention(name: str, path: str, heads: str) -> Rule:
    return Rule(
        f"{_LAYER}self_attn.{name}.weight",
        f"layers.attention.{path}",
        lambda c: (c.hidden_size, getattr(c, heads), c.head_dim),
        inputs=1,
    )


TABLE: tuple[Rule, ...] = (
    Rule(EMBEDDING, "embedding", lambda c: (c.vocab_size, c.hidden_size)),
    Rule(_LAYER + "input_layernorm.weight", "layers.attention_norm", lambda c: (c.hidden_size,)),
    _attention("q_proj", "query", "num_attention_heads"),
    _attention("k_proj", "key", "num_key_value_heads"),
    _attention("v_proj", "value", "num_key_value_heads"),
    Rule(
        _LAYER + "self_attn.o_proj.weight",
        "layers.attention.output",
        lambda c: (c.num_attention_heads, c.head_dim, c.hidden_size),
        inputs=2,
    ),
    Rule(
        _LAYER + "self_attn.q_norm.weight",
        "layers.attention.query_norm",
        lambda c: (c.head_dim,),
    ),
    Rule(_LAYER + "self_attn.k_norm.weight", "layers.attention.key_norm", lambda c: (c.head_dim,)),
    Rule(_LAYER + "post_attention_layernorm.weight", "layers.mlp_norm", lambda c: (c.hidden_size,)),
    Rule(
        _LAYER + "mlp.gate_proj.weight",
        "layers.mlp.gate",
        lambda c: (c.hidden_size, c.intermediate_size),
        inputs=1,
    ),
    Rule(
        _LAYER + "mlp.up_proj.weight",
        "layers.mlp.up",
        lambda c: (c.hidden_size, c.intermediate_size),
        inputs=1,
    ),
    Rule(
        _LAYER + "mlp.down_proj.weight",
        "layers.mlp.down",
        lambda c: (c.intermediate_size, c.hidden_size),
        inputs=1,
    ),
    Rule("model.norm.weight", "final_norm", lambda c: (c.hidden_size,)),
    Rule(LM_HEAD, "head", lambda c: (c.vocab_size, c.hidden_size)),
)


def rules(config: Qwen3Config) -> tuple[Rule, ...]:
    """The rules of a model of this shape: a tied one has no parameter ``head``."""
    return tuple(r for r in TABLE if not (r.path == "head" and config.tie_word_embeddings))


def check_tensors(tensors: Mapping[str, StoredTensor], config: Qwen3Config, *, source: str) -> None:
    """Compares a checkpoint's tensors with what the config asks for.

    Raises:
        GplanError: listing every missing, extra and misshapen tensor, every parameter whose layers
            differ in dtype, and a tied checkpoint whose lm_head is not its embedding.
    """
    wanted = {
        name: rule.tensor_shape(config) for rule in rules(config) for name in rule.names(config)
    }
    optional = {LM_HEAD} if config.tie_word_embeddings else set()
    faults = [f"missing: {name} {list(wanted[name])}" for name in wanted if name not in tensors]
    faults += [
        f"extra: {name} {list(tensors[name].shape)}{_hint(name, config)}"
        for name in tensors
        if name not in wanted and name not in optional
    ]
    faults += [
        f"misshapen: {name} is {list(tensors[name].shape)}, config.json asks for {list(shape)}"
        for name, shape in wanted.items()
        if name in tensors and tensors[name].shape != shape
    ]
    for rule in rules(config):
        dtypes = {str(tensors[name].dtype) for name in rule.names(config) if name in tensors}
        if len(dtypes) > 1:
            faults.append(f"mixed dtypes: {rule.template} is {' and '.join(sorted(dtypes))}")
    if optional & tensors.keys() and EMBEDDING in tensors and not _same_as_embedding(tensors):
        faults.append(
            f"{LM_HEAD}: differs from {EMBEDDING}, but config.json says tie_word_embeddings"
        )
    if faults:
        raise GplanError(
            f"{source} does not match its config.json ({len(faults)} faults):\n  "
            + "\n  ".join(faults)
        )


def read_parameter(
    rule: Rule, tensors: Mapping[str, StoredTensor], config: Qwen3Config
) -> np.ndarray:
    """Reads one parameter, a tensor at a time, into its (stacked) array."""
    parts = layers_of(rule, tensors, config)
    if not rule.stacked:
        return next(parts)
    names = rule.names(config)
    stacked = np.empty((len(names), *rule.shape(config)), tensors[names[0]].dtype)
    for layer, part in enumerate(parts):
        stacked[layer] = part
    return stacked


def layers_of(
    rule: Rule, tensors: Mapping[str, StoredTensor], config: Qwen3Config
) -> Iterator[np.ndarray]:
    """Yields the layers of a parameter as they are read; one array where it is not stacked."""
    for name in rule.names(config):
        yield rule.to_parameter(tensors[name].read(), config)


def checkpoint_tensors(
    read: Callable[[str], np.ndarray],
    dtypes: Mapping[str, np.dtype],
    config: Qwen3Config,
    *,
    ships_lm_head: bool,
) -> Iterator[LazyTensor]:
    """Yields the Hugging Face tensors of a model, parameter by parameter.

    Args:
        read: parameter path -> array; called when a tensor is written, the last array is kept, so
            memory holds one parameter.
        dtypes: parameter path -> dtype.
        config: the shape.
        ships_lm_head: write a tied model's ``lm_head.weight`` too, as its source checkpoint did.
    """
    read = functools.lru_cache(maxsize=1)(read)
    for rule in rules(config):
        shape, dtype = rule.tensor_shape(config), dtypes[rule.path]
        for layer, name in enumerate(rule.names(config)):
            values = functools.partial(_tensor, read, rule, layer)
            yield LazyTensor(name, dtype, shape, values)
        if rule.path == "embedding" and config.tie_word_embeddings and ships_lm_head:
            yield LazyTensor(LM_HEAD, dtype, shape, functools.partial(_tensor, read, rule, 0))


def _tensor(read: Callable[[str], np.ndarray], rule: Rule, layer: int) -> np.ndarray:
    parameter = read(rule.path)
    return rule.to_tensor(parameter[layer] if rule.stacked else parameter)


def _same_as_embedding(tensors: Mapping[str, StoredTensor]) -> bool:
    head, embedding = tensors[LM_HEAD], tensors[EMBEDDING]
    if (head.shape, head.dtype) != (embedding.shape, embedding.dtype):
        return False
    return np.array_equal(head.read().view(np.uint8), embedding.read().view(np.uint8))


def _hint(name: str, config: Qwen3Config) -> str:
    for rule in TABLE:
        match = rule.pattern.fullmatch(name)
        if match and rule.stacked and int(match["layer"]) >= config.num_hidden_layers:
            return f" (config.json has {config.num_hidden_layers} layers)"
    return ""


def _transposed(matrix: np.ndarray) -> np.ndarray:
    # Same-size integers copy several times faster than bfloat16, which numpy moves one by one.
    bits = matrix.view(f"u{matrix.dtype.itemsize}")
    return np.ascontiguousarray(bits.T).view(matrix.dtype)
