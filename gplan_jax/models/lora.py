"""Low-rank adapters beside frozen weights, and the rows of the embedding that train in full.

An adapted projection computes x W + (alpha / r) (x A) B, A [inputs, r] normal and B [r, outputs]
zero at the start, so training begins at the checkpoint (Hu et al. 2021, LoRA, section 4.1). Latent
tokens are new to the checkpoint: no low-rank change of what is there could teach them, so their
rows are parameters of their own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gplan_jax.foundation import GplanError
from gplan_jax.models.loading import abstract_qwen3
from gplan_jax.models.low_rank import LoraParam, LowRank, TrainedRows
from gplan_jax.models.params import rules
from gplan_jax.models.qwen3 import Qwen3
from gplan_jax.models.sharding import partition_spec

# Projection -> (module, logical axes of its inputs, of its outputs).
TARGETS: Mapping[str, tuple[str, tuple[str, ...], tuple[str, ...]]] = {
    "query": ("attention", ("embed",), ("heads", "head_dim")),
    "key": ("attention", ("embed",), ("kv_heads", "head_dim")),
    "value": ("attention", ("embed",), ("kv_heads", "head_dim")),
    "output": ("attention", ("heads", "head_dim"), ("embed",)),
    "gate": ("mlp", ("embed",), ("mlp",)),
    "up": ("mlp", ("embed",), ("mlp",)),
    "down": ("mlp", ("mlp",), ("embed",)),
}


def add_lora(
    model: Qwen3,
    *,
    rank: int,
    alpha: float,
    targets: Sequence[str],
    trained_rows: Sequence[int] = (),
    seed: int = 0,
    mesh: Mesh | None = None,
) -> None:
    """Puts adapters beside the named projections of every layer of ``model``, in place.

    Args:
        model: its own weights are frozen from here on: ``nnx.split(model, LoraParam, ...)``.
        rank: r.
        alpha: the adapters' part is scaled by alpha / r.
        targets: names from ``TARGETS``.
        trained_rows: token ids whose embedding (and head) rows train in full.
        seed: of A.
        mesh: where the model lives.

    Raises:
        GplanError: an unknown target, or a rank beyond what a projection can use.
    """
    if unknown := [name for name in targets if name not in TARGETS]:
        raise GplanError(
            f"lora.targets: unknown {', '.join(unknown)}; there are {', '.join(TARGETS)}."
        )
    if rank > model.config.hidden_size:
        raise GplanError(f"lora.rank {rank} exceeds the model's width {model.config.hidden_size}.")
    rng = np.random.default_rng(seed)
    for name in targets:
        module_name, inputs, outputs = TARGETS[name]
        module = getattr(model.layers, module_name)
        layers, *sizes = getattr(module, name)[...].shape
        ins, outs = sizes[: len(inputs)], sizes[len(inputs) :]
        down = rng.standard_normal((layers, *ins, rank), np.float32) / np.sqrt(np.prod(ins))
        up = np.zeros((layers, rank, *outs), np.float32)
        adapter = LowRank(
            down=_placed(down, ("layers", *inputs, None), mesh),
            up=_placed(up, ("layers", None, *outputs), mesh),
            scale=alpha / rank,
        )
        setattr(module, f"{name}_lora", adapter)
    if trained_rows:
        ids = tuple(sorted(trained_rows))
        model.trained_rows = TrainedRows(
            ids,
            embedding=_placed(_rows(model.embedding[...], ids), (None, "embed"), mesh),
            head=None
            if model.head is None
            else _placed(_rows(model.head[...], ids), (None, "embed"), mesh),
        )


def merged(model: Qwen3) -> Qwen3:
    """A model without adapters that computes the same: W + (alpha / r) A B, trained rows put in.

    Sums are in float32 and rounded once to the dtype of the frozen weights.
    """
    plain = abstract_qwen3(model.config, jnp.float32, model.compute_dtype, model.remat)
    plain.kernel = model.kernel
    for rule in rules(model.config):
        *parents, name = rule.path.split(".")
        source, target = model, plain
        for part in parents:
            source, target = getattr(source, part), getattr(target, part)
        weight = getattr(source, name)[...]
        adapter = getattr(source, f"{name}_lora", None)
        if isinstance(adapter, LowRank):
            weight = _add_product(weight, adapter.down[...], adapter.up[...], adapter.scale)
        elif model.trained_rows is not None and name in ("embedding", "head"):
            weight = model.trained_rows.put_into(weight, name)
        getattr(target, name).set_value(weight)
    return plain


@jax.jit
def _add_product(weight: jax.Array, down: jax.Array, up: jax.Array, scale: float) -> jax.Array:
    product = jax.vmap(lambda a, b: jnp.tensordot(a, b, axes=1))(down, up)
    return (weight.astype(jnp.float32) + scale * product).astype(weight.dtype)


def _rows(matrix_VxD: jax.Array, ids: Sequence[int]) -> np.ndarray:
    sharding = matrix_VxD.sharding
    everywhere = (
        NamedSharding(sharding.mesh, PartitionSpec())
        if isinstance(sharding, NamedSharding)
        else sharding
    )
    take = jax.jit(lambda m: m[jnp.asarray(ids)].astype(jnp.float32), out_shardings=everywhere)
    return np.asarray(take(matrix_VxD))


def _placed(value: np.ndarray, axes: tuple[str | None, ...], mesh: Mesh | None) -> LoraParam:
    if mesh is None:
        array = jnp.asarray(value)
    else:
        sharding = NamedSharding(mesh, partition_spec(*axes))
        array = jax.make_array_from_callback(value.shape, sharding, lambda index: value[index])
    return LoraParam(array, out_sharding=axes, eager_sharding=False)
