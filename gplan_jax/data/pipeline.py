"""The Grain pipeline of a run: step -> batch plan -> this process's rows -> a typed batch.

The iterator's whole state is the next step, so a checkpoint resumes exactly, also on another number
of hosts or workers.
"""

from __future__ import annotations

from collections.abc import Callable

import grain

from gplan_jax.data.batch_plan import BatchPlan
from gplan_jax.data.batches import LoadedBatch


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
