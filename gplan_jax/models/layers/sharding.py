"""Which mesh axis splits which array axis: one table, read by parameters, batches and activations.

Parameters name their axes when they are made (NNX metadata ``out_sharding``); the table turns names
into mesh axes. Without a mesh nothing here has any effect.
"""

from __future__ import annotations

import math
from typing import Any

import jax
from flax import nnx
from jax.sharding import AbstractMesh, AxisType, Mesh, NamedSharding, PartitionSpec

MeshAxes = tuple[str, ...] | str | None

LOGICAL_AXES: tuple[tuple[str, MeshAxes], ...] = (
    # Activations and batches.
    ("batch", ("data", "fsdp")),
    # Rows as a copy of the weights sees them: the devices that share it see all of them.
    ("copy_batch", "data"),
    # A sequence that all rows share has no batch to split: its tokens are split instead.
    ("shared_sequence", "fsdp"),
    # Parameters: the model axis over fsdp, what heads and feed-forward compute apart over tensor.
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("kv_heads", "tensor"),
    ("mlp", "tensor"),
    # Embedding and head are split by rows, not by width (``vocabulary`` says why).
    ("vocab", ("fsdp", "tensor")),
    ("head_dim", None),
    ("layers", None),
)


def partition_spec(*axes: str | None) -> PartitionSpec:
    """The mesh axes of an array whose axes have these logical names; None is not split."""
    table = dict(LOGICAL_AXES)
    return PartitionSpec(*(None if axis is None else table[axis] for axis in axes))


def named_shardings(tree: Any, mesh: Mesh) -> Any:
    """The sharding of every parameter in a pytree of NNX variables, by the names of its axes.

    Leaves that are no annotated parameter (an optimizer's step count) are replicated.
    """
    with nnx.logical_axis_rules(LOGICAL_AXES):
        specs = nnx.get_partition_spec(tree)

    def named(leaf: Any) -> NamedSharding:
        return NamedSharding(mesh, leaf if isinstance(leaf, PartitionSpec) else PartitionSpec())

    return jax.tree.map(named, specs, is_leaf=lambda leaf: isinstance(leaf, PartitionSpec))


def constrain(x: jax.Array, *axes: str | None) -> jax.Array:
    """Asks the compiler to lay ``x`` out by the table; without a mesh, ``x`` itself.

    An axis that does not divide by its mesh axes is left to the compiler.
    """
    mesh = mesh_in_force()
    if mesh is None:
        return x
    spec = partition_spec(*axes)
    divides = all(
        size % axis_size(mesh, names) == 0 for size, names in zip(x.shape, spec, strict=True)
    )
    return jax.lax.with_sharding_constraint(x, spec) if divides else x


def mesh_in_force() -> AbstractMesh | None:
    """The mesh that the compiler lays arrays out over; None without one and inside shard_map."""
    mesh = jax.sharding.get_abstract_mesh()
    manual = any(kind is AxisType.Manual for kind in mesh.axis_types)
    return None if mesh.empty or manual else mesh


def axis_size(mesh: Any, names: MeshAxes) -> int:
    """Number of parts that mesh axes split an array axis into."""
    names = (names,) if isinstance(names, str) else names or ()
    return math.prod(mesh.shape[name] for name in names)
