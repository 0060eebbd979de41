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
from bench_layouts import Layout, find_sources, make_run, to_devices, with_plan, within_vocabulary
from flax import nnx
from jax import Array

from gplan_jax.data.batch_plan import round_up
from gplan_jax.data.batches import Batch, PairRows
from gplan_jax.data.loaders import PreferenceLoader
from gplan_jax.data.preference_set import PreferenceSet
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import IntentLibrary, PromptTemplate
from gplan_jax.models import Qwen3Config
from gplan_jax.synthesis.pairs.counterfactuals import write_counterfactuals
from gplan_jax.training.steps.objectives import pair_log_probs
from gplan_jax.training.steps.setup import Run, batch_plan_of
from gplan_jax.training.steps.step import TrainStep, prefix_contexts
from gplan_jax.training.steps.train_config import TrainConfig

SEQUENCES = 4  # of a pair: two contexts, each with both plans
REFERENCE_NOISE = 0.5

LogProbs = Callable[[Any, Batch], Array]


@dataclass(frozen=True)
class PreferenceLayout(Layout):
    """A layout of context pairs; ``micro_rows`` are pairs.

    Attributes:
        reference_passes: forward passes of the reference that a step makes.
    """

    reference_passes: int = 0

    def load(self, number: int) -> Batch:
        """The host batch of a step; whole sequences end where the batch's longest one does."""
        batch = within_vocabulary(self.run.loader(number).batch, self.run.model.config)
        if batch.prefix:
            return batch
        rows = pairs_of(batch)
        length = round_up(int(rows.lengths_Nx2x2.max()), self.run.plan.length_multiple)
        return Batch(rows.replace(tokens_Nx2x2xS=rows.tokens_Nx2x2xS[..., :length]))

    def work(self, batch: Batch) -> Work:
        """What a forward pass on ``batch`` multiplies, padding included, pairs causal."""
        rows = pairs_of(batch)
        levels = [rows.tokens_Nx2x2xS]
        if batch.prefix and rows.tree:
            above = (rows.tree.shared_tokens_NxH, rows.tree.context_tokens_Nx2xC)
            levels = [batch.prefix.tokens_P, *above, *levels]
        return tree_work(
            [(level.size // level.shape[-1], level.shape[-1]) for level in levels],
            rows.targets_Nx2x2xR.size,
        )


def pairs_of(batch: Batch) -> PairRows:
    """The rows of a batch of pairs."""
    assert isinstance(batch.rows, PairRows)
    return batch.rows


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
    whole = PreferenceSet.read(
        pairs,
        encoder=encoder,
        task=GsisrTask(PromptTemplate.load(template), library, prompt_length=max_length),
    )
    room = max_length - int(whole.response_lengths().max())
    cut = replace(whole, task=replace(whole.task, prompt_length=room))
    return cut.fitting(faulty=FaultyRows("skip"))


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
            name, run, step, to_devices(run), micro_pairs, constants, int(every_step)
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
            batch = computing.to_devices(computing.load(number))
            found = compute(*computing.constants, batch)
            table[computing.run.plan.batch(number).rows] = np.asarray(found)
    loader = replace(cached.run.loader, reference_Nx2x2=table)
    return [*others, replace(cached, run=replace(cached.run, loader=loader))]


def reference_log_probs(run: Run) -> LogProbs:
    """(weights, batch) -> float32 [N, 2, 2], as many pairs at a time as the training step takes."""
    graphdef = nnx.graphdef(run.model)
    parts, vocab_chunk = run.config.accumulation_steps, run.config.loss.vocab_chunk

    def log_probs(weights: Any, batch: Batch) -> Array:
        contexts = prefix_contexts(nnx.merge(graphdef, weights), batch.prefix)

        def of_part(rows: PairRows) -> Array:
            model = nnx.merge(graphdef, weights)
            return pair_log_probs(model, rows, contexts, vocab_chunk=vocab_chunk)

        rows = jax.tree.map(lambda x: x.reshape(parts, -1, *x.shape[1:]), batch.rows)
        return jax.lax.map(of_part, rows).reshape(-1, 2, 2)

    return log_probs


def with_reference_pass(step: TrainStep, log_probs: LogProbs) -> TrainStep:
    """The step after a forward pass of the reference, whose weights it takes as well."""

    def both(state: Any, batch: Batch, weights: Any) -> tuple[Any, Any]:
        rows = pairs_of(batch).replace(reference_Nx2x2=log_probs(weights, batch))
        return step(state, Batch(rows, batch.prefix))

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
