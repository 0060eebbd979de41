"""New tokens: the next ids, one id each in text, existing ones kept; golden ids of Qwen3."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tokenizers import Tokenizer, models, pre_tokenizers

from gplan_jax.foundation.errors import GplanError
from gplan_jax.models.checkpoints.tokenizer_files import extend_tokenizer, write_end_token
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


def write_parts(directory: Path, tokenizer_json: dict, added: dict[str, int] | None) -> Path:
    """The same tokenizer in its older form: vocab.json, merges.txt and the control tokens' ids."""
    directory.mkdir()
    (directory / "vocab.json").write_text(json.dumps(tokenizer_json["model"]["vocab"]))
    pairs = (" ".join(pair) for pair in tokenizer_json["model"]["merges"])
    (directory / "merges.txt").write_text("#version: 0.2\n" + "\n".join(pairs) + "\n")
    if added is not None:
        (directory / "added_tokens.json").write_text(json.dumps(added))
    return directory


def test_vocabulary_and_merges_mean_what_tokenizer_json_means(shared: Path, tmp_path: Path) -> None:
    path = shared / "qwen3_tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text(encoding="utf-8"))
    added = {token["content"]: token["id"] for token in content["added_tokens"]}
    extension = extend_tokenizer(write_parts(tmp_path / "hf", content, added), ["<T>"])
    assert extension is not None
    assert (extension.size_before, extension.ids) == (151_669, {"<T>": 151_669})
    (tmp_path / "out").mkdir()
    extension.write(tmp_path / "out")
    ours = Tokenizer.from_file(str(tmp_path / "out" / "tokenizer.json"))
    theirs = Tokenizer.from_file(str(path))
    for text in (
        "<|im_start|>user\n  don't 12345 <think> x </think> \t\r\n ok é e\u0301<|im_end|>\n",
        '<THOUGHT><CONTEXT>晚上，在公司。</CONTEXT></THOUGHT>[{"tag": "美食"}]<|endoftext|>',
    ):
        found, expected = ours.encode(text), theirs.encode(text)
        assert (found.ids, found.offsets) == (expected.ids, expected.offsets)


def test_control_tokens_without_ids_are_refused_rather_than_numbered_anew(tmp_path: Path) -> None:
    content = {"model": {"vocab": {"a": 0, "b": 1, "ab": 2}, "merges": [["a", "b"]]}}
    parts = write_parts(tmp_path / "hf", content, None)
    (parts / "tokenizer_config.json").write_text('{"eos_token": "<end>"}')
    with pytest.raises(GplanError, match=r"ids of all tokens: not of <end>, <\|endoftext\|>"):
        extend_tokenizer(parts, [])
    (parts / "added_tokens.json").write_text('{"<|endoftext|>": 3, "<end>": 4}')
    extension = extend_tokenizer(parts, ["<T>"])
    assert extension is not None and extension.ids == {"<T>": 5}
    assert extension.tokenizer.encode("abba<T><end>").ids == [2, 1, 0, 5, 4]
    (parts / "vocab.json").write_text('["a", "b"]')
    with pytest.raises(GplanError, match=r"vocab\.json and merges\.txt are not a readable"):
        extend_tokenizer(parts, [])


def test_every_file_names_the_end_token_that_we_train(tmp_path: Path) -> None:
    """Qwen3-Base ends in <|endoftext|>; what it learns from us ends in <|im_end|>."""
    vocabulary = {"w": 0, "<|endoftext|>": 1, "<|im_end|>": 2}
    Tokenizer(models.WordLevel(vocabulary, "w")).save(str(tmp_path / "tokenizer.json"))
    before = {"config.json": {"eos_token_id": 1}, "generation_config.json": {"eos_token_id": 1}}
    before["tokenizer_config.json"] = {"eos_token": "<|endoftext|>", "other": 1}
    before["special_tokens_map.json"] = {"eos_token": {"content": "<|endoftext|>"}}
    for name, values in before.items():
        (tmp_path / name).write_text(json.dumps(values))
    write_end_token(tmp_path)
    read = {name: json.loads((tmp_path / name).read_text()) for name in before}
    assert read["config.json"]["eos_token_id"] == 2
    assert read["generation_config.json"]["eos_token_id"] == [2, 1]
    assert read["tokenizer_config.json"] == {"eos_token": "<|im_end|>", "other": 1}
    assert read["special_tokens_map.json"]["eos_token"] == "<|im_end|>"
    # An instruct checkpoint says so already, and keeps its bytes.
    (tmp_path / "config.json").write_text('{"eos_token_id":   [2, 1]}')
    write_end_token(tmp_path)
    assert (tmp_path / "config.json").read_text() == '{"eos_token_id":   [2, 1]}'
