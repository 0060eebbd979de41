"""The shape of a Qwen3 dense model, read from and written to a Hugging Face ``config.json``.

The one count of useful operations stands here too: what a step must multiply, whatever computes it
how. A product of [m, k] with [k, n] counts 2mkn; norms, rotary embedding and softmax count nothing;
the backward pass counts twice the forward pass; what remat computes again is never counted.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Any

from gplan_jax.foundation.errors import GplanError

_REQUIRED = (
    "vocab_size",
    "hidden_size",
    "intermediate_size",
    "num_hidden_layers",
    "num_attention_heads",
    "num_key_value_heads",
)


@dataclasses.dataclass(frozen=True)
class Qwen3Config:
    """The numbers that fix every array shape and constant of the model.

    Field names are those of ``config.json``; ``rope_theta`` is read from ``rope_parameters``
    (transformers 5) or from the top level (earlier). It is not read through transformers, which
    fills in what is missing (a rope_theta of 10,000 where Qwen3 has 1,000,000) and accepts what
    this model does not have, and whose import costs every command a second.
    """

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_hidden_layers: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int = 128
    rms_norm_eps: float = 1e-6
    rope_theta: float = 1_000_000.0
    tie_word_embeddings: bool = False
    max_position_embeddings: int = 40_960
    initializer_range: float = 0.02

    def __post_init__(self) -> None:
        if self.num_attention_heads % self.num_key_value_heads:
            raise GplanError(
                f"Qwen3 config: num_attention_heads {self.num_attention_heads} is not a multiple "
                f"of num_key_value_heads {self.num_key_value_heads}."
            )
        if self.head_dim % 2:
            raise GplanError(f"Qwen3 config: head_dim {self.head_dim} must be even (rotary pairs).")

    @classmethod
    def from_hf(cls, values: dict[str, Any], *, source: str = "config.json") -> Qwen3Config:
        """Reads a Hugging Face config; ``source`` names it in errors.

        GplanError lists all faults: not a Qwen3 dense config, a missing key, or a feature this
        model does not have (attention bias, sliding window, scaled rotary embeddings).
        """
        if not isinstance(values, dict):
            raise GplanError(f"{source} is not a JSON object; download the checkpoint again.")
        faults = []
        # What this model does not have.
        if values.get("model_type") != "qwen3":
            faults.append(f"model_type: {values.get('model_type')!r}, expected 'qwen3' (dense)")
        if values.get("attention_bias"):
            faults.append("attention_bias: true, but Qwen3 checkpoints have no attention biases")
        if values.get("hidden_act", "silu") != "silu":
            faults.append(f"hidden_act: {values['hidden_act']!r}, expected 'silu'")
        layer_types = set(values.get("layer_types") or ())
        if values.get("use_sliding_window") or layer_types - {"full_attention"}:
            faults.append("use_sliding_window: sliding-window layers are not supported")
        found = dict(values)
        for key in ("rope_scaling", "rope_parameters"):  # Either may scale, beside the other too.
            rope = values.get(key) or {}
            rope = rope if isinstance(rope, dict) else {"rope_type": rope}
            for word in ("rope_type", "type"):
                if rope.get(word, "default") not in ("default", None):
                    faults.append(
                        f"{key}: rope type {rope[word]!r}: only unscaled rotary embeddings are "
                        "supported"
                    )
            if "rope_theta" in rope:
                found["rope_theta"] = rope["rope_theta"]
        if quantised := values.get("quantization_config"):
            method = quantised.get("quant_method") if isinstance(quantised, dict) else quantised
            faults.append(
                f"quantization_config: {method}-quantised weights can't be trained; name the "
                "checkpoint they were made from, in bfloat16"
            )
        # What is missing, or there but not as the type of its field; counts and scales must be
        # above zero. Where head_dim is absent, transformers means 128, not hidden / heads.
        found = {f.name: found[f.name] for f in dataclasses.fields(cls) if f.name in found}
        found = {name: value for name, value in found.items() if value is not None}
        faults += [f"{key}: missing" for key in _REQUIRED if key not in found]
        if "rope_theta" not in found:
            faults.append("rope_theta: missing, both in rope_parameters and at the top level")
        for field in dataclasses.fields(cls):
            value = found.get(field.name)
            if field.type == "bool":
                right, expected = isinstance(value, bool), "true or false"
            else:
                kinds = int if field.type == "int" else int | float
                right = isinstance(value, kinds) and not isinstance(value, bool) and value > 0
                expected = f"a positive {'integer' if field.type == 'int' else 'number'}"
            if value is not None and not right:
                faults.append(f"{field.name}: {value!r}, expected {expected}")
        if faults:
            raise GplanError(f"{source} is not a supported Qwen3 config:\n  " + "\n  ".join(faults))
        return cls(**found | {"rope_theta": float(found["rope_theta"])})

    def to_hf(self) -> dict[str, Any]:
        fields = dataclasses.asdict(self)
        theta = fields.pop("rope_theta")
        return {
            "architectures": ["Qwen3ForCausalLM"],
            "model_type": "qwen3",
            **fields,
            "attention_bias": False,
            "attention_dropout": 0.0,
            "hidden_act": "silu",
            "rope_parameters": {"rope_theta": theta, "rope_type": "default"},
            "sliding_window": None,
            "use_sliding_window": False,
            "use_cache": True,
        }


@dataclass(frozen=True)
class Work:
    """What a step multiplies, padding left out where the caller leaves it out.

    Attributes:
        tokens: positions that go through the layers.
        pairs: query-key pairs of one layer and head.
        logits: positions that meet the whole vocabulary.
    """

    tokens: float
    pairs: float
    logits: float

    def __add__(self, other: Work) -> Work:
        return Work(
            self.tokens + other.tokens, self.pairs + other.pairs, self.logits + other.logits
        )

    def flops(self, shape: Qwen3Config, *, frozen: bool = False) -> float:
        """Operations of forward and backward pass.

        ``frozen`` weights (LoRA) have no gradient of their own: their products count twice instead
        of three times, and the adapters are left out.
        """
        attention = self._attention_flops(shape)
        weights = self.layer_flops(shape) - attention + self.head_flops(shape)
        return (2 if frozen else 3) * weights + 3 * attention

    def head_share(self, shape: Qwen3Config) -> float:
        """Share of the operations that the vocabulary takes."""
        return 3 * self.head_flops(shape) / self.flops(shape)

    def attention_share(self, shape: Qwen3Config) -> float:
        """Share of the operations that queries with keys and weights with values take."""
        return 3 * self._attention_flops(shape) / self.flops(shape)

    def layer_flops(self, shape: Qwen3Config) -> float:
        """Operations of all layers, forward."""
        d, h = shape.hidden_size, shape.head_dim
        heads = 2 * shape.num_attention_heads + 2 * shape.num_key_value_heads
        weights = d * h * heads + 3 * d * shape.intermediate_size
        products = self.tokens * 2 * weights * shape.num_hidden_layers
        return products + self._attention_flops(shape)

    def head_flops(self, shape: Qwen3Config) -> float:
        """Operations of the vocabulary, forward."""
        return self.logits * 2 * shape.hidden_size * shape.vocab_size

    def _attention_flops(self, shape: Qwen3Config) -> float:
        pair = 4 * shape.num_attention_heads * shape.head_dim
        return self.pairs * pair * shape.num_hidden_layers
