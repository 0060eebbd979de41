"""Shapes of Qwen3 models and the work of rows: what ``gplan_jax.models.qwen3.config`` counts.

Letters: D model, N query heads, K key/value heads, H head size, F feed-forward, L layers, V
vocabulary.
"""

from __future__ import annotations

import numpy as np

from gplan_jax.models import Qwen3Config
from gplan_jax.models.qwen3.config import Work


def _shape(vocabulary: int, d: int, f: int, layers: int, n: int, k: int, h: int) -> Qwen3Config:
    return Qwen3Config(vocabulary, d, f, layers, n, k, head_dim=h, tie_word_embeddings=True)


SHAPES = {
    "tiny": _shape(512, 64, 192, 2, 2, 1, 32),
    "small": _shape(4096, 256, 768, 4, 4, 2, 64),
    "medium": _shape(6144, 512, 1536, 4, 8, 4, 64),
    "wide": _shape(5120, 1024, 3072, 2, 8, 4, 128),
    # Attention and vocabulary take the shares they have in Qwen3-1.7B, at a CPU's size.
    "balanced": _shape(2816, 512, 2048, 2, 2, 1, 64),
    "qwen3-0.6b": _shape(151_936, 1024, 3072, 28, 16, 8, 128),
    "qwen3-1.7b": _shape(151_936, 2048, 6144, 28, 16, 8, 128),
    "qwen3-4b": _shape(151_936, 2560, 9728, 36, 32, 8, 128),
}

# Dense bfloat16 operations a second as the makers state them, by a part of the device's name.
PEAKS = {
    "H200": 989e12,
    "H100": 989e12,
    "A100": 312e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,
    "TPU v5e": 197e12,
    "TPU v5p": 459e12,
    "TPU v5": 459e12,
    "TPU v6": 918e12,
}


def plain_work(lengths_B: np.ndarray, targets: int) -> Work:
    """The work on real tokens where every row is computed by itself: no padding, causal pairs."""
    lengths = np.asarray(lengths_B, np.float64)
    return Work(lengths.sum(), (lengths * (lengths + 1) / 2).sum(), targets)


def needed_work(lengths_B: np.ndarray, targets: int, prefix: int) -> Work:
    """The work on real tokens where ``prefix`` tokens that all rows share are computed once."""
    whole = np.asarray(lengths_B, np.float64)
    rest = whole[whole > 0] - prefix
    pairs = (rest * (rest + 1) / 2 + rest * prefix).sum()
    return Work(rest.sum(), pairs, targets) + Work(prefix, prefix * (prefix + 1) / 2, 0)


def padded_work(rows: int, length: int, logits: int, prefix: int = 0) -> Work:
    """The work of a layout on padded rows: ``length`` tokens a row beside a shared prefix.

    Pairs are counted causally here too; a kernel that computes masked pairs does more.
    """
    return needed_work(np.full(rows, length + prefix), logits, prefix)
