"""Low-rank adapters beside frozen weights, and the rows of the embedding that train in full.

An adapted projection computes x W + (alpha / r) (x A) B, A [inputs, r] normal and B [r, outputs]
zero at the start, so training begins at the checkpoint (Hu et al. 2021, LoRA, section 4.1). Latent
tokens are new to the checkpoint: no low-rank change of what is there could teach them, so their
rows are parameters of their own.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh, NamedSharding

from gplan_jax.foundation import GplanError
from gplan_jax.models.layers.projection import PROJECTIONS, LoraParam, LowRank
from gplan_jax.models.layers.sharding import partition_spec
from gplan_jax.models.layers.vocabulary import TrainedRows
from gplan_jax.models.qwen3.model import Qwen3, abstract_qwen3


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

    The model's own weights are frozen from here on: ``nnx.split(model, LoraParam, ...)``. The
    adapters' part is scaled by alpha / rank; embedding (and head) rows of the token ids
    ``trained_rows`` train in full. GplanError for an unknown target, or a rank beyond what a
    projection can use.
    """
    if unknown := [name for name in targets if name not in PROJECTIONS]:
        raise GplanError(
            f"lora.targets: unknown {', '.join(unknown)}; there are {', '.join(PROJECTIONS)}."
        )
    if rank > model.config.hidden_size:
        raise GplanError(f"lora.rank {rank} exceeds the model's width {model.config.hidden_size}.")
    ids = tuple(sorted(trained_rows))
    names = ["embedding"] if model.head is None else ["embedding", "head"]
    matrices = {name: getattr(model, name).get_value() for name in names if ids}
    axes: dict[str, tuple[str | None, ...]] = {name: (None, "embed") for name in matrices}
    for name in targets:
        _, inputs, outputs = PROJECTIONS[name]
        axes[f"{name}.down"] = ("layers", *inputs, None)
        axes[f"{name}.up"] = ("layers", None, *outputs)

    def start(matrices: dict[str, jax.Array]) -> dict[str, jax.Array]:
        """The values that training starts from; nothing of a frozen weight is copied whole."""
        values = {
            name: matrix_VxD[jnp.asarray(ids)].astype(jnp.float32)
            for name, matrix_VxD in matrices.items()
        }
        for number, name in enumerate(targets):
            module, inputs, _ = PROJECTIONS[name]
            layers, *sizes = getattr(getattr(model.layers, module), name).get_value().shape
            ins, outs = sizes[: len(inputs)], sizes[len(inputs) :]
            key = jax.random.fold_in(jax.random.key(seed), number)
            spread = math.prod(ins) ** -0.5
            values[f"{name}.down"] = spread * jax.random.normal(key, (layers, *ins, rank))
            values[f"{name}.up"] = jnp.zeros((layers, rank, *outs))
        return values

    if isinstance(model.embedding.get_value(), jax.ShapeDtypeStruct):
        values = jax.eval_shape(start, matrices)  # a model of shapes
    elif mesh is None:
        values = start(matrices)
    else:
        shardings = {name: NamedSharding(mesh, partition_spec(*axes[name])) for name in axes}
        values = jax.jit(start, out_shardings=shardings)(matrices)
    trained = {
        name: LoraParam(value, out_sharding=axes[name], eager_sharding=False)
        for name, value in values.items()
    }
    for name in targets:
        adapter = LowRank(
            down=trained[f"{name}.down"], up=trained[f"{name}.up"], scale=alpha / rank
        )
        setattr(getattr(model.layers, PROJECTIONS[name][0]), f"{name}_lora", adapter)
    if ids:
        model.trained_rows = TrainedRows(
            ids, embedding=trained["embedding"], head=trained.get("head")
        )


def merged(model: Qwen3) -> Qwen3:
    """A model without adapters that computes the same: W + (alpha / r) A B, trained rows put in.

    Sums are in float32 and rounded once to the dtype of the frozen weights.
    """
    plain = abstract_qwen3(model.config, jnp.float32, model.compute_dtype, model.remat)
    plain.kernel = model.kernel
    for path, _ in nnx.to_flat_state(nnx.state(plain, nnx.Param)):
        *parents, name = map(str, path)
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
