"""Devices, how fast they are, and whether they reach each other."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gplan_jax.inference.doctor.findings import Finding
from gplan_jax.inference.doctor.kernels import kernel_checks
from gplan_jax.training.hosts.peak import measured_peak
from gplan_jax.training.memory.topologies import local_chip

# Of the data sheet's figure; below, another program, a power limit or a link is in the way.
_SLOW_RATE, _SLOW_LINK = 0.5, 0.1


def device_checks() -> dict[str, Callable[[str], Finding]]:
    """name -> check of that name, of all that need JAX; "devices" is the first."""
    return {
        "devices": devices,
        "product bf16": partial(_product, "bfloat16"),
        "product fp32": partial(_product, "float32"),
        "copy": _copy,
        **kernel_checks(),
        **{name: _collective for name in _COLLECTIVES},
    }


def devices(name: str, dev: Path = Path("/dev")) -> Finding:
    """The devices that JAX has, beside those that the machine shows; their memory."""
    here = jax.local_devices()
    kind, limit = here[0].platform, (here[0].memory_stats() or {}).get("bytes_limit", 0)
    memory = f", {limit / 2**30:.1f} GiB each" if limit else ""
    seen = f"{len(here)} x {here[0].device_kind} ({kind}){memory}"
    gpus = [path for path in dev.glob("nvidia*") if path.name[6:].isdigit()]
    tpus = [*dev.glob("accel[0-9]*"), *dev.glob("vfio/[0-9]*")]
    if kind == "cpu" and (gpus or tpus):
        extra, count = ("cuda", len(gpus)) if gpus else ("tpu", len(tpus))
        mend = f"JAX uses none of {count} accelerators: pip install 'gplan-jax[{extra}]', a driver "
        mend += "new enough for it, no other program on them, JAX_PLATFORMS unset"
        return Finding(name, "wrong", seen, mend)
    if len(here) < len(gpus) and not os.environ.get("CUDA_VISIBLE_DEVICES"):
        mend = f"JAX has {len(here)} of {len(gpus)} GPUs: look at nvidia-smi for the others, or "
        return Finding(name, "wrong", seen, mend + "choose with CUDA_VISIBLE_DEVICES")
    if kind == "cpu":
        return Finding(name, "absent", seen, "no accelerator, so its kernels stay unseen")
    return Finding(name, "ok", seen)


def _product(dtype: str, name: str) -> Finding:
    chip = local_chip() if dtype == "bfloat16" else None
    each, sheet = measured_peak(dtype) / jax.device_count(), chip.peak_flops if chip else 0
    return _rate(name, each / 1e12, "TFLOP/s a device", sheet / 1e12, _SLOW_RATE)


def _copy(name: str) -> Finding:
    """x + 1 in place, read and written; fresh memory would cost page faults."""
    chip, size = local_chip(), 2**28 if jax.default_backend() == "cpu" else 2**30
    seconds = _best_seconds(jax.jit(lambda x: x + 1, donate_argnums=0), jnp.zeros(size // 4))
    sheet = chip.bandwidth if chip else 0
    return _rate(name, 2 * size / seconds / 1e9, "GB/s", sheet / 1e9, _SLOW_RATE)


def _best_seconds(call: Callable[[jax.Array], jax.Array], x: jax.Array) -> float:
    """The shortest of 5 calls after one that compiles, each on the last result if of its shape."""
    given, times = jax.block_until_ready(call(x)), []
    for _ in range(5):
        x, start = given if given.shape == x.shape else x, time.perf_counter()
        given = jax.block_until_ready(call(x))
        times.append(time.perf_counter() - start)
    return min(times)


def _rate(name: str, rate: float, unit: str, sheet: float, slow: float) -> Finding:
    """A rate beside that of the data sheet, 0 where it is not known."""
    seen = f"{rate:.3g} {unit}" + (f", {rate / sheet:.0%} of {sheet:.0f}" if sheet else "")
    if rate >= slow * sheet:
        return Finding(name, "ok", seen)
    mend = "look for other programs, power limits and unused links (nvidia-smi, NCCL_DEBUG=INFO)"
    return Finding(name, "slow", seen, mend)


# Collective -> what one of n devices makes of its numbers; how many times (n - 1) / n of them cross
# its links, as nccl-tests counts.
_COLLECTIVES: dict[str, tuple[Callable[[Any, int], Any], int]] = {
    "all-reduce": (lambda x, n: jax.lax.psum(x, "all"), 2),
    "all-gather": (lambda x, n: jax.lax.all_gather(x[: len(x) // n], "all", tiled=True), 1),
    "reduce-scatter": (lambda x, n: jax.lax.psum_scatter(x, "all", tiled=True), 1),
    "all-to-all": (lambda x, n: jax.lax.all_to_all(x, "all", 0, 0, tiled=True), 1),
}


def _collective(name: str) -> Finding:
    """Whole numbers, whose sums are exact in any order, through a collective over all devices and
    through the same on one of them."""
    here, (call, times) = jax.local_devices(), _COLLECTIVES[name]
    n = len(here)
    if n == 1:
        return Finding(name, "absent", "one device")
    each = (2**20 if here[0].platform == "cpu" else 2**24) // n * n
    x_nxE = np.random.default_rng(0).integers(0, 8, (n, each)).astype(np.float32)
    mesh, spec = Mesh(np.asarray(here), "all"), PartitionSpec("all")
    own = partial(jax.shard_map, mesh=mesh, in_specs=spec, out_specs=spec, check_vma=False)
    run = jax.jit(own(lambda x_1xE: call(x_1xE[0], n)[None]))
    laid = jax.device_put(x_nxE, NamedSharding(mesh, spec))
    expected = jax.vmap(lambda x_E: call(x_E, n), axis_name="all")(x_nxE)
    if different := (np.asarray(run(laid)) != np.asarray(expected)).mean():
        mend = (
            "devices don't reach each other; NCCL_DEBUG=INFO says how, NCCL_P2P_DISABLE=1 may help"
        )
        return Finding(name, "wrong", f"{different:.0%} of numbers wrong over {n} devices", mend)
    rate, chip = times * (n - 1) / n * 4 * each / _best_seconds(run, laid), local_chip()
    found = _rate(name, rate / 1e9, "GB/s", chip.link / 1e9 if chip else 0, _SLOW_LINK)
    return Finding(name, found.state, f"exact over {n} devices, {found.seen}", found.mend)
