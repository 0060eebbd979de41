"""New tokens: the next ids, one id each in text, existing ones kept; golden ids of Qwen3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from gplan_jax.foundation.errors import GplanError
from gplan_jax.models.checkpoints.tokenizer_files import extend_tokenizer
from gplan_jax.reasoning import GSISR_LATENTS


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    tokenizer = Tokenizer(models.WordLevel({"w0": 0, "w1": 1, "w2": 2}, "w0"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.add_special_tokens(["<end>"])
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    return tmp_path


def test_golden_ids_of_compressed_responses(shared: Path) -> None:
    extension = extend_tokenizer(shared / "qwen3_tokenizer", GSISR_LATENTS.tokens)
    assert extension is not None
    assert (extension.size_before, extension.size_after) == (151_669, 151_702)
    assert list(extension.ids.values()) == list(range(151_669, 151_702))
    with (shared / "golden" / "compression.jsonl").open(encoding="utf-8") as lines:
        rows = [json.loads(next(lines)) for _ in range(10)]
    for stage in (stage for row in rows for stage in row["stages"]):
        ids = extension.tokenizer.encode(stage["text"], add_special_tokens=False).ids
        assert [*ids, 151_645] == stage["ids"]


def test_a_vocabulary_with_gaps_cannot_take_in_tokens(tmp_path: Path) -> None:
    """Ids are then not the number of tokens, and a new token would share an existing one's row."""
    Tokenizer(models.WordLevel({"w0": 0, "w2": 2}, "w0")).save(str(tmp_path / "tokenizer.json"))
    with pytest.raises(GplanError, match="ids up to 2 for 2 tokens"):
        extend_tokenizer(tmp_path, ["<a>"])
    kept = extend_tokenizer(tmp_path, ["w2"])
    assert kept is not None
    assert (kept.ids, kept.added, kept.size_before) == ({"w2": 2}, [], 3)


def test_tokens_it_already_has_keep_their_ids(directory: Path) -> None:
    first = extend_tokenizer(directory, ["<a>", "<b>"])
    assert first is not None and first.added == ["<a>", "<b>"]
    first.write(directory)
    again = extend_tokenizer(directory, ["<a>", "<c>", "<b>"])
    assert again is not None
    assert again.added == ["<c>"]
    assert again.ids == first.ids | {"<c>": first.size_after}


def test_written_tokens_are_single_ids_wherever_they_stand(directory: Path) -> None:
    settings = {"eos_token": "<end>", "added_tokens_decoder": {"8": {"content": "<end>"}}}
    (directory / "tokenizer_config.json").write_text(json.dumps(settings))
    extension = extend_tokenizer(directory, ["<a>"])
    assert extension is not None
    extension.write(directory)
    number = extension.ids["<a>"]
    loaded = Tokenizer.from_file(str(directory / "tokenizer.json"))
    assert loaded.encode("w1<a>w2<end>").ids == [1, number, 2, loaded.token_to_id("<end>")]
    written = json.loads((directory / "tokenizer_config.json").read_text())
    assert written["added_tokens_decoder"].keys() == {"8", str(number)}
    assert written["added_tokens_decoder"][str(number)]["content"] == "<a>"
    assert written["added_tokens_decoder"][str(number)]["special"] is True
    assert written["eos_token"] == "<end>"


def test_without_a_tokenizer_nothing_can_be_added(tmp_path: Path) -> None:
    assert extend_tokenizer(tmp_path, []) is None
    with pytest.raises(GplanError, match=r"tokenizer\.json does not exist.*2 tokens"):
        extend_tokenizer(tmp_path, ["<a>", "<b>"])


@pytest.mark.parametrize("tokens", [["<a>", "<a>"], [""]])
def test_tokens_must_be_distinct_and_not_empty(directory: Path, tokens: list[str]) -> None:
    with pytest.raises(GplanError, match="distinct"):
        extend_tokenizer(directory, tokens)


def test_a_broken_tokenizer_is_named(directory: Path) -> None:
    (directory / "tokenizer.json").write_text("{}")
    with pytest.raises(GplanError, match=r"tokenizer\.json is not a readable tokenizer"):
        extend_tokenizer(directory, [])
