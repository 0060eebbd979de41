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

from gplan_jax.data.batches import Batch, PairRows, PairTree, SampleRows, SharedPrefix
from gplan_jax.models import Qwen3, Qwen3Config, load_qwen3
from gplan_jax.training.hosts.mesh import MeshConfig, make_mesh, put_batch
from gplan_jax.training.steps.objectives import PreferenceObjective, SectionObjective
from gplan_jax.training.steps.step import TrainState, make_train_step
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


def random_tokens(rng: np.random.Generator, *shape: int) -> np.ndarray:
    return rng.integers(0, CONFIG.vocab_size, shape).astype(np.int32)


def make_batches(seed: int) -> tuple[Batch, Batch]:
    """The same rows in the prefix-tree layout and in the plain one; the last row is empty."""
    rng = np.random.default_rng(seed)
    tree = SampleRows(
        tokens_BxS=random_tokens(rng, ROWS, LENGTH),
        lengths_B=rng.integers(RESPONSE + 1, LENGTH + 1, ROWS).astype(np.int32),
        targets_BxR=np.zeros((ROWS, RESPONSE), np.int32),
        target_positions_BxR=np.zeros((ROWS, RESPONSE), np.int32),
        sections_BxR=np.zeros((ROWS, RESPONSE), np.int8),
    )
    prefix = SharedPrefix(np.zeros(16, np.int32), np.asarray(PREFIX, np.int32))
    tree.lengths_B[-1] = 0
    prefix.tokens_P[:PREFIX] = random_tokens(rng, PREFIX)
    for row in range(ROWS - 1):
        count = int(rng.integers(2, RESPONSE + 1))
        start = tree.lengths_B[row] - count
        tree.targets_BxR[row, :count] = tree.tokens_BxS[row, start : start + count]
        tree.target_positions_BxR[row, :count] = start - 1 + np.arange(count)
        tree.sections_BxR[row, :count] = [1] * (count // 2) + [2] * (count - count // 2)
    prefixes = np.broadcast_to(prefix.tokens_P[:PREFIX], (ROWS, PREFIX))
    plain = tree.replace(
        tokens_BxS=np.concatenate([prefixes, tree.tokens_BxS], axis=1),
        lengths_B=np.where(tree.lengths_B > 0, tree.lengths_B + PREFIX, 0).astype(np.int32),
        target_positions_BxR=tree.target_positions_BxR + PREFIX,
    )
    return Batch(tree, prefix), Batch(plain)


def make_pair_batches(seed: int) -> tuple[Batch, Batch]:
    """Context pairs as trees and as whole sequences; the last pair is empty."""
    rng = np.random.default_rng(seed)
    shared, context, sequences = 12, 6, (ROWS, 2, 2)
    prefix = SharedPrefix(random_tokens(rng, 16), np.asarray(PREFIX, np.int32))
    above = PairTree(
        shared_tokens_NxH=random_tokens(rng, ROWS, shared),
        shared_lengths_N=rng.integers(0, shared + 1, ROWS).astype(np.int32),
        context_tokens_Nx2xC=random_tokens(rng, ROWS, 2, context),
        context_lengths_Nx2=rng.integers(1, context + 1, (ROWS, 2)).astype(np.int32),
    )
    lengths = rng.integers(1, RESPONSE + 1, sequences).astype(np.int32)
    for of_level in (above.shared_lengths_N, above.context_lengths_Nx2, lengths):
        of_level[-1] = 0
    positions = np.broadcast_to(np.arange(RESPONSE, dtype=np.int32), (*sequences, RESPONSE)).copy()
    tree = PairRows(
        tokens_Nx2x2xS=random_tokens(rng, *sequences, RESPONSE),
        lengths_Nx2x2=lengths,
        targets_Nx2x2xR=random_tokens(rng, *sequences, RESPONSE),
        target_positions_Nx2x2xR=positions,
        supervised_Nx2x2xR=(np.arange(RESPONSE) < lengths[..., None]).astype(np.int8),
        reference_Nx2x2=rng.normal(-30, 1, sequences).astype(np.float32),
        tree=above,
    )
    length = PREFIX + shared + context + RESPONSE
    whole_tokens = np.zeros((*sequences, length), np.int32)
    whole_lengths, whole_positions = lengths.copy(), positions.copy()
    for at in np.ndindex(*sequences):
        row, side = at[0], at[:2]
        whole = np.concatenate(
            [
                prefix.tokens_P[:PREFIX],
                above.shared_tokens_NxH[row, : above.shared_lengths_N[row]],
                above.context_tokens_Nx2xC[side][: above.context_lengths_Nx2[side]],
                tree.tokens_Nx2x2xS[at][: lengths[at]],
            ]
        )
        if lengths[at]:
            whole_tokens[at][: len(whole)] = whole
            whole_lengths[at] = len(whole)
            whole_positions[at] += len(whole) - lengths[at]
    plain = tree.replace(
        tokens_Nx2x2xS=whole_tokens,
        lengths_Nx2x2=whole_lengths,
        target_positions_Nx2x2xR=np.minimum(whole_positions, length - 1),
        tree=None,
    )
    return Batch(tree, prefix), Batch(plain)


def loss_and_gradient(
    mesh_config: MeshConfig,
    batch: Batch,
    *,
    accumulation: int,
    devices: int = 8,
) -> tuple[float, dict[str, Any]]:
    """One step with a rate of 1 from zero: what the weights lose is the gradient."""
    mesh = make_mesh(mesh_config, jax.devices()[:devices])
    objective: SectionObjective | PreferenceObjective
    if isinstance(batch.rows, PairRows):
        objective = PreferenceObjective(PreferenceConfig(), vocab_chunk=40)
    else:
        objective = SectionObjective(LossConfig(vocab_chunk=40), "sections")
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
        state, metrics = step(create(params), put_batch(batch, mesh))
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
