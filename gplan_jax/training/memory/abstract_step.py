"""A run's step with shapes for values, and what its forward pass keeps for the backward pass."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.sharding import Mesh

from gplan_jax.foundation import GplanError
from gplan_jax.models import Qwen3
from gplan_jax.models.checkpoints.model_directory import read_config
from gplan_jax.models.layers.sharding import named_shardings
from gplan_jax.models.qwen3.config import Qwen3Config
from gplan_jax.models.qwen3.model import LayeredContext, abstract_qwen3
from gplan_jax.reasoning import GSISR_LATENTS
from gplan_jax.training.hosts.mesh import check_mesh
from gplan_jax.training.memory.batch_shape import BatchShape, abstract_batch, levels_of_row
from gplan_jax.training.steps import setup
from gplan_jax.training.steps.objectives import make_objective
from gplan_jax.training.steps.step import TrainState, make_optimizer, make_schedule, make_train_step
from gplan_jax.training.steps.train_config import TrainConfig


def _qwen3(d: int, f: int, layers: int, n: int, k: int) -> Qwen3Config:
    return Qwen3Config(151_936, d, f, layers, n, k, head_dim=128, tie_word_embeddings=True)


# Public config.json files of the dense Qwen3 models.
QWEN3_SHAPES = {
    "qwen3-0.6b": _qwen3(1024, 3072, 28, 16, 8),
    "qwen3-1.7b": _qwen3(2048, 6144, 28, 16, 8),
    "qwen3-4b": _qwen3(2560, 9728, 36, 32, 8),
}
FINISHED_MODEL = "model"  # a run's folder for it


@dataclass(frozen=True)
class AbstractStep:
    """A run's jitted step and what it is called with; the arrays are shapes with shardings."""

    model: Qwen3
    step: Any
    state: TrainState
    batch: Any
    frozen: Any  # weights that do not train, where LoRA adapters do; else None

    def lower(self) -> Any:
        """The step traced for the devices of its shardings."""
        return self.step.lower(self.state, self.batch, frozen=self.frozen)


def model_shape(directory: Path, name: str | None = None) -> Qwen3Config:
    """The shape of a model: a shipped one by ``name``, else its directory's config.json.

    Without that file the directory's own name says the shape; where it is what another run
    finishes, RUN/model, the name is at the end of RUN's.
    """
    if name is None and (directory / "config.json").is_file():
        return read_config(directory)
    for known, shape in QWEN3_SHAPES.items():
        if _letters(name or directory.name) == _letters(known):
            return shape
        finished = name is None and directory.name == FINISHED_MODEL
        if finished and _letters(directory.parent.name).endswith(_letters(known)):
            return shape
    known_names = ", ".join(QWEN3_SHAPES)
    if name is not None:
        raise GplanError(f"--model {name!r} is no shipped shape; choose one of {known_names}.")
    raise GplanError(
        f"{directory}/config.json does not exist, and the name says no shape; make the directory "
        f"with gplan convert, or give --model with one of {known_names}."
    )


def _letters(name: str) -> str:
    return re.sub(r"[^a-z0-9]", "", name.lower())


def abstract_step(
    config: TrainConfig, shape: Qwen3Config, mesh: Mesh, batch: BatchShape, *, platform: str
) -> AbstractStep:
    """The step that ``Run.train_step`` would build on ``mesh``, and the shapes it is called with.

    ``platform`` is that of the mesh's devices (tpu, gpu, cpu); it decides the attention kernel. The
    further micro-batches of a single CPU are left out.
    """
    parts = config.accumulation_steps
    check_mesh(mesh, shape, batch_size=config.batch_size, accumulation_steps=parts)
    model = abstract_model(config, shape)
    model.kernel = setup.kernel_of(config, model, platform=platform)
    # Only the learning rate depends on the number of steps, and it costs nothing.
    schedule = make_schedule(
        config.optimizer,
        steps_per_epoch=1000,
        total_steps=1000 * config.epochs,
        curriculum=setup.curriculum_of(config, 1000),
    )
    optimizer = make_optimizer(config.optimizer, schedule)
    graphdef, params, *frozen = nnx.split(model, *setup.trained_filters(config))
    shardings = TrainState.shardings(params, optimizer, mesh)
    state = jax.eval_shape(lambda weights: TrainState.create(weights, optimizer), params)
    step = make_train_step(
        graphdef,
        optimizer,
        make_objective(config),
        accumulation_steps=parts,
        state_shardings=shardings,
    )
    return AbstractStep(
        model,
        step,
        _laid_out(state, shardings),
        abstract_batch(batch, mesh),
        _laid_out(frozen[0], named_shardings(frozen[0], mesh)) if frozen else None,
    )


def abstract_model(config: TrainConfig, shape: Qwen3Config) -> Qwen3:
    """The model of a run, of shapes: adapters beside frozen weights where the config has LoRA."""
    precision = config.precision
    model = abstract_qwen3(
        shape, setup.weights_dtype(config), jnp.dtype(precision.compute), precision.remat
    )
    # As many rows as there are latent tokens; which ones changes no shape.
    setup.add_adapters(model, config, latent_ids=range(len(GSISR_LATENTS.tokens)))
    return model


def _laid_out(tree: Any, shardings: Any) -> Any:
    return jax.tree.map(
        lambda x, sharding: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding),
        tree,
        shardings,
    )


def kept_activation_bytes(
    model: Qwen3, config: TrainConfig, batch: BatchShape, row_parts: int
) -> float:
    """Bytes that the rows of one micro-batch on one device keep in all layers.

    They are the residuals of ``jax.vjp`` of the layers, but for weights and the shared prefix,
    which are there anyway; keys and values of the segments of a pair are among them. The remat
    policy decides; a tensor axis is not taken into account, so with one this is an upper bound.
    ``row_parts`` devices split the rows of a micro-batch.
    """
    if model.remat == "offload":
        return 0.0
    rows = batch.rows // config.accumulation_steps // row_parts
    shape = model.config
    if model.kernel == "cudnn":
        # It wants a GPU to be traced; another flash kernel keeps as much.
        model = nnx.merge(*nnx.split(model))
        model.kernel = "xla" if shape.head_dim % 128 else "splash"
    graphdef, params, *frozen = nnx.split(model, *setup.trained_filters(config))
    prefix: Any = ()
    if batch.prefix:
        heads = (shape.num_key_value_heads, shape.head_dim)
        keys = jax.ShapeDtypeStruct(
            (shape.num_hidden_layers, 1, batch.prefix, *heads), model.compute_dtype
        )
        prefix = ((keys, keys),)
    levels = [
        (
            jax.ShapeDtypeStruct((rows * count, tokens), jnp.int32),
            jax.ShapeDtypeStruct((rows * count,), jnp.int32),
        )
        for count, tokens in levels_of_row(batch)
    ]

    def pull_back(params: Any, prefix: Any, frozen: Any, levels: Any) -> Any:
        def run(params: Any, prefix: Any) -> jax.Array:
            model = nnx.merge(graphdef, params, *frozen)
            seen = jnp.full(1, batch.prefix)
            contexts = [LayeredContext(key, value, seen) for key, value in prefix]
            *inner, (tokens, lengths) = levels
            for segments, ends in inner:
                _, kept = model.branch(segments, ends, contexts, keep=True)
                assert kept is not None
                contexts.append(kept)
            return model.branch(tokens, lengths, contexts)[0]

        return jax.vjp(run, params, prefix)[1]

    traced = jax.eval_shape(pull_back, params, prefix, frozen, levels)
    residuals = jax.tree.leaves(traced)
    inputs = {(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves((params, prefix, frozen))}
    return sum(
        leaf.size * np.dtype(leaf.dtype).itemsize
        for leaf in residuals
        if (leaf.shape, leaf.dtype) not in inputs
    )
