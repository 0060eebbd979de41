"""The step on a mesh of eight simulated devices against the plain layout on one device.

The check needs a process of its own, because the number of devices is fixed at start-up: this file
run as a program does the work and prints its figures.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from gplan_jax.models import Qwen3, Qwen3Config, load_qwen3
from gplan_jax.training.hosts.mesh import MeshConfig, make_mesh, put_batch
from gplan_jax.training.steps.preference_objective import PreferenceObjective
from gplan_jax.training.steps.section_objective import SectionObjective
from gplan_jax.training.steps.state import TrainState
from gplan_jax.training.steps.step import SHARED_FIELDS, Objective, make_train_step
from gplan_jax.training.steps.train_config import LossConfig, PreferenceConfig

CONFIG = Qwen3Config(
    vocab_size=96,
    hidden_size=16,
    intermediate_size=24,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=8,
    tie_word_embeddings=True,
)
ROWS, LENGTH, RESPONSE, PREFIX = 16, 24, 8, 9
MESHES = {
    "fsdp=8": MeshConfig(fsdp=8),
    "fsdp=4 x tensor=2": MeshConfig(fsdp=4, tensor=2),
    "data=2 x fsdp=2 x tensor=2": MeshConfig(data=2, fsdp=2, tensor=2),
}
PAIR_MESHES = ("data=2 x fsdp=2 x tensor=2",)
TOLERANCE = 1e-5


def make_batches(seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """The same rows in the prefix-tree layout and in the plain one; the last row is empty."""
    rng = np.random.default_rng(seed)
    tree = {
        "tokens": rng.integers(0, CONFIG.vocab_size, (ROWS, LENGTH)).astype(np.int32),
        "lengths": rng.integers(RESPONSE + 1, LENGTH + 1, ROWS).astype(np.int32),
        "targets": np.zeros((ROWS, RESPONSE), np.int32),
        "target_positions": np.zeros((ROWS, RESPONSE), np.int32),
        "sections": np.zeros((ROWS, RESPONSE), np.int8),
        "prefix": np.zeros(16, np.int32),
        "prefix_length": np.asarray(PREFIX, np.int32),
    }
    tree["lengths"][-1] = 0
    tree["prefix"][:PREFIX] = rng.integers(0, CONFIG.vocab_size, PREFIX)
    for row in range(ROWS - 1):
        count = int(rng.integers(2, RESPONSE + 1))
        start = tree["lengths"][row] - count
        tree["targets"][row, :count] = tree["tokens"][row, start : start + count]
        tree["target_positions"][row, :count] = start - 1 + np.arange(count)
        tree["sections"][row, :count] = [1] * (count // 2) + [2] * (count - count // 2)
    prefixes = np.broadcast_to(tree["prefix"][:PREFIX], (ROWS, PREFIX))
    plain = {name: values for name, values in tree.items() if name not in SHARED_FIELDS}
    plain["tokens"] = np.concatenate([prefixes, tree["tokens"]], axis=1)
    plain["lengths"] = np.where(tree["lengths"] > 0, tree["lengths"] + PREFIX, 0).astype(np.int32)
    plain["target_positions"] = tree["target_positions"] + PREFIX
    return tree, plain


def make_pair_batches(seed: int) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Context pairs as trees and as whole sequences; the last pair is empty."""
    rng = np.random.default_rng(seed)
    shared, context, pairs, sequences = 12, 6, (ROWS,), (ROWS, 2, 2)

    def tokens(*shape: int) -> np.ndarray:
        return rng.integers(0, CONFIG.vocab_size, shape).astype(np.int32)

    tree = {
        "prefix": tokens(16),
        "prefix_length": np.asarray(PREFIX, np.int32),
        "shared_tokens": tokens(*pairs, shared),
        "shared_lengths": rng.integers(0, shared + 1, pairs).astype(np.int32),
        "context_tokens": tokens(*pairs, 2, context),
        "context_lengths": rng.integers(1, context + 1, (*pairs, 2)).astype(np.int32),
        "tokens": tokens(*sequences, RESPONSE),
        "lengths": rng.integers(1, RESPONSE + 1, sequences).astype(np.int32),
        "targets": tokens(*sequences, RESPONSE),
        "target_positions": np.broadcast_to(
            np.arange(RESPONSE, dtype=np.int32), (*sequences, RESPONSE)
        ).copy(),
        "reference": rng.normal(-30, 1, sequences).astype(np.float32),
    }
    for name in ("shared_lengths", "context_lengths", "lengths"):
        tree[name][-1] = 0
    tree["supervised"] = (np.arange(RESPONSE) < tree["lengths"][..., None]).astype(np.int8)
    length = PREFIX + shared + context + RESPONSE
    levels = ("prefix", "shared", "context")
    plain = {name: v.copy() for name, v in tree.items() if not name.startswith(levels)}
    plain["tokens"] = np.zeros((*sequences, length), np.int32)
    for at in np.ndindex(*sequences):
        row, side = at[0], at[:2]
        above = [
            tree["prefix"][:PREFIX],
            tree["shared_tokens"][row, : tree["shared_lengths"][row]],
            tree["context_tokens"][side][: tree["context_lengths"][side]],
        ]
        whole = np.concatenate([*above, tree["tokens"][at][: tree["lengths"][at]]])
        if tree["lengths"][at]:
            plain["tokens"][at][: len(whole)] = whole
            plain["lengths"][at] = len(whole)
            plain["target_positions"][at] += len(whole) - tree["lengths"][at]
    plain["target_positions"] = np.minimum(plain["target_positions"], length - 1)
    return tree, plain


def loss_and_gradient(
    mesh_config: MeshConfig,
    batch: dict[str, np.ndarray],
    *,
    accumulation: int,
    devices: int = 8,
) -> tuple[float, dict[str, Any]]:
    """One step with a rate of 1 from zero: what the weights lose is the gradient."""
    mesh = make_mesh(mesh_config, jax.devices()[:devices])
    objective: Objective = SectionObjective(LossConfig(vocab_chunk=40), "sections")
    if "reference" in batch:
        objective = PreferenceObjective(PreferenceConfig(), vocab_chunk=40)
    model = Qwen3(CONFIG, rngs=nnx.Rngs(jax.random.key(0, impl="rbg")), remat="full")
    graphdef, params = nnx.split(model, nnx.Param)
    before = jax.tree.map(np.asarray, nnx.to_pure_dict(params))
    with jax.set_mesh(mesh):
        optimizer = optax.trace(decay=0.0)  # keeps the gradient, moves by it
        shardings = TrainState.shardings(params, optimizer, mesh)
        create = jax.jit(lambda p: TrainState.create(p, optimizer), out_shardings=shardings)
        step = make_train_step(
            graphdef,
            optimizer,
            objective,
            accumulation_steps=accumulation,
            state_shardings=shardings,
        )
        state, metrics = step(create(params), put_batch(batch, mesh, shared=SHARED_FIELDS))
        for leaf, sharding in zip(jax.tree.leaves(state), jax.tree.leaves(shardings), strict=True):
            assert leaf.sharding == sharding
    gradient = jax.tree.map(np.asarray, nnx.to_pure_dict(state.optimizer.trace))
    moved = jax.tree.map(np.asarray, nnx.to_pure_dict(state.params))
    for old, new, g in zip(*map(jax.tree.leaves, (before, moved, gradient)), strict=True):
        np.testing.assert_allclose(new - old, g, atol=1e-6)
    return float(metrics["loss"]), gradient


def difference(ours: tuple[float, Any], theirs: tuple[float, Any]) -> float:
    """The greatest difference of loss or gradient, each relative to its parameter's greatest."""
    worst = abs(ours[0] - theirs[0]) / abs(theirs[0])
    for a, b in zip(jax.tree.leaves(ours[1]), jax.tree.leaves(theirs[1]), strict=True):
        worst = max(worst, float(np.abs(a - b).max() / np.abs(b).max()))
    return worst


def main() -> None:
    tree, plain = make_batches(0)
    reference = loss_and_gradient(MeshConfig(), plain, accumulation=1, devices=1)
    found = {
        name: difference(loss_and_gradient(mesh, tree, accumulation=2), reference)
        for name, mesh in MESHES.items()
    }
    pairs, whole_pairs = make_pair_batches(0)
    reference = loss_and_gradient(MeshConfig(), whole_pairs, accumulation=1, devices=1)
    for name in PAIR_MESHES:
        figure = difference(loss_and_gradient(MESHES[name], pairs, accumulation=2), reference)
        found[f"pairs on {name}"] = figure
    mesh = make_mesh(MeshConfig(data=2, fsdp=4))
    for directory in sys.argv[1:]:
        whole, sharded = load_qwen3(directory), load_qwen3(directory, mesh=mesh)
        assert len(sharded.layers.mlp.gate[...].sharding.device_set) == 8
        a, b = (nnx.to_pure_dict(nnx.state(model, nnx.Param)) for model in (whole, sharded))
        same = jax.tree.map(lambda x, y: bool(jnp.array_equal(x, jax.device_get(y))), a, b)
        found[f"loading {Path(directory).name}"] = 0.0 if all(jax.tree.leaves(same)) else 1.0
    print(json.dumps(found))


@pytest.fixture(scope="module")
def figures(tiny_hf_dir: Path, tiny_model_dir: Path) -> dict[str, float]:
    # Quick to compile matters here, not quick to run.
    flags = "--xla_force_host_platform_device_count=8 --xla_backend_optimization_level=0"
    environment = os.environ | {"XLA_FLAGS": flags}
    done = subprocess.run(
        [sys.executable, __file__, str(tiny_hf_dir), str(tiny_model_dir)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.parametrize("name", list(MESHES))
def test_meshes_give_the_loss_and_gradient_of_one_device(
    figures: dict[str, float], name: str
) -> None:
    assert figures[name] < TOLERANCE


@pytest.mark.parametrize("name", PAIR_MESHES)
def test_trees_of_pairs_on_meshes_are_whole_sequences_on_one_device(
    figures: dict[str, float], name: str
) -> None:
    assert figures[f"pairs on {name}"] < TOLERANCE


def test_weights_load_into_the_sharded_layout(figures: dict[str, float]) -> None:
    loads = {name: value for name, value in figures.items() if name.startswith("loading")}
    assert len(loads) == 2 and not any(loads.values())


if __name__ == "__main__":
    main()
