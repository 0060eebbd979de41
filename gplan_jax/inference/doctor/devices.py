"""Devices, how fast they are, whether they reach each other, and every kernel against its reference
on those that are here.
"""

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
from flax import nnx
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gplan_jax.foundation.errors import GplanError
from gplan_jax.inference.doctor.machine import Finding, instead_of
from gplan_jax.inference.engine import passes
from gplan_jax.inference.engine.programs import empty_trees, set_tree
from gplan_jax.inference.grammar.plan_grammar import GrammarTable
from gplan_jax.models import Qwen3, Qwen3Config
from gplan_jax.models.attention.causal import resolve_kernel
from gplan_jax.models.attention.check import Comparison, check_attention, compare, rounding
from gplan_jax.models.layers.projection import dense, project, to_small
from gplan_jax.models.layers.vocabulary import embed_tokens, vocabulary_nll
from gplan_jax.objectives.section_loss import token_nll
from gplan_jax.training.hosts.mesh import MeshConfig, make_mesh
from gplan_jax.training.loop.run_clock import measured_peak
from gplan_jax.training.memory.topologies import local_chip

_MODEL = Qwen3Config(128, 64, 96, 2, 4, 2, head_dim=16, tie_word_embeddings=True)
# Of the data sheet's figure; below, another program, a power limit or a link is in the way.
_SLOW_RATE, _SLOW_LINK = 0.5, 0.1


def kernel_checks() -> dict[str, Callable[[str], Finding]]:
    """name -> check of that name, each kernel in bfloat16 and float32."""
    checks: dict[str, Callable[[Any], Comparison]] = {
        "attention xla": partial(_attention, "xla"),
        "attention cudnn": partial(_attention, "cudnn"),
        "attention splash": partial(_attention, "splash"),
        "prefix tree merge": partial(_attention, "merged"),
        "int8 weights": check_int8,
        "engine passes": check_passes,
        "embedding": check_embedding,
        "head": check_head,
    }
    dtypes = {"bf16": jnp.bfloat16, "fp32": jnp.float32}
    return {
        f"{name} {short}": partial(_found, partial(check, dtype))
        for name, check in checks.items()
        for short, dtype in dtypes.items()
    }


def _found(check: Callable[[], Comparison], name: str) -> Finding:
    try:
        comparison = check()
    except GplanError as error:  # ``resolve_kernel``: not on these devices or in this dtype
        return Finding(name, "absent", str(error).partition(": ")[2].partition(". ")[0])
    if comparison.right:
        return Finding(name, "ok", str(comparison))
    return Finding(name, "wrong", str(comparison), "update driver and JAX" + instead_of(name))


def local_mesh() -> Mesh | None:
    """All devices of this process, two along a tensor axis if they are even; None for one."""
    here = jax.local_devices()
    return None if len(here) == 1 else make_mesh(MeshConfig(tensor=2 - len(here) % 2), here)


def _attention(kernel: str, dtype: Any) -> Comparison:
    """Heads of 128, as Qwen3 has, over all devices."""
    platform, mesh = jax.default_backend(), local_mesh()
    if kernel != "merged":
        resolve_kernel(kernel, platform=platform, dtype=dtype, head_dim=128)
    sizes = {"heads": 4, "kv_heads": 2, "head_dim": 128}
    return check_attention(kernel, dtype=dtype, platform=platform, mesh=mesh, **sizes)


def check_int8(dtype: Any) -> Comparison:
    """A projection by 8-bit weights against the product with the weights that they mean.

    ValueError where a weight is further from its 8-bit one than half a step.
    """
    x_4x1x256, w_256x8x16 = _normal(dtype, (4, 1, 256), (256, 8, 16))
    rounded = to_small(w_256x8x16, (0,), "int8")
    off = jnp.abs(dense(rounded) - w_256x8x16.astype(jnp.float32)) / rounded.scale
    if not jnp.max(off) <= 0.5 + 127 * 2.0**-22:  # quotients of up to 127, rounded twice
        raise ValueError(f"a weight is {jnp.max(off):.3f} steps from its 8-bit one, not within 0.5")

    def call(operands: Any) -> jax.Array:
        matrix = rounded.replace(scale=jax.lax.stop_gradient(operands[1]))
        axes = ("embed", "heads", "head_dim")
        weight = nnx.Param(matrix, out_sharding=axes, eager_sharding=False)
        return project("TD,DNH->TNH", operands[0], weight, None)

    def reference(operands: Any) -> jax.Array:
        exact = rounded.qvalue * jax.lax.stop_gradient(operands[1])
        return jnp.einsum("BTD,DNH->BTNH", operands[0], exact)

    return compare(call, reference, (x_4x1x256, rounded.scale), unit=_unit(dtype))


def check_passes(dtype: Any) -> Comparison:
    """The engine's prefill and its pass over a tree against whole sequences through the model.

    A prompt of 5 shared and 8 own tokens, then a tree in which two tokens follow the first.
    """
    ids = np.random.default_rng(2).integers(0, _MODEL.vocab_size, 17, np.int32)
    system, prompt, tree, parents = ids[:5], ids[5:13], ids[13:], (-1, 0, 0, 2)
    graphdef, params = nnx.split(Qwen3(_MODEL, rngs=nnx.Rngs(0), param_dtype=dtype), nnx.Param)
    # A grammar of one node that allows every token: the passes give the logits of all.
    rows = np.arange(_MODEL.vocab_size)
    table = GrammarTable(rows[None] + 1, np.append(0, rows), np.ones((len(rows) + 1, 1), np.uint32))
    trees = empty_trees(1, len(tree), 1)
    set_tree(trees, 0, tree.tolist(), parents)
    trees.lengths_b[:] = len(prompt)

    def edges(*shape: int) -> passes.AllowedEdges:
        return passes.AllowedEdges(np.zeros(shape, np.int32), np.ones((*shape, 1), np.uint32))

    def call(params: Any) -> jax.Array:
        model = nnx.merge(graphdef, params)
        length = jnp.full(1, len(system))
        context: Any = model.branch(jnp.asarray(system[None]), length, keep=True)[1]
        arrays = jax.tree.map(jnp.asarray, table)
        served = passes.Served(graphdef, len(rows), params, context, model.head_VxD(), arrays)
        at = (np.int32(len(prompt)), np.int32(0), np.int32(0), np.full(1, len(prompt) - 1))
        rest = passes.PromptRest(prompt, *at, continues=False)
        cache, first = passes.prefill(served, passes.KVCache.empty(model, 1, 32), rest, edges(1))
        return jnp.concatenate([first, passes.verify(served, cache, trees, edges(1, 4))[1][0]])

    def reference(params: Any) -> jax.Array:
        model = nnx.merge(graphdef, params)
        model.compute_dtype = jnp.dtype(jnp.float32)
        rows = [np.append(ids[:13], tree[path])[None] for path in ([0, 1], [0, 2, 3])]
        one, two = (model(jnp.asarray(row))[0] for row in rows)
        return jnp.concatenate([one[12:], two[14:]])

    return compare(call, reference, params, unit=_unit(dtype), gradient=False)


def check_embedding(dtype: Any) -> Comparison:
    """Rows of a table that the devices share out against the plain lookup."""
    count = jax.local_device_count()
    (table,) = _normal(jnp.float32, (32 * count, 64))
    ids = jnp.asarray(np.random.default_rng(3).integers(0, len(table), (2 * count, 24)))
    call = partial(embed_tokens, ids_BxS=ids, dtype=dtype)
    return compare(call, lambda table: table[ids], table, unit=_unit(dtype), mesh=local_mesh())


def check_head(dtype: Any) -> Comparison:
    """The loss over a head that the devices share out against the loss over all logits."""
    count = jax.local_device_count()
    hidden, head = _normal(dtype, (2 * count, 8, 128), (96 * count, 128))
    targets = jnp.asarray(np.random.default_rng(4).integers(0, len(head), hidden.shape[:2]))

    def call(operands: Any) -> jax.Array:
        return vocabulary_nll(operands[0], operands[1], targets, vocab_chunk=32)

    def reference(operands: Any) -> jax.Array:
        return token_nll(jnp.einsum("BRD,VD->BRV", *operands), targets)

    return compare(call, reference, (hidden / 8, head), unit=_unit(dtype), mesh=local_mesh())


def _unit(dtype: Any) -> float:
    return rounding(dtype, jax.default_backend())


def _normal(dtype: Any, *shapes: tuple[int, ...]) -> list[jax.Array]:
    rng = np.random.default_rng(0)
    return [jnp.asarray(rng.normal(size=shape), dtype) for shape in shapes]


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
