from __future__ import annotations

import dataclasses
from pathlib import Path

import grain
import jax
import numpy as np
import pytest
from absl import flags

from gplan_jax.data import BatchPlan, ChatEncoder, Mode, TrainingSet
from gplan_jax.data.batch_plan import Share
from gplan_jax.data.batches import LoadedBatch, check_shapes
from gplan_jax.data.loaders import SampleLoader, batch_iterator, seek
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.gsisr import IntentLibrary, PromptTemplate
from gplan_jax.objectives import CompressionCurriculum

EPOCHS = 10


@pytest.fixture(scope="module")
def training_set(world_file: Path, tiny_model_dir: Path) -> TrainingSet:
    return TrainingSet.read(
        world_file,
        encoder=ChatEncoder.load(tiny_model_dir),
        task=GsisrTask(PromptTemplate.load("compact_zh"), IntentLibrary.load(), prompt_length=500),
        mode=Mode.PICD,
        cache=world_file.parent / "tokens",
    )


@pytest.fixture(scope="module")
def plan(training_set: TrainingSet) -> BatchPlan:
    return BatchPlan(
        training_set.lengths(EPOCHS),
        CompressionCurriculum(len(training_set)),
        batch_size=6,
        epochs=EPOCHS,
        seed=3,
    )


def latent_blocks(training_set: TrainingSet, loaded: LoadedBatch, line: int) -> int:
    """Counted from the token ids themselves: every latent block is three latent tokens."""
    rows = loaded.batch.rows
    text = training_set.encoder.decode(rows.targets_BxR[line][rows.sections_BxR[line] > 0])
    return sum(text.count(token) for token in training_set.encoder.latents.tokens) // 3


def test_the_curriculum_advances_sample_by_sample(
    training_set: TrainingSet, plan: BatchPlan
) -> None:
    loader = SampleLoader(training_set, plan)
    seen: dict[int, list[int]] = {row: [] for row in range(len(training_set))}
    for step in range(plan.total_steps):
        loaded = loader(step)
        for line, row in enumerate(loaded.indices_B):
            if row >= 0:
                seen[int(row)].append(latent_blocks(training_set, loaded, line))
    fully_latent_at = {}
    for row, blocks in seen.items():
        intents = len(training_set.examples[row].blocks) - 2
        assert blocks == [min(epoch, 2 + intents) for epoch in range(EPOCHS)]
        fully_latent_at[intents] = blocks.index(2 + intents)
    assert len(fully_latent_at) > 1  # the world has short plans and long ones
    lengths = sorted(fully_latent_at)
    assert [fully_latent_at[n] for n in lengths] == sorted(fully_latent_at.values())
    assert fully_latent_at[lengths[0]] < fully_latent_at[lengths[-1]]


def test_hosts_share_one_global_batch(training_set: TrainingSet, plan: BatchPlan) -> None:
    for step in (0, plan.steps_per_epoch, plan.total_steps - 1):
        whole = SampleLoader(training_set, plan)(step)
        for shards in (2, 3):
            shares = [Share((n,), shards) for n in range(shards)]
            parts = [SampleLoader(training_set, plan, share)(step) for share in shares]
            assert all((p.epoch, p.stage) == (whole.epoch, whole.stage) for p in parts)
            rows = [(part.indices_B, part.batch.rows) for part in parts]
            joined = jax.tree.map(lambda *values: np.concatenate(values), *rows)
            jax.tree.map(np.testing.assert_array_equal, joined, (whole.indices_B, whole.batch.rows))


def test_a_share_need_not_be_contiguous(training_set: TrainingSet, plan: BatchPlan) -> None:
    whole = SampleLoader(training_set, plan)(1)
    some = SampleLoader(training_set, plan, Share((0, 2), 3))(1)
    there = jax.tree.map(lambda x: x[[0, 1, 4, 5]], (whole.indices_B, whole.batch.rows))
    jax.tree.map(np.testing.assert_array_equal, (some.indices_B, some.batch.rows), there)


def test_a_shared_prefix_stands_apart_and_nothing_is_lost(
    training_set: TrainingSet, plan: BatchPlan
) -> None:
    length = len(training_set.prefix_ids)
    apart = dataclasses.replace(plan, prefix_length=length)
    for step in (0, plan.steps_per_epoch * 3, plan.total_steps - 1):
        plain, tree = (
            SampleLoader(training_set, plan)(step),
            SampleLoader(training_set, apart)(step),
        )
        np.testing.assert_array_equal(tree.indices_B, plain.indices_B)
        # Tokens are counted alike, however they are laid out.
        assert tree.token_count() == plain.token_count() > 0
        indices, prefix, tree, plain = (
            tree.indices_B,
            tree.batch.prefix,
            tree.batch.rows,
            plain.batch.rows,
        )
        assert prefix.length == length and len(prefix.tokens_P) % plan.length_multiple == 0
        assert tree.tokens_BxS.shape[1] % plan.length_multiple == 0
        for line, row in enumerate(indices):
            if row < 0:
                assert tree.lengths_B[line] == 0
                continue
            rest = tree.tokens_BxS[line][: tree.lengths_B[line]]
            whole = np.concatenate([prefix.tokens_P[:length], rest])
            np.testing.assert_array_equal(whole, plain.tokens_BxS[line][: plain.lengths_B[line]])
            count = int((tree.sections_BxR[line] > 0).sum())
            np.testing.assert_array_equal(
                tree.target_positions_BxR[line][:count] + length,
                plain.target_positions_BxR[line][:count],
            )
        np.testing.assert_array_equal(tree.targets_BxR, plain.targets_BxR)


@pytest.mark.parametrize("threads", [1, 3])
def test_resuming_continues_where_the_state_was(
    training_set: TrainingSet, plan: BatchPlan, threads: int
) -> None:
    unbroken = batch_iterator(SampleLoader(training_set, plan), plan, threads=threads)
    expected = [next(unbroken) for _ in range(12)]
    first = batch_iterator(SampleLoader(training_set, plan), plan, threads=threads)
    for _ in range(5):
        next(first)
    second = batch_iterator(SampleLoader(training_set, plan), plan, threads=1)
    second.set_state(first.get_state())
    for batch in expected[5:]:
        jax.tree.map(np.testing.assert_array_equal, next(second), batch)


def test_worker_processes_change_nothing(training_set: TrainingSet, plan: BatchPlan) -> None:
    here = batch_iterator(SampleLoader(training_set, plan), plan)
    there = batch_iterator(SampleLoader(training_set, plan), plan, workers=1)
    for _ in range(3):
        jax.tree.map(np.testing.assert_array_equal, next(there), next(here))


def test_arrays_agree_with_each_other(training_set: TrainingSet, plan: BatchPlan) -> None:
    for step in range(0, plan.total_steps, 7):
        loaded = SampleLoader(training_set, plan)(step)
        rows = loaded.batch.rows
        check_shapes(loaded.batch)
        for line, row in enumerate(loaded.indices_B):
            supervised = rows.sections_BxR[line] > 0
            if row < 0:
                assert not supervised.any() and rows.lengths_B[line] == 0
                continue
            # The token after each predicting position is the target.
            positions = rows.target_positions_BxR[line][supervised]
            targets = rows.targets_BxR[line][supervised]
            np.testing.assert_array_equal(rows.tokens_BxS[line][positions + 1], targets)
            assert targets[-1] == training_set.encoder.end_id
            assert positions[-1] + 2 == rows.lengths_B[line]


@pytest.mark.parametrize("name", ["lengths_B", "sections_BxR", "tokens_BxS"])
def test_arrays_that_do_not_belong_together_are_named(
    training_set: TrainingSet, plan: BatchPlan, name: str
) -> None:
    batch = SampleLoader(training_set, plan)(0).batch
    cut = batch.replace(rows=batch.rows.replace(**{name: getattr(batch.rows, name)[:-1]}))
    with pytest.raises(ValueError, match=r"_B\S* has shape .*; axes of the batch so far"):
        check_shapes(cut)


def test_a_batch_must_divide_by_the_hosts(training_set: TrainingSet, plan: BatchPlan) -> None:
    with pytest.raises(ValueError, match="6 rows does not divide into 4 parts"):
        SampleLoader(training_set, plan, Share((0,), 4))


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
