"""Context pairs as token ids, and their batches as trees and as whole sequences."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest

from gplan_jax.data.batch_plan import EMPTY_ROW, BatchPlan, Share
from gplan_jax.data.batches import Batch, check_shapes
from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.loaders import PreferenceLoader
from gplan_jax.data.preference_set import PreferenceSet
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.foundation import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import (
    IntentLibrary,
    PromptTemplate,
    latent_valid,
    parse_plan,
    read_context_pairs,
    write_context_pairs,
)
from gplan_jax.objectives.curriculum import CompressionCurriculum

PROMPT_LENGTH = 1300


def with_task(pairs: PreferenceSet, **changes: Any) -> PreferenceSet:
    return dataclasses.replace(pairs, task=dataclasses.replace(pairs.task, **changes))


def read(
    path: Path, model_dir: Path, template: str = "compact_zh", prompt_length: int = PROMPT_LENGTH
) -> PreferenceSet:
    return PreferenceSet.read(
        path,
        encoder=ChatEncoder.load(model_dir),
        task=GsisrTask(
            PromptTemplate.load(template), IntentLibrary.load(), prompt_length=prompt_length
        ),
    )


@pytest.fixture(scope="module")
def pairs(pairs_file: Path, tiny_model_dir: Path) -> PreferenceSet:
    return read(pairs_file, tiny_model_dir, template="amap_zh", prompt_length=6000)


def make_loader(
    pairs: PreferenceSet, *, tree: bool, share: Share | None = None
) -> PreferenceLoader:
    fitting, levels = pairs.fitting()
    lengths = np.stack([levels[:, :2].sum(axis=1), levels[:, 2]], axis=1)[:, None]
    plan = BatchPlan(
        lengths,
        CompressionCurriculum(len(fitting), epochs_per_stage=None),
        batch_size=8,
        epochs=1,
        seed=0,
        length_multiple=16,
        response_multiple=16,
        prefix_length=len(fitting.prefix_ids) if tree else 0,
    )
    reference = np.random.default_rng(0).normal(size=(len(fitting), 2, 2)).astype(np.float32)
    return PreferenceLoader(fitting, plan, levels, reference, share or Share())


def whole_sequences(batch: Batch) -> list[list[int]]:
    """Every sequence that a batch means, put together from its tree again."""
    found, rows = [], batch.rows
    for pair, context, choice in np.ndindex(rows.lengths_Nx2x2.shape):
        at = (pair, context)
        tokens = rows.tokens_Nx2x2xS[at][choice, : rows.lengths_Nx2x2[at][choice]]
        if batch.prefix and len(tokens):
            tree = rows.tree
            above = [
                batch.prefix.tokens_P[: batch.prefix.length],
                tree.shared_tokens_NxH[pair, : tree.shared_lengths_N[pair]],
                tree.context_tokens_Nx2xC[at][: tree.context_lengths_Nx2[at]],
            ]
            tokens = np.concatenate([*above, tokens])
        found.append(tokens.tolist())
    return found


def test_both_responses_are_fully_latent_and_swap_with_the_context(pairs: PreferenceSet) -> None:
    library = IntentLibrary.load()
    for row, pair in enumerate(pairs.pairs):
        tokens = pairs.tokenize(row)
        for context, example in enumerate(pair.examples):
            chosen = pairs.encoder.decode(tokens.response(context, 0)[:-1].tolist())
            assert latent_valid(chosen)
            assert parse_plan(chosen, library) == parse_plan(example.context.raw_labels, library)
            rejected = tokens.response(1 - context, 1)
            assert rejected.tolist() == tokens.response(context, 0).tolist()
            assert tokens.response(context, 0)[-1] == pairs.encoder.end_id


def test_what_prompts_share_is_exactly_their_common_beginning(pairs: PreferenceSet) -> None:
    for row in range(len(pairs)):
        tokens = pairs.tokenize(row)
        one, other = tokens.prompts
        assert one[: tokens.shared].tolist() == other[: tokens.shared].tolist()
        assert one[tokens.shared] != other[tokens.shared]
        # amap_zh writes history and profile before the moment: all of them are shared.
        assert tokens.shared > len(pairs.prefix_ids) + 100


@pytest.mark.parametrize("step", range(5))
def test_a_tree_means_the_same_sequences_as_the_plain_layout(
    pairs: PreferenceSet, step: int
) -> None:
    tree, plain = make_loader(pairs, tree=True), make_loader(pairs, tree=False)
    from_tree, from_plain = tree(step), plain(step)
    assert whole_sequences(from_tree.batch) == whole_sequences(from_plain.batch)
    np.testing.assert_array_equal(from_tree.indices_B, from_plain.indices_B)
    for name in ("targets_Nx2x2xR", "supervised_Nx2x2xR", "reference_Nx2x2"):
        np.testing.assert_array_equal(
            getattr(from_tree.batch.rows, name), getattr(from_plain.batch.rows, name)
        )
    assert from_tree.token_count() == from_plain.token_count() > 0
    for loaded in (from_tree, from_plain):
        check_shapes(loaded.batch)


def test_targets_are_what_follows_the_states_that_predict_them(pairs: PreferenceSet) -> None:
    loader = make_loader(pairs, tree=False)
    loaded = loader(0)
    rows = loaded.batch.rows
    for line, row in enumerate(loaded.indices_B):
        tokens = loader.training_set.tokenize(int(row))
        for context, choice in np.ndindex(2, 2):
            at = (line, context, choice)
            count = rows.supervised_Nx2x2xR[at].sum()
            response = tokens.response(context, choice)
            assert rows.targets_Nx2x2xR[at][:count].tolist() == response.tolist()
            after = rows.target_positions_Nx2x2xR[at][: count - 1] + 1
            assert rows.tokens_Nx2x2xS[at][after].tolist() == response[:-1].tolist()
            assert not rows.supervised_Nx2x2xR[at][count:].any()


def test_every_pair_comes_once_and_the_last_batch_is_filled_up(pairs: PreferenceSet) -> None:
    loader = make_loader(pairs, tree=True)
    batches = [loader(step) for step in range(loader.plan.total_steps)]
    indices = np.concatenate([loaded.indices_B for loaded in batches])
    assert sorted(indices[indices != EMPTY_ROW]) == list(range(len(loader.training_set)))
    assert len(indices) == 8 * loader.plan.total_steps
    for loaded in batches:
        empty = loaded.indices_B == EMPTY_ROW
        assert not loaded.batch.rows.lengths_Nx2x2[empty].any()
        assert not loaded.batch.rows.tree.shared_lengths_N[empty].any()


def test_hosts_share_a_batch_out_with_one_set_of_widths(pairs: PreferenceSet) -> None:
    whole = make_loader(pairs, tree=True)(1)
    parts = [make_loader(pairs, tree=True, share=Share((p,), 4))(1) for p in range(4)]
    rows = [(part.indices_B, part.batch.rows) for part in parts]
    joined = jax.tree.map(lambda *values: np.concatenate(values), *rows)
    jax.tree.map(np.testing.assert_array_equal, joined, (whole.indices_B, whole.batch.rows))


def test_long_prompts_are_cut_alike(pairs_file: Path, tiny_model_dir: Path) -> None:
    whole = read(pairs_file, tiny_model_dir, template="amap_zh", prompt_length=6000)
    longest = max(
        len(prompt) for row in range(len(whole)) for prompt in whole.tokenize(row).prompts
    )
    short = with_task(whole, prompt_length=longest - 50)
    cut = 0
    for row in range(len(whole)):
        before, after = whole.tokenize(row), short.tokenize(row)
        lost = {len(b) - len(a) for b, a in zip(before.prompts, after.prompts, strict=True)}
        assert len(lost) == 1, "both prompts lose as many tokens"
        (lost_tokens,) = lost
        cut += lost_tokens > 0
        assert after.shared == before.shared - lost_tokens
        head = len(whole.prefix_ids)
        for b, a in zip(before.prompts, after.prompts, strict=True):
            assert a[:head].tolist() == b[:head].tolist()
            assert a[head:].tolist() == b[head + lost_tokens :].tolist()
        contexts = [example.context for example in whole.pairs[row].examples]
        ids = [short.task.prompt_ids(context, short.encoder) for context in contexts]
        longer = int(len(before.prompts[1]) > len(before.prompts[0]))
        assert after.prompts[longer].tolist() == ids[longer].tolist()  # as everywhere else
    assert cut > 0


def test_counts_are_kept_and_depend_on_the_texts(
    pairs_file: Path, tiny_model_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = read(pairs_file, tiny_model_dir)
    _, counted = pairs.fitting(cache_dir=tmp_path)

    def refuse(self: PreferenceSet, row: int) -> None:
        raise AssertionError("counted again")

    monkeypatch.setattr(PreferenceSet, "tokenize", refuse)
    _, again = pairs.fitting(cache_dir=tmp_path)
    np.testing.assert_array_equal(counted, again)
    with pytest.raises(AssertionError, match="counted again"):
        with_task(pairs, prompt_length=PROMPT_LENGTH - 1).fitting(cache_dir=tmp_path)


def test_the_longest_responses_are_counted_and_kept(
    pairs_file: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    pairs = read(pairs_file, tiny_model_dir)
    _, levels = pairs.fitting()
    counted = pairs.response_lengths(cache_dir=tmp_path)
    np.testing.assert_array_equal(counted, levels[:, 2])
    np.testing.assert_array_equal(pairs.response_lengths(cache_dir=tmp_path), counted)


def test_a_template_that_hides_the_change_is_refused(
    pairs_file: Path, tiny_model_dir: Path
) -> None:
    blind = PromptTemplate("blind", "Plan.", "{{ sample.id }}")
    pairs = with_task(read(pairs_file, tiny_model_dir), template=blind)
    with pytest.raises(RowError, match=r"prompts are the same.*template that shows them"):
        pairs.fitting()


def test_a_response_without_reasoning_is_refused(
    pairs_file: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    library = IntentLibrary.load()
    bare = []
    for pair in read_context_pairs(pairs_file, library):
        plan = pair.anchor.raw_labels.partition("</THOUGHT>")[2]
        bare.append(dataclasses.replace(pair, anchor=pair.anchor.with_label(plan)))
    write_context_pairs(tmp_path / "bare.jsonl", bare)
    with pytest.raises(RowError, match="without reasoning"):
        read(tmp_path / "bare.jsonl", tiny_model_dir).fitting()


def test_a_fault_stands_at_its_own_line_though_pairs_before_it_are_left_out(
    pairs_file: Path, tiny_model_dir: Path, tmp_path: Path
) -> None:
    whole, library = read(pairs_file, tiny_model_dir), IntentLibrary.load()
    pairs, at = list(read_context_pairs(pairs_file, library)), 3
    plan = pairs[at].anchor.raw_labels.partition("</THOUGHT>")[2]
    pairs[at] = dataclasses.replace(pairs[at], anchor=pairs[at].anchor.with_label(plan))
    damaged = tmp_path / "damaged.jsonl"
    write_context_pairs(damaged, pairs)
    lines = damaged.read_text(encoding="utf-8").splitlines(keepends=True)
    damaged.write_text("".join(["{\n", *lines[1:]]), encoding="utf-8")
    faulty = FaultyRows("skip")
    rest = PreferenceSet.read(damaged, encoder=whole.encoder, task=whole.task, faulty=faulty)
    assert len(rest) < len(whole)
    rest.fitting(faulty=faulty)
    place = {error.row for error in faulty.errors if pairs[at].key in error.problem}
    assert place == {2 * at + 1}


def test_a_checkpoint_without_latent_tokens_is_refused(pairs_file: Path, tiny_hf_dir: Path) -> None:
    with pytest.raises(GplanError, match="lacks 33 latent tokens"):
        read(pairs_file, tiny_hf_dir)
