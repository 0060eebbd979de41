"""An analytic estimate of a step's memory, for devices that no compiler here can compile for."""

from __future__ import annotations

import dataclasses
from typing import cast

import jax.numpy as jnp
from jax.sharding import AbstractMesh, Mesh

from gplan_jax.models import Qwen3
from gplan_jax.models.layers.sharding import LOGICAL_AXES, axis_size
from gplan_jax.models.qwen3.config import Qwen3Config
from gplan_jax.training.hosts.mesh import AXES, mesh_shape
from gplan_jax.training.memory.abstract_step import abstract_model, abstract_step
from gplan_jax.training.memory.batch_shape import BatchShape, RowLengths, batch_shape, levels_of_row
from gplan_jax.training.memory.kept_activations import kept_activation_bytes
from gplan_jax.training.memory.plan import (
    Memory,
    MemoryPlan,
    device_bytes,
    gradient_sums,
    useful_flops,
)
from gplan_jax.training.memory.topologies import Topology
from gplan_jax.training.steps.train_config import TrainConfig


def estimate(
    config: TrainConfig, shape: Qwen3Config, topology: Topology, lengths: RowLengths
) -> MemoryPlan:
    """Estimates a plan without compiling: state exactly, the rest from shapes.

    Temporaries are the sum of what is live when the first layer is differentiated, the busiest
    moment of a step: one layer's values, gathered weights and gradients of one layer, the gradient
    of one micro-batch, and one vocabulary slice's logits with their gradient. What a compiler
    fuses away is not taken off and fragmentation is not added. In a tree of pairs there is a
    gradient from each level: compiled steps hold them all and add them up at the end.

    Raises:
        GplanError: rows, heads or widths do not divide by the mesh.
    """
    if topology.chip is None:
        raise ValueError("an estimate needs a chip")
    sizes = mesh_shape(config.mesh, topology.devices)
    mesh = cast(Mesh, AbstractMesh(sizes, AXES))  # shapes of shards need no devices
    batch = batch_shape(config, lengths)
    built = abstract_step(config, shape, mesh, batch, platform=topology.chip.platform)
    row_parts = axis_size(mesh, dict(LOGICAL_AXES)["batch"])
    kept = kept_activation_bytes(built.model, config, batch, row_parts)
    memory = Memory(
        weights=device_bytes((built.state.params, built.frozen)),
        optimizer=device_bytes((built.state.optimizer, built.state.step)),
        batch=device_bytes(built.batch),
        gradients=gradient_sums(built, config),
        activations=kept,
        temporaries=_working_set(built.model, config, batch, row_parts, *sizes[1:])
        + _gradients_at_once(batch) * device_bytes(built.state.params),
    )
    return MemoryPlan(
        topology=topology,
        config=config,
        shape=shape,
        mesh=sizes,
        batch=batch,
        kernel=built.model.kernel,
        source="estimate",
        memory=memory,
        needed=memory.peak,
        capacity=topology.chip.memory,
        useful_flops=useful_flops(shape, config, lengths),
    )


def _gradients_at_once(batch: BatchShape) -> int:
    """One, or with pairs one for each level of the tree, the shared prefix included."""
    return 1 + len(levels_of_row(batch)) if batch.shared else 1


def _working_set(
    model: Qwen3, config: TrainConfig, batch: BatchShape, row_parts: int, fsdp: int, tensor: int
) -> float:
    """Bytes of one layer's own values, its gathered weights and gradients, and one logits slice."""
    shape, item = model.config, jnp.dtype(model.compute_dtype).itemsize
    keep_all = config.precision.model_copy(update={"remat": "none"})
    one_layer = abstract_model(
        config.model_copy(update={"precision": keep_all}),
        dataclasses.replace(shape, num_hidden_layers=1),
    )
    one_layer.kernel = model.kernel
    values = kept_activation_bytes(one_layer, config, batch, row_parts)
    d, h = shape.hidden_size, shape.head_dim
    heads = 2 * shape.num_attention_heads + 2 * shape.num_key_value_heads
    weights = (d * h * heads + 3 * d * shape.intermediate_size) * item / tensor
    sequences = batch.sequences * (batch.rows // config.accumulation_steps // row_parts)
    # A device scores those of all that share its copy against its own part of the vocabulary:
    # logits and their gradient in float32, that part of the matrix in the compute dtype.
    vocabulary = shape.vocab_size / (fsdp * tensor)
    chunk = min(config.loss.vocab_chunk, vocabulary)
    logits = 2 * 4 * sequences * fsdp * batch.responses * chunk
    head = vocabulary * d * item
    return values + 2 * weights + logits + head
