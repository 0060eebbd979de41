"""What the devices of a run can multiply, measured: the whole that a utilisation is a share of."""

from __future__ import annotations

import functools
import time

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

SMALLEST, LARGEST = 512, 8192
# A product must take this long, for the time to start it not to count.
LONG_SECONDS, ROUND_SECONDS, ROUNDS = 0.005, 0.02, 5


@functools.lru_cache(maxsize=4)
def measured_peak(dtype: str = "bfloat16") -> float:
    """Operations a second of all devices of a run, in products of square matrices of ``dtype``.

    A product of size n counts 2 n^3. Every local device multiplies at the same time, so simulated
    devices that share cores, and chips that share a power limit, count what they reach together;
    hosts are taken to be alike. The best of some rounds of random matrices, up to 8192 wide; it
    takes about a second, and half a GB a device.
    """
    devices = jax.local_devices()
    apart = NamedSharding(Mesh(np.asarray(devices), ("device",)), PartitionSpec("device"))
    product = jax.jit(jnp.matmul)

    def seconds_of(x: jax.Array, repeats: int) -> float:
        begin = time.perf_counter()
        for _ in range(repeats):  # All are started before the last is waited for.
            found = product(x, x)
        jax.block_until_ready(found)
        return (time.perf_counter() - begin) / repeats

    size = SMALLEST
    while True:
        values = np.random.default_rng(0).standard_normal((1, size, size), np.float32)
        x = jax.device_put(jnp.repeat(values.astype(dtype), len(devices), axis=0), apart)
        seconds_of(x, 1)  # compiles
        seconds = seconds_of(x, 1)
        if seconds >= LONG_SECONDS or size == LARGEST:
            break
        size *= 2
    repeats = max(1, round(ROUND_SECONDS / seconds))
    best = min(seconds_of(x, repeats) for _ in range(ROUNDS))
    return 2 * size**3 * len(devices) * jax.process_count() / best
