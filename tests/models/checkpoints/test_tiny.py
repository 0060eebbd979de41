from __future__ import annotations

import json
import unicodedata
from pathlib import Path

import jinja2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import load_file
from tokenizers import Tokenizer

from gplan_jax.foundation import GplanError
from gplan_jax.models.checkpoints.tiny import SPECIAL_TOKENS, train_tokenizer, write_tiny_checkpoint

TEXTS = [
    "酒店订单正在进行，人在订单地，晚饭时间。",
    '[{"工具名称":"tool_6"}]',
    "p_900 2026-03-02 08:00",
] * 3
TOKENIZER = train_tokenizer(TEXTS, 320)
SMALL = {"vocab_size": 320, "hidden_size": 16, "layers": 2, "heads": 4, "kv_heads": 2}
SMALL |= {"head_dim": 8, "intermediate_size": 24}


@given(st.text())
def test_any_text_round_trips_to_its_nfc_form(text: str) -> None:
    ids = TOKENIZER.encode(text).ids
    decoded = TOKENIZER.decode(ids, skip_special_tokens=False)
    assert decoded == unicodedata.normalize("NFC", text)


@given(st.text())
def test_a_saved_tokenizer_gives_the_same_ids(text: str) -> None:
    reloaded = Tokenizer.from_str(TOKENIZER.to_str())
    assert reloaded.encode(text).ids == TOKENIZER.encode(text).ids


def test_the_tokenizer_learns_its_texts_and_knows_control_tokens() -> None:
    assert len(TOKENIZER.encode("酒店订单正在进行").ids) < len("酒店订单正在进行".encode())
    control = [TOKENIZER.token_to_id(token) for token in SPECIAL_TOKENS]
    assert control == list(range(TOKENIZER.get_vocab_size() - 3, TOKENIZER.get_vocab_size()))
    assert TOKENIZER.encode("<|im_start|>user<|im_end|>").tokens[0] == "<|im_start|>"
    assert TOKENIZER.encode("2026").tokens == list("2026")


def test_texts_may_come_as_a_stream_and_give_the_same_tokenizer() -> None:
    assert train_tokenizer(iter(TEXTS), 320).to_str() == TOKENIZER.to_str()


@pytest.mark.parametrize("tie", [True, False])
def test_the_directory_describes_its_own_tensors(tmp_path: Path, tie: bool) -> None:
    report = write_tiny_checkpoint(tmp_path / "tiny", TEXTS, **SMALL, tie=tie)
    config = json.loads((tmp_path / "tiny/config.json").read_text())
    tensors = load_file(tmp_path / "tiny/model.safetensors")
    rows = config["vocab_size"]
    assert rows % 64 == 0 and rows >= report["tokens"] + 33
    assert tensors["model.embed_tokens.weight"].shape == (rows, 16)
    assert tensors["model.layers.1.self_attn.q_proj.weight"].shape == (32, 16)
    assert tensors["model.layers.1.self_attn.k_proj.weight"].shape == (16, 16)
    assert tensors["model.layers.0.self_attn.o_proj.weight"].shape == (16, 32)
    assert tensors["model.layers.0.mlp.down_proj.weight"].shape == (16, 24)
    assert ("lm_head.weight" in tensors) is not tie
    assert config["tie_word_embeddings"] is tie
    assert report["parameters"] == sum(tensor.size for tensor in tensors.values())
    norms = [tensor for name, tensor in tensors.items() if "norm" in name]
    assert len(norms) == 2 * 4 + 1 and all((norm == 1).all() for norm in norms)
    assert tensors["model.embed_tokens.weight"].std() == pytest.approx(0.02, rel=0.1)
    tokenizer = Tokenizer.from_file(str(tmp_path / "tiny/tokenizer.json"))
    assert config["eos_token_id"] == tokenizer.token_to_id("<|im_end|>")
    assert config["pad_token_id"] == tokenizer.token_to_id("<|endoftext|>")


def test_the_same_seed_writes_the_same_bytes_and_another_seed_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", 1), ("b", 1), ("c", 2)):
        write_tiny_checkpoint(tmp_path / name, TEXTS, **SMALL, seed=seed)
    files = sorted(path.name for path in (tmp_path / "a").iterdir())
    assert "tokenizer_config.json" in files
    for name in files:
        assert (tmp_path / "a" / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    weights = "model.safetensors"
    assert (tmp_path / "a" / weights).read_bytes() != (tmp_path / "c" / weights).read_bytes()


def test_bfloat16_halves_the_file(tmp_path: Path) -> None:
    for dtype in ("float32", "bfloat16"):
        write_tiny_checkpoint(tmp_path / dtype, TEXTS, **SMALL, dtype=dtype)
    tensor = load_file(tmp_path / "bfloat16/model.safetensors")["model.norm.weight"]
    assert str(tensor.dtype) == "bfloat16"
    wide = (tmp_path / "float32/model.safetensors").stat().st_size
    assert (tmp_path / "bfloat16/model.safetensors").stat().st_size < 0.6 * wide


def test_the_chat_template_has_qwen3s_layout(tmp_path: Path) -> None:
    write_tiny_checkpoint(tmp_path / "tiny", TEXTS, **SMALL)
    template = json.loads((tmp_path / "tiny/tokenizer_config.json").read_text())["chat_template"]
    messages = [{"role": "system", "content": "S\n"}, {"role": "user", "content": " U"}]
    text = jinja2.Template(template).render(messages=messages, add_generation_prompt=True)
    assert text == (
        "<|im_start|>system\nS\n<|im_end|>\n<|im_start|>user\n U<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ({"vocab_size": 200}, "vocab_size 200"),
        ({"kv_heads": 3}, "num_key_value_heads 3"),
        ({"layers": 0}, "num_hidden_layers: 0"),
        ({"head_dim": 7}, "head_dim 7"),
        ({"dtype": "float8"}, "float8"),
    ],
)
def test_an_impossible_checkpoint_is_refused_and_leaves_nothing(
    tmp_path: Path, wrong: dict[str, object], named: str
) -> None:
    with pytest.raises(GplanError, match=named):
        write_tiny_checkpoint(tmp_path / "tiny", TEXTS, **(SMALL | wrong))  # type: ignore[arg-type]
    assert list(tmp_path.iterdir()) == []


def test_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GplanError, match="No text"):
        write_tiny_checkpoint(tmp_path / "tiny", [], **SMALL)


def test_an_earlier_checkpoint_is_never_overwritten(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("earlier")
    with pytest.raises(GplanError, match="not empty"):
        write_tiny_checkpoint(tmp_path, TEXTS, **SMALL)
    assert [path.name for path in tmp_path.iterdir()] == ["kept.txt"]
