"""Checksums of arrays, computed on their devices: equal on every mesh, host and file format.

A checkpoint stores the digest of every array beside the arrays and compares it after reading. That
covers the whole way from device to file and back, where OCDBT checks only its own index and not the
numbers: a flipped bit in them is read without a word. It costs one pass over the memory of each
device (milliseconds for gigabytes), where hashing the files would read all of them again.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import jax
import jax.numpy as jnp
from flax import nnx
from jax import Array

from gplan_jax.models import Qwen3


@dataclass(frozen=True)
class ArrayDigest:
    """One array: its dtype, shape, ``checksum`` of bits and places, and whether all is finite."""

    dtype: str
    shape: tuple[int, ...]
    checksum: int
    finite: bool


def digest_arrays(arrays: Mapping[str, Array]) -> dict[str, ArrayDigest]:
    """The digest of each array; waits for the devices.

    ``checksum = sum_i mix(bits_i xor i * 0x9E3779B9) mod 2^32``, i the flat index and mix the
    finalizer of MurmurHash3. mix is a bijection, so one changed word always changes the sum; sums
    of integers do not depend on their order, so any sharding gives the same.
    """
    found = jax.device_get(_checksums(dict(arrays)))
    return {
        name: ArrayDigest(str(x.dtype), x.shape, int(found[name][0]), bool(found[name][1]))
        for name, x in arrays.items()
    }


def weight_checksums(model: Qwen3) -> list[int]:
    """The checksum of each of a model's weights, adapters left out, in a fixed order."""
    arrays = enumerate(jax.tree.leaves(nnx.state(model, nnx.Param)))
    return [d.checksum for d in digest_arrays({str(n): x for n, x in arrays}).values()]


@jax.jit
def _checksums(arrays: dict[str, Array]) -> dict[str, tuple[Array, Array]]:
    """Name -> checksum, and whether all is finite."""
    return {name: (_checksum(x), jnp.isfinite(x).all()) for name, x in arrays.items()}


def _checksum(x: Array) -> Array:
    # The bits as 32-bit words; a trailing axis holds the two halves of 64-bit numbers.
    if x.dtype == jnp.bool_:
        words = x.astype(jnp.uint32)
    else:
        word = {1: jnp.uint8, 2: jnp.uint16, 4: jnp.uint32}[min(x.dtype.itemsize, 4)]
        words = jax.lax.bitcast_convert_type(x, word).astype(jnp.uint32)
    # The flat index of each word, without a reshape: that would gather a sharded array.
    index = jnp.zeros(words.shape, jnp.uint32)
    for axis, size in enumerate(words.shape):
        index = index * jnp.uint32(size) + jax.lax.broadcasted_iota(jnp.uint32, words.shape, axis)
    h = words ^ (index * jnp.uint32(0x9E3779B9))
    h = (h ^ (h >> 16)) * jnp.uint32(0x85EBCA6B)
    h = (h ^ (h >> 13)) * jnp.uint32(0xC2B2AE35)
    return jnp.sum(h ^ (h >> 16), dtype=jnp.uint32)
