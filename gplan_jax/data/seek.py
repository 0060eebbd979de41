"""Where a batch iterator stands is one number: the next step. This sets it, whatever the workers.

Grain's own state depends on the number of reader processes; a run may resume with another.
"""

from __future__ import annotations

import grain


def seek(iterator: grain.DatasetIterator, step: int) -> grain.DatasetIterator:
    """Moves an iterator of ``data.pipeline.batch_iterator`` so that ``step`` (from 0) comes next.

    With w worker processes Grain deals the steps out in turn: worker i reads i, i + w, i + 2 w,
    and so has read ceil((step - i) / w) of those before ``step``.
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
