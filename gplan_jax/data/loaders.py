"""Step -> this process's rows as padded arrays: samples, or context pairs as a tree or whole.

A loader is called by Grain, in threads or in reader processes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import grain
import numpy as np

from gplan_jax.data.batch_plan import EMPTY_ROW, BatchPlan, Share, round_up
from gplan_jax.data.batches import (
    CONTEXTS,
    RESPONSES,
    Batch,
    LoadedBatch,
    PairRows,
    PairTree,
    SampleRows,
    SharedPrefix,
)
from gplan_jax.data.preference_set import PreferenceSet
from gplan_jax.data.training_set import TrainingSet


@dataclass(frozen=True)
class SampleLoader:
    """Builds one process's share of the batch of a step; S and R come from the plan."""

    training_set: TrainingSet
    plan: BatchPlan
    share: Share = field(default_factory=Share)

    def __post_init__(self) -> None:
        if self.plan.batch_size % self.share.of:
            raise ValueError(
                f"a batch of {self.plan.batch_size} rows does not divide into {self.share.of} parts"
            )

    def __call__(self, step: int) -> LoadedBatch:
        spec = self.plan.batch(step)
        indices_B = self.share.take(spec.rows)
        count, responses = len(indices_B), spec.response_length
        tokens_BxS = np.full(
            (count, spec.sequence_length), self.training_set.encoder.pad_id, np.int32
        )
        lengths_B = np.zeros(count, np.int32)
        targets_BxR = np.zeros((count, responses), np.int32)
        target_positions_BxR = np.zeros((count, responses), np.int32)
        sections_BxR = np.zeros((count, responses), np.int8)
        for line, index in enumerate(indices_B):
            if index == EMPTY_ROW:
                continue
            prompt_ids, response = self.training_set.tokenize(int(index), spec.stage)
            # The prefix stands apart, once for the whole batch.
            prompt_ids = prompt_ids[self.plan.prefix_length :]
            lengths_B[line] = len(prompt_ids) + len(response.ids)
            _fill(tokens_BxS[line], np.concatenate([prompt_ids, response.ids]))
            _fill(targets_BxR[line], response.ids)
            # The state of the prompt's last token predicts the first of the response.
            positions = len(prompt_ids) - 1 + np.arange(len(response.ids))
            _fill(target_positions_BxR[line], positions)
            _fill(sections_BxR[line], response.sections)
        rows = SampleRows(tokens_BxS, lengths_B, targets_BxR, target_positions_BxR, sections_BxR)
        return LoadedBatch(
            Batch(rows, _prefix(self.training_set, self.plan)),
            indices_B.astype(np.int32),
            np.asarray(spec.epoch, np.int32),
            np.asarray(spec.stage, np.int32),
        )


@dataclass(frozen=True)
class PreferenceLoader:
    """Builds one process's share of the batch of a step, in pairs.

    Where the plan has a prefix the batch is a tree. The widths of what follows what is shared are
    those of the whole data set, so that few shapes are compiled.
    """

    training_set: PreferenceSet
    plan: BatchPlan
    levels_Nx3: np.ndarray = field(repr=False)  # tokens by level, from PreferenceSet.fitting
    # log-probabilities of chosen and rejected under both contexts
    reference_Nx2x2: np.ndarray = field(repr=False)
    share: Share = field(default_factory=Share)

    def __call__(self, step: int) -> LoadedBatch:
        spec = self.plan.batch(step)
        return self.collate(spec.rows, epoch=spec.epoch)

    def collate(self, all_indices: np.ndarray, *, epoch: int = 0) -> LoadedBatch:
        """This process's share of a batch of any pairs, given by index for all processes."""
        plan, pad_id, prefix = self.plan, self.training_set.encoder.pad_id, self.plan.prefix_length
        indices_N = self.share.take(all_indices)
        contexts, sequences = (len(indices_N), CONTEXTS), (len(indices_N), CONTEXTS, RESPONSES)

        # Widths come from the whole batch, so that all processes have the same; those of what
        # follows what is shared are of the whole data set.
        there = all_indices[all_indices != EMPTY_ROW]
        shared_width, rest_width, response_width = map(int, self.levels_Nx3[there].max(axis=0))
        longest_rest, longest_response = map(int, self.levels_Nx3[:, 1:].max(axis=0))
        responses = round_up(longest_response, plan.response_multiple)
        whole = len(self.training_set.prefix_ids) + shared_width + rest_width + response_width
        length = responses if prefix else round_up(whole, plan.length_multiple)

        tokens = np.full((*sequences, length), pad_id, np.int32)
        lengths = np.zeros(sequences, np.int32)
        targets = np.zeros((*sequences, responses), np.int32)
        target_positions = np.zeros((*sequences, responses), np.int32)
        supervised = np.zeros((*sequences, responses), np.int8)
        reference = np.zeros(sequences, np.float32)
        shared_width = round_up(max(shared_width, 1), plan.length_multiple)
        shared_tokens = np.full((len(indices_N), shared_width), pad_id, np.int32)
        shared_lengths = np.zeros(len(indices_N), np.int32)
        context_width = round_up(longest_rest, plan.response_multiple)
        context_tokens = np.full((*contexts, context_width), pad_id, np.int32)
        context_lengths = np.zeros(contexts, np.int32)
        for line, index in enumerate(indices_N):
            if index == EMPTY_ROW:
                continue
            pair, shared = self.training_set.tokenize(int(index)), 0
            reference[line] = self.reference_Nx2x2[index]
            if prefix:
                shared = max(pair.shared, prefix)
                _fill(shared_tokens[line], pair.prompts[0][prefix:shared])
                shared_lengths[line] = shared - prefix
            for context, prompt in enumerate(pair.prompts):
                start = 0
                if prefix:
                    # The state of a prompt's last token predicts the response, so it is the leaf's.
                    start = len(prompt) - 1
                    _fill(context_tokens[line, context], prompt[shared:start])
                    context_lengths[line, context] = start - shared
                first = len(prompt) - 1 - start
                for choice in range(RESPONSES):
                    at, target = (line, context, choice), pair.response(context, choice)
                    # The end token is a target only: nothing comes after it.
                    sequence = np.concatenate([prompt[start:], target[:-1]])
                    _fill(tokens[at], sequence)
                    lengths[at] = len(sequence)
                    _fill(targets[at], target)
                    _fill(target_positions[at], first + np.arange(len(target)))
                    supervised[at][: len(target)] = 1
        tree = PairTree(shared_tokens, shared_lengths, context_tokens, context_lengths)
        rows = PairRows(
            tokens,
            lengths,
            targets,
            target_positions,
            supervised,
            reference,
            tree if prefix else None,
        )
        return LoadedBatch(
            Batch(rows, _prefix(self.training_set, plan)),
            indices_N.astype(np.int32),
            np.asarray(epoch, np.int32),
        )


def _fill(line: np.ndarray, values: np.ndarray) -> None:
    line[: len(values)] = values


def _prefix(rows: TrainingSet | PreferenceSet, plan: BatchPlan) -> SharedPrefix | None:
    length = plan.prefix_length
    if not length:
        return None
    padding = round_up(length, plan.length_multiple) - length
    tokens_P = np.pad(rows.prefix_ids, (0, padding), constant_values=rows.encoder.pad_id)
    return SharedPrefix(tokens_P, np.asarray(length, np.int32))


def batch_iterator(
    loader: Callable[[int], LoadedBatch],
    plan: BatchPlan,
    *,
    start: int = 0,
    threads: int = 2,
    workers: int = 0,
    prefetch: int = 4,
) -> grain.DatasetIterator:
    """Iterates over the batches of ``plan`` from step ``start`` (from 0) on, in order.

    ``threads`` and ``workers`` (processes; 0 reads in this one) make ``prefetch`` batches ahead.
    The iterator's whole state is the next step, so a run resumes exactly, on any number of hosts or
    workers.
    """
    dataset = grain.MapDataset.range(plan.total_steps).map(loader)
    options = grain.ReadOptions(num_threads=threads, prefetch_buffer_size=prefetch)
    stream = dataset.to_iter_dataset(options)
    if workers:
        # Outside absl applications Grain's flags must be declared parsed before it forks workers.
        from absl import flags

        flags.FLAGS.mark_as_parsed()
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return seek(iter(stream), start)


def seek(iterator: grain.DatasetIterator, step: int) -> grain.DatasetIterator:
    """Moves an iterator so that ``step`` (from 0) comes next, whatever the workers.

    Grain's own state depends on the number of reader processes, and a run may resume with another.
    With w of them Grain deals the steps out in turn: worker i reads i, i + w, i + 2 w, and so has
    read ceil((step - i) / w) of those before ``step``.
    """
    state = iterator.get_state()
    if "next_index" in state:
        state["next_index"] = step
    else:
        readers = state["iterators_in_use_states"]
        count = len(readers)
        for number, reader in enumerate(readers):
            reader["next_index"] = -(-(step - number) // count)
        state["next_index_in_cycle"] = step % count
    iterator.set_state(state)
    return iterator
