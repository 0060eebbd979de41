"""The reference of preferences: log-probabilities under the weights that a run starts from.

They are computed once before the first step, and kept in one file for each set of weights, pair by
pair under a hash of the pair's texts, of the tokenizer and of the length that prompts are cut to.
What has changed in any of these is therefore computed again, and counted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import zipfile
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from flax import nnx
from jax.experimental import multihost_utils
from jax.sharding import NamedSharding, PartitionSpec

from gplan_jax.data.batch_plan import EMPTY_ROW
from gplan_jax.data.batches import Batch, PairRows
from gplan_jax.data.loaders import PreferenceLoader
from gplan_jax.foundation.files import atomic_write
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.training.hosts.mesh import put_batch
from gplan_jax.training.hosts.processes import is_primary, log_once
from gplan_jax.training.resume.run_directory import weight_checksums
from gplan_jax.training.steps.objectives import pair_log_probs
from gplan_jax.training.steps.setup import CACHE_NAME, Run
from gplan_jax.training.steps.step import prefix_contexts

Table = dict[str, np.ndarray]
"""Digest of a pair -> float32 [2, 2], of chosen and rejected under both contexts."""


def with_reference(run: Run) -> Run:
    """The run with its reference filled in, from the cache where it knows a pair.

    Must be called by all processes, with the run's mesh in force and before the first step. A run
    without preferences is returned as it is.
    """
    loader = run.loader
    if not isinstance(loader, PreferenceLoader):
        return run
    # The first process reads the cache for all, so that all compute the same pairs.
    path = reference_path(run)
    digests = [loader.training_set.digest(row) for row in range(len(loader.training_set))]
    known = read_table(path) if is_primary() else {}
    unknown = np.full((2, 2), np.nan, np.float32)
    table_Nx2x2 = np.stack([known.get(digest, unknown) for digest in digests])
    if jax.process_count() > 1:
        table_Nx2x2 = np.array(multihost_utils.broadcast_one_to_all(table_Nx2x2))

    missing = np.flatnonzero(np.isnan(table_Nx2x2).any(axis=(1, 2)))
    if len(missing):
        # Under the weights that the model holds now.
        graphdef, weights = nnx.split(run.model)

        def log_probs(weights: nnx.State, batch: Batch) -> jax.Array:
            model = nnx.merge(graphdef, weights)
            assert isinstance(batch.rows, PairRows)
            contexts = prefix_contexts(model, batch.prefix)
            vocab_chunk = run.config.loss.vocab_chunk
            return pair_log_probs(model, batch.rows, contexts, vocab_chunk=vocab_chunk)

        everywhere = NamedSharding(run.mesh, PartitionSpec())
        compiled = jax.jit(log_probs, out_shardings=everywhere)
        size = run.config.batch_size // run.config.accumulation_steps
        with ProgressBar("reference", len(missing)) as bar:
            for batch_rows in _by_length(loader, missing, size):
                values = compiled(weights, put_batch(loader.collate(batch_rows).batch, run.mesh))
                there = batch_rows != EMPTY_ROW
                table_Nx2x2[batch_rows[there]] = np.asarray(values)[there]
                bar.advance(steps=int(there.sum()))
        if is_primary():
            write_table(path, read_table(path) | dict(zip(digests, table_Nx2x2, strict=True)))
    log_once(
        f"reference: {len(missing)} pairs computed, {len(digests) - len(missing)} read "
        f"from {path.parent}"
    )
    return dataclasses.replace(run, loader=dataclasses.replace(loader, reference_Nx2x2=table_Nx2x2))


def reference_path(run: Run) -> Path:
    """Where the reference of a run is kept: its name is a hash of weights, shape and precision."""
    identity = [
        dataclasses.asdict(run.model.config),
        str(run.model.compute_dtype),
        weight_checksums(run.model),
    ]
    name = hashlib.sha256(json.dumps(identity).encode()).hexdigest()[:16]
    return reference_folder(run) / f"reference-{name}.npz"


def reference_folder(run: Run) -> Path:
    """The folder of reference files: the run's own cache unless the config names another."""
    named = run.config.preference.reference_cache
    return Path(named) if named else run.directory / CACHE_NAME


def read_table(path: Path) -> Table:
    """The table in a file; empty, with a warning where it is damaged, if it can't be read."""
    if not path.is_file():
        return {}
    try:
        with np.load(path) as stored:
            digests, values, check = (stored[name] for name in ("digests", "values", "check"))
        if str(check) != _check(digests, values):
            raise ValueError("its content is not what was written")
    except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
        log_once(f"warning: {path} is damaged ({error}); the reference is computed again")
        return {}
    return dict(zip(digests.tolist(), values, strict=True))


def write_table(path: Path, table: Table) -> None:
    """Writes a table with a hash of its content; the file appears whole or not at all."""
    digests, values = np.asarray(list(table)), np.stack(list(table.values()))
    with atomic_write(path) as temporary, temporary.open("wb") as out:
        np.savez(out, digests=digests, values=values, check=_check(digests, values))


def _check(digests: np.ndarray, values: np.ndarray) -> str:
    return hashlib.sha256(digests.tobytes() + values.tobytes()).hexdigest()


def _by_length(loader: PreferenceLoader, rows: np.ndarray, size: int) -> Iterator[np.ndarray]:
    """Batches of rows of like length, the last one filled up."""
    rows = rows[np.argsort(loader.levels_Nx3[rows].sum(axis=1), kind="stable")]
    for start in range(0, len(rows), size):
        part = rows[start : start + size]
        yield np.pad(part, (0, size - len(part)), constant_values=EMPTY_ROW)
