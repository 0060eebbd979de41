"""The one count of useful operations: what a step must multiply, whatever computes it how.

A product of [m, k] with [k, n] counts 2mkn; norms, rotary embedding and softmax count nothing; the
backward pass counts twice the forward pass; what remat computes again is never counted.
"""

from __future__ import annotations

from dataclasses import dataclass

from gplan_jax.models.qwen3.config import Qwen3Config


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
