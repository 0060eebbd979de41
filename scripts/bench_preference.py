"""Context pairs and layouts for bench_scdpo.py: the same preferences of the same pairs, three ways.

tree            the training step of mode scdpo: pairs as a prefix tree, the reference's
                log-probabilities computed once before the run and read with the batch
tree_reference  the same step after a forward pass of the reference in the tree, every step
concatenated    the layout of TRL and Tunix: chosen and rejected are rows of one batch, the whole
                prompt in each, padded to the batch's longest; a forward pass of the reference every
                step. Kinder than TRL's default, which computes logits at every position: only
                completion positions meet the vocabulary here, a slice of it at a time.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import numpy as np
from bench_flops import Work
from bench_layouts import Layout, find_sources, make_run, with_plan, within_vocabulary
from flax import nnx
from jax import Array

from gplan_jax.data.batch_plan import round_up
from gplan_jax.data.pipeline import Batch
from gplan_jax.data.preference_loader import PreferenceLoader
from gplan_jax.data.preference_set import PreferenceSet
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import IntentLibrary, PromptTemplate
from gplan_jax.models import Qwen3Config
from gplan_jax.synthesis.pairs.counterfactuals import write_counterfactuals
from gplan_jax.training.steps.assembly import batch_plan_of
from gplan_jax.training.steps.preference_objective import PreferenceObjective, pair_log_probs
from gplan_jax.training.steps.setup import Run
from gplan_jax.training.steps.step import (
    SHARED_FIELDS,
    DeviceBatch,
    TrainStep,
    prefix_contexts,
    prefix_keys_values,
)
from gplan_jax.training.steps.train_config import TrainConfig

SEQUENCES = 4  # of a pair: two contexts, each with both plans
REFERENCE_NOISE = 0.5

LogProbs = Callable[[Any, DeviceBatch], Array]


@dataclass(frozen=True)
class PreferenceLayout(Layout):
    """A layout of context pairs; ``micro_rows`` are pairs.

    Attributes:
        reference_passes: forward passes of the reference that a step makes.
    """

    reference_passes: int = 0

    def load(self, number: int) -> Batch:
        """The host batch of a step; whole sequences end where the batch's longest one does."""
        batch = within_vocabulary(self.run.loader(number), self.run.model.config)
        if "prefix" in batch:
            return batch
        length = round_up(int(batch["lengths"].max()), self.run.plan.length_multiple)
        return batch | {"tokens": batch["tokens"][..., :length]}

    def work(self, batch: Batch) -> Work:
        """What a forward pass on ``batch`` multiplies, padding included, pairs causal."""
        return tree_work(
            [
                (segments.size // segments.shape[-1], segments.shape[-1])
                for name in ("prefix", "shared_tokens", "context_tokens", "tokens")
                if name in batch
                for segments in [batch[name]]
            ],
            batch["targets"].size,
        )


def tree_work(levels: Sequence[tuple[int, int]], logits: int) -> Work:
    """The work on segments of a tree, (how many, tokens of each) by level from the root."""
    tokens, pairs, above = 0, 0.0, 0
    for count, length in levels:
        tokens += count * length
        pairs += count * (length * (length + 1) / 2 + length * above)
        above += length
    return Work(tokens, pairs, logits)


def read_pairs(
    folder: Path,
    *,
    rows: Path | None,
    tokenizer: Path | None,
    template: str,
    max_length: int,
    simulated: int,
) -> tuple[PreferenceSet, np.ndarray]:
    """Pairs made of the rows of a file, or of simulated ones, by the rule teacher; their levels."""
    source, encoder = find_sources(
        folder, rows=rows, tokenizer=tokenizer, template=template, simulated=simulated
    )
    library, pairs = IntentLibrary.load(), folder / "pairs.jsonl"
    write_counterfactuals(source, pairs, library, faulty=FaultyRows("skip"))
    return PreferenceSet.read(
        pairs,
        encoder=encoder,
        template=PromptTemplate.load(template),
        library=library,
        max_length=max_length,
    ).fitting(faulty=FaultyRows("skip"))


def make_preference_layouts(
    pairs: PreferenceSet,
    levels_Nx3: np.ndarray,
    shape: Qwen3Config,
    config: TrainConfig,
    *,
    weights: bool = True,
) -> list[PreferenceLayout]:
    """The three layouts of one run, with the reference's weights beside the policy's.

    The reference is the policy with a little noise, so that the loss depends on every token and is
    not its closed form. Without ``weights`` the model has only shapes, and there is no reference.
    """
    plan = batch_plan_of(config, pairs, pairs.whole_lengths(levels_Nx3))
    unknown = np.full((len(pairs), 2, 2), np.nan, np.float32)
    tree = make_run(
        shape, config, PreferenceLoader(pairs, plan, levels_Nx3, unknown), weights=weights
    )
    whole = with_plan(tree, prefix_length=0)
    reference = (noisy(nnx.state(tree.model, nnx.Param)),) if weights else ()

    def layout(name: str, run: Run, *, every_step: bool) -> PreferenceLayout:
        micro_pairs = config.batch_size // config.accumulation_steps
        step = run.train_step()
        if every_step:
            step = with_reference_pass(step, reference_log_probs(run))
        constants = reference if every_step else ()
        return PreferenceLayout(
            name, run, step, run.to_devices, micro_pairs, constants, int(every_step)
        )

    return [
        layout("concatenated", whole, every_step=True),
        layout("tree_reference", tree, every_step=True),
        layout("tree", tree, every_step=False),
    ]


def with_cached_reference(
    layouts: Sequence[PreferenceLayout], numbers: Sequence[int]
) -> list[PreferenceLayout]:
    """The layouts, the last of which reads the reference of some batches from a table.

    It is computed here, once, as before a run.
    """
    *others, cached = layouts
    computing = others[-1]
    table = np.array(cached.run.loader.reference_Nx2x2)
    compute = jax.jit(reference_log_probs(computing.run))
    with jax.set_mesh(cached.run.mesh):
        for number in numbers:
            batch = computing.load(number)
            found = compute(*computing.constants, computing.to_devices(batch))
            table[batch["rows"]] = np.asarray(found)
    loader = replace(cached.run.loader, reference_Nx2x2=table)
    return [*others, replace(cached, run=replace(cached.run, loader=loader))]


def reference_log_probs(run: Run) -> LogProbs:
    """(weights, batch) -> float32 [N, 2, 2], as many pairs at a time as the training step takes."""
    graphdef = nnx.graphdef(run.model)
    parts, vocab_chunk = run.config.accumulation_steps, run.config.loss.vocab_chunk

    def log_probs(weights: Any, batch: DeviceBatch) -> Array:
        prefix = prefix_keys_values(nnx.merge(graphdef, weights), batch)

        def of_part(rows: DeviceBatch) -> Array:
            contexts = prefix_contexts(prefix, batch)
            model = nnx.merge(graphdef, weights)
            return pair_log_probs(model, rows, contexts, vocab_chunk=vocab_chunk)

        rows = {
            name: value.reshape(parts, -1, *value.shape[1:])
            for name, value in batch.items()
            if name in PreferenceObjective.row_fields and name not in SHARED_FIELDS
        }
        return jax.lax.map(of_part, rows).reshape(-1, 2, 2)

    return log_probs


def with_reference_pass(step: TrainStep, log_probs: LogProbs) -> TrainStep:
    """The step after a forward pass of the reference, whose weights it takes as well."""

    def both(state: Any, batch: DeviceBatch, weights: Any) -> tuple[Any, Any]:
        return step(state, {**batch, "reference": log_probs(weights, batch)})

    return jax.jit(both, donate_argnums=0)


def noisy(weights: nnx.State) -> nnx.State:
    """Weights moved by a share of their own size."""
    leaves, tree = jax.tree.flatten(weights)
    keys = jax.random.split(jax.random.key(1), len(leaves))
    return jax.tree.unflatten(
        tree,
        [
            x * (1 + REFERENCE_NOISE * jax.random.normal(key, x.shape, x.dtype))
            for x, key in zip(leaves, keys, strict=True)
        ],
    )
