"""A batch iterator moved to a step goes on as one that came there by itself would."""

from __future__ import annotations

import grain
import pytest
from absl import flags

from gplan_jax.data.pipeline import seek

STEPS = 23


def numbers(workers: int, threads: int = 2) -> grain.DatasetIterator:
    """Steps through the same stages as ``batch_iterator``."""
    stream = grain.MapDataset.range(STEPS).to_iter_dataset(
        grain.ReadOptions(num_threads=threads, prefetch_buffer_size=4)
    )
    if workers:
        flags.FLAGS.mark_as_parsed()
        stream = stream.mp_prefetch(grain.MultiprocessingOptions(num_workers=workers))
    return iter(stream)


@pytest.mark.parametrize("step", [0, 1, 7, STEPS - 1])
@pytest.mark.parametrize("threads", [1, 3])
def test_what_follows_is_what_an_unbroken_iterator_gives(step: int, threads: int) -> None:
    assert list(seek(numbers(0, threads), step)) == list(range(step, STEPS))


def test_a_used_iterator_moves_too() -> None:
    iterator = numbers(0)
    assert [next(iterator) for _ in range(9)] == list(range(9))
    assert next(seek(iterator, 4)) == 4


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_the_state_is_the_one_grain_itself_comes_to(workers: int) -> None:
    walked = numbers(workers)
    for step in range(8):
        assert seek(numbers(workers), step).get_state() == walked.get_state()
        assert int(next(walked)) == step


def test_another_number_of_reader_processes_goes_on_at_the_same_step() -> None:
    assert [int(n) for n in seek(numbers(2), 5)] == list(range(5, STEPS))
