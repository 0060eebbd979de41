"""Keys and values of tokens already seen, one stacked array each for all layers.

They are read-only and differentiable: what a shared prefix gives to the sequences that continue it.

Letters: L layers, B batch, C tokens of the prefix, K key/value heads, H head size.
"""

from __future__ import annotations

import dataclasses

import jax


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayeredContext:
    """Keys and values that continuing sequences see in full, [L, B, C, K, H]; B is 1 where shared.

    A multiple of B sequences may go on from it, those of one row side by side: see ``Context``.
    ``lengths`` [B] counts the slots in use; slots beyond are padding. Keys and values may have more
    rows than ``lengths``: those are not looked at.
    """

    key: jax.Array
    value: jax.Array
    lengths: jax.Array
