"""Conversion and export: byte-exact round trips, new tokens, and nothing left on failure."""

from __future__ import annotations

import dataclasses
import errno
import json
from collections.abc import Callable
from pathlib import Path

import jax
import numpy as np
import pytest
from orbax.checkpoint import v1 as ocp
from tokenizers import Tokenizer

from gplan_jax.foundation.errors import GplanError
from gplan_jax.models import (
    ModelRecord,
    Qwen3,
    Qwen3Config,
    convert_checkpoint,
    export_checkpoint,
    load_qwen3,
)

TOKENS = ("<T_a>", "<T_b>", "<T_c>")
KNOWN = 30  # tokens of the small tokenizer; the embedding has 40 rows


@jax.jit
def logits(model: Qwen3, ids: np.ndarray) -> jax.Array:
    return model(ids)


@pytest.fixture
def source(
    tmp_path: Path, any_config: Qwen3Config, random_tensors: Callable, write_checkpoint: Callable
) -> Path:
    return write_checkpoint(
        tmp_path / "hf", any_config, random_tensors(any_config), shards=2, tokens=KNOWN
    )


def vocabulary_names(config: Qwen3Config) -> list[str]:
    head = [] if config.tie_word_embeddings else ["lm_head.weight"]
    return ["model.embed_tokens.weight", *head]


def rows(entry: tuple[str, list[int], bytes]) -> np.ndarray:
    return np.frombuffer(entry[2], np.float32).reshape(entry[1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("ships_lm_head", [False, True])
@pytest.mark.parametrize("shards", [1, 3])
def test_round_trip_is_byte_for_byte(
    tmp_path: Path,
    any_config: Qwen3Config,
    random_tensors: Callable,
    write_checkpoint: Callable,
    read_checkpoint: Callable,
    dtype: str,
    ships_lm_head: bool,
    shards: int,
) -> None:
    tensors = random_tensors(any_config, dtype)
    if ships_lm_head:
        tensors.setdefault("lm_head.weight", tensors["model.embed_tokens.weight"])
    source = write_checkpoint(tmp_path / "hf", any_config, tensors, shards=shards, tokens=KNOWN)
    report = convert_checkpoint(source, tmp_path / "model")
    export_checkpoint(tmp_path / "model", tmp_path / "back")
    assert read_checkpoint(tmp_path / "back") == read_checkpoint(source)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (tmp_path / "back" / name).read_bytes() == (source / name).read_bytes()
    assert (report.dtype, report.tokens_added, report.rows_before, report.rows_after) == (
        dtype,
        0,
        40,
        40,
    )
    unique = {name: t for name, t in tensors.items() if name != "lm_head.weight"}
    expected = sum(t.size for t in unique.values())
    assert report.parameters == expected + (0 if any_config.tie_word_embeddings else 40 * 12)


@pytest.mark.parametrize("name", ["qwen3_tied", "qwen3_untied"])
def test_golden_checkpoints_round_trip(
    shared: Path, tmp_path: Path, read_checkpoint: Callable, name: str
) -> None:
    golden = shared / "golden" / name
    convert_checkpoint(golden, tmp_path / "model")
    export_checkpoint(tmp_path / "model", tmp_path / "back")
    assert read_checkpoint(tmp_path / "back") == read_checkpoint(golden)
    for file in ("config.json", "generation_config.json"):
        assert (tmp_path / "back" / file).read_bytes() == (golden / file).read_bytes()


def test_new_tokens_take_spare_rows_and_change_nothing_else(
    source: Path, tmp_path: Path, any_config: Qwen3Config, read_checkpoint: Callable
) -> None:
    report = convert_checkpoint(source, tmp_path / "model", new_tokens=TOKENS, metadata={"k": 3})
    assert (report.tokens_added, report.rows_after) == (3, 40)
    record = ModelRecord.read(tmp_path / "model")
    assert record.new_tokens == {"<T_a>": 30, "<T_b>": 31, "<T_c>": 32}
    assert (record.metadata, record.original_tokens) == ({"k": 3}, KNOWN)
    export_checkpoint(tmp_path / "model", tmp_path / "back")
    before, after = read_checkpoint(source), read_checkpoint(tmp_path / "back")
    for name in vocabulary_names(any_config):
        old, new = rows(before.pop(name)), rows(after.pop(name))
        fresh = [30, 31, 32]
        kept = [row for row in range(40) if row not in fresh]
        np.testing.assert_array_equal(new[kept], old[kept])
        mean, spread = old[:KNOWN].mean(0), old[:KNOWN].std()
        distance = np.abs(new[fresh] - mean).max()
        assert 0 < distance < 0.5 * spread
        assert len(np.unique(new[fresh], axis=0)) == 3
    assert before == after
    tokenizer = Tokenizer.from_file(str(tmp_path / "back" / "tokenizer.json"))
    assert tokenizer.encode("w4<T_b>w5 w6<T_c>").ids == [4, 31, 5, 6, 32]


def test_without_spare_rows_the_matrices_grow_to_a_multiple_of_128(
    tmp_path: Path, any_config: Qwen3Config, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    source = write_checkpoint(tmp_path / "hf", any_config, random_tensors(any_config), tokens=38)
    report = convert_checkpoint(source, tmp_path / "model", new_tokens=TOKENS)
    assert (report.rows_before, report.rows_after) == (40, 128)
    grown, original = load_qwen3(tmp_path / "model"), load_qwen3(source)
    assert grown.config == dataclasses.replace(any_config, vocab_size=128)
    ids = np.arange(12)[None]
    found = logits(grown, ids)
    np.testing.assert_allclose(found[..., :38], logits(original, ids)[..., :38], atol=1e-5)
    assert np.isfinite(logits(grown, np.asarray([[38, 39, 40, 127]]))).all()
    export_checkpoint(tmp_path / "model", tmp_path / "back")
    written = json.loads((tmp_path / "back" / "config.json").read_text())
    assert written["vocab_size"] == 128
    np.testing.assert_array_equal(logits(load_qwen3(tmp_path / "back"), ids), found)


def test_the_seed_decides_the_new_rows(source: Path, tmp_path: Path) -> None:
    fresh = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        convert_checkpoint(source, tmp_path / name, new_tokens=TOKENS, seed=seed)
        fresh.append(np.asarray(load_qwen3(tmp_path / name).head_VxD()[30:33]))
    np.testing.assert_array_equal(fresh[0], fresh[1])
    assert (fresh[0] != fresh[2]).all()


def test_converting_an_extended_checkpoint_again_changes_nothing(
    source: Path, tmp_path: Path, read_checkpoint: Callable
) -> None:
    convert_checkpoint(source, tmp_path / "model", new_tokens=TOKENS)
    export_checkpoint(tmp_path / "model", tmp_path / "extended")
    again = convert_checkpoint(tmp_path / "extended", tmp_path / "again", new_tokens=TOKENS, seed=9)
    assert (again.tokens_added, list(again.new_tokens.values())) == (0, [30, 31, 32])
    export_checkpoint(tmp_path / "again", tmp_path / "twice")
    assert read_checkpoint(tmp_path / "twice") == read_checkpoint(tmp_path / "extended")


def test_a_tokenizer_of_another_checkpoint_is_refused(
    tmp_path: Path, config: Qwen3Config, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    source = write_checkpoint(tmp_path / "hf", config, random_tensors(config), tokens=41)
    with pytest.raises(GplanError, match="ids up to 40, but the embedding has 40 rows"):
        convert_checkpoint(source, tmp_path / "model")


def test_a_missing_tokenizer_is_an_error_only_with_new_tokens(
    tmp_path: Path, config: Qwen3Config, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    source = write_checkpoint(tmp_path / "hf", config, random_tensors(config))
    with pytest.raises(GplanError, match=r"tokenizer\.json does not exist"):
        convert_checkpoint(source, tmp_path / "model", new_tokens=TOKENS)
    assert convert_checkpoint(source, tmp_path / "model").new_tokens == {}


def test_a_tokenizer_of_vocabulary_and_merges_is_converted(
    tmp_path: Path, config: Qwen3Config, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    source = write_checkpoint(tmp_path / "hf", config, random_tensors(config))
    (source / "vocab.json").write_text('{"a": 0, "b": 1, "ab": 2}')
    (source / "merges.txt").write_text("#version: 0.2\na b\n")
    (source / "added_tokens.json").write_text('{"<|endoftext|>": 3}')
    assert convert_checkpoint(source, tmp_path / "plain").new_tokens == {}
    report = convert_checkpoint(source, tmp_path / "model", new_tokens=TOKENS)
    assert list(report.new_tokens.values()) == [4, 5, 6]
    plain, extended = (
        Tokenizer.from_file(str(tmp_path / name / "tokenizer.json")) for name in ("plain", "model")
    )
    assert plain.encode("ab<|endoftext|>").ids == [2, 3]
    assert extended.encode("ab<|endoftext|><T_a>").ids == [2, 3, 4]


def test_results_are_never_overwritten(source: Path, tmp_path: Path) -> None:
    convert_checkpoint(source, tmp_path / "model")
    with pytest.raises(GplanError, match="never overwritten"):
        convert_checkpoint(source, tmp_path / "model")
    with pytest.raises(GplanError, match="never overwritten"):
        export_checkpoint(tmp_path / "model", source)
    with pytest.raises(GplanError, match="needs no conversion"):
        convert_checkpoint(tmp_path / "model", tmp_path / "other")
    with pytest.raises(GplanError, match=r"not a GPlan model directory"):
        export_checkpoint(source, tmp_path / "other")


@pytest.mark.parametrize("written", [0, 2])
def test_a_full_disk_leaves_nothing_behind(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    save, calls = ocp.partial.save, []

    def failing(*args: object, **kwargs: object) -> None:
        calls.append(1)
        if len(calls) > written:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(*args, **kwargs)

    monkeypatch.setattr(ocp.partial, "save", failing)
    with pytest.raises(OSError, match="No space left"):
        convert_checkpoint(source, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]


def test_a_torn_shard_leaves_nothing_behind(source: Path, tmp_path: Path) -> None:
    shard = source / "model-1-of-2.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(GplanError, match="torn"):
        convert_checkpoint(source, tmp_path / "model")
    assert [path.name for path in tmp_path.iterdir()] == ["hf"]
