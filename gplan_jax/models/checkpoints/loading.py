"""Qwen3 weights from disk into a live model, on one device or laid out over a mesh."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh, NamedSharding, SingleDeviceSharding
from jax.typing import DTypeLike

from gplan_jax.foundation.errors import GplanError
from gplan_jax.models.checkpoints import hugging_face
from gplan_jax.models.checkpoints.hub import model_path
from gplan_jax.models.checkpoints.model_directory import (
    PARAMS,
    ParameterStore,
    is_model_directory,
    read_config,
)
from gplan_jax.models.checkpoints.tokenizer_files import check_tokenizer
from gplan_jax.models.layers.sharding import named_shardings
from gplan_jax.models.qwen3.model import Qwen3, Remat, abstract_qwen3

Sharding = NamedSharding | SingleDeviceSharding


def load_qwen3(
    path: str | Path,
    *,
    param_dtype: DTypeLike | None = None,
    compute_dtype: DTypeLike | None = None,
    remat: Remat = "none",
    mesh: Mesh | None = None,
) -> Qwen3:
    """Loads a Hugging Face checkpoint or a GPlan model directory; or fetches it, by its hub id.

    Weights go straight to where they live: a process reads the slices that its devices hold, a
    tensor of a Hugging Face checkpoint (a parameter of a model directory) at a time, so host memory
    never holds the model. ``mesh`` is what they are laid out over (``layers.sharding``).

    ``param_dtype`` None keeps each parameter's stored dtype, ``compute_dtype`` None multiplies in
    that of the embedding; ``remat`` as for ``Qwen3``. GplanError where the directory does not hold
    a whole Qwen3 dense checkpoint that matches its config.json (every fault is listed), a weight is
    not finite, or its tokenizer has ids beyond the embedding; and as ``hub.model_path``.
    """
    directory = model_path(path)
    config = read_config(directory)
    check_tokenizer(directory, rows=config.vocab_size)
    model = abstract_qwen3(config, param_dtype or jnp.float32, compute_dtype, remat)
    parameters = nnx.state(model, nnx.Param)
    if mesh is None:
        here = SingleDeviceSharding(jax.devices()[0])
        shardings = jax.tree.map(lambda _: here, nnx.to_pure_dict(parameters))
    else:
        shardings = nnx.to_pure_dict(named_shardings(parameters, mesh))

    if is_model_directory(directory):
        store = ParameterStore(directory / PARAMS, config)

        def read(rule: hugging_face.Rule, sharding: Sharding) -> jax.Array:
            return store.read_to_devices(rule.path, param_dtype, sharding)
    else:
        tensors = hugging_face.stored_tensors(directory)
        hugging_face.check_tensors(tensors, config, source=str(directory))

        def read(rule: hugging_face.Rule, sharding: Sharding) -> jax.Array:
            # One tensor after another: the host holds its devices' slices and one tensor.
            shape = rule.stacked_shape(config)
            indices_map = sharding.addressable_devices_indices_map(shape)
            devices = {device: index for device, index in indices_map.items() if index is not None}
            stored = tensors[rule.names(config)[0]].dtype
            buffers: dict[str, np.ndarray] = {}
            for index in devices.values():
                sizes = [
                    len(range(*part.indices(size))) for part, size in zip(index, shape, strict=True)
                ]
                buffers[str(index)] = np.empty(sizes, param_dtype or stored)
            # Layers are never split over devices, so every device takes its part of every tensor.
            for layer, tensor in enumerate(hugging_face.layers_of(rule, tensors, config)):
                for index in {str(index): index for index in devices.values()}.values():
                    buffer = buffers[str(index)]
                    if rule.stacked:
                        buffer[layer] = tensor[index[1:]]
                    else:
                        buffer[...] = tensor[index]
            shards = [
                jax.device_put(buffers[str(index)], device) for device, index in devices.items()
            ]
            return jax.make_array_from_single_device_arrays(shape, sharding, shards)

    arrays: dict[str, jax.Array] = {}
    for rule in hugging_face.rules(config):
        *parents, name = rule.path.split(".")
        module, sharding = model, shardings
        for part in parents:
            module, sharding = getattr(module, part), sharding[part]
        arrays[rule.path] = read(rule, sharding[name])
        getattr(module, name).set_value(arrays[rule.path])
    faults = jax.device_get(_not_finite(arrays))
    if faulty := [rule for rule in hugging_face.rules(config) if faults[rule.path] >= 0]:
        names = [r.names(config)[faults[r.path] if r.stacked else 0] for r in faulty]
        raise GplanError(
            f"{directory}: {', '.join(names)} holds NaN or infinity, which would make every plan "
            "meaningless; convert it again, or take an earlier checkpoint of its training."
        )
    if param_dtype is None and compute_dtype is None:
        model.compute_dtype = model.embedding[...].dtype
    return model


@jax.jit
def _not_finite(arrays: dict[str, jax.Array]) -> dict[str, jax.Array]:
    """Name -> where on the first axis something is NaN or infinite; -1 for nowhere."""

    def first(x: jax.Array) -> jax.Array:
        bad = ~jnp.isfinite(x).all(axis=tuple(range(1, x.ndim)))
        return jnp.where(bad.any(), jnp.argmax(bad), -1)

    return {name: first(x) for name, x in arrays.items()}
