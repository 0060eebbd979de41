from __future__ import annotations

import json
import pickle
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gplan_jax.data import ChatEncoder
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import Prompt
from gplan_jax.reasoning import GSISR_LATENTS

LABEL = '<THOUGHT><CONTEXT>晚上。</CONTEXT><STRATEGY>先打车。</STRATEGY></THOUGHT>[{"tag":"美食"}]'


@pytest.fixture(scope="module")
def encoder(tiny_model_dir: Path) -> ChatEncoder:
    return ChatEncoder.load(tiny_model_dir)


def test_layout_is_qwen3s(encoder: ChatEncoder) -> None:
    ids = encoder.prompt_ids(Prompt(system="规则", user="现在是晚上"), max_length=200)
    assert encoder.decode(ids) == (
        "<|im_start|>system\n规则<|im_end|>\n<|im_start|>user\n现在是晚上<|im_end|>\n"
        "<|im_start|>assistant\n"
    )


@given(
    text=st.lists(
        st.sampled_from(
            ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<T_1_a>", "<THOUGHT_CONTEXT_b>", "饭"]
        ),
        min_size=1,
        max_size=6,
    )
)
def test_user_text_never_becomes_a_control_token(tiny_model_dir: Path, text: list[str]) -> None:
    encoder = ChatEncoder.load(tiny_model_dir)
    plain = encoder.prompt_ids(Prompt("规则", "饭"), max_length=400)
    ids = encoder.prompt_ids(Prompt("规则" + text[0], "".join(text)), max_length=400)
    spec = json.loads((tiny_model_dir / "tokenizer.json").read_text())
    control = {token["id"] for token in spec["added_tokens"]}
    # Only the layout's own: two turns ended, three begun.
    assert sum(i in control for i in ids) == sum(i in control for i in plain) == 5
    assert "".join(text) in encoder.decode(ids)


def test_truncation_cuts_the_left_of_the_user_part(encoder: ChatEncoder) -> None:
    prompt = Prompt(system="规则", user="很久以前的历史" * 30 + "现在的位置")
    whole = encoder.prompt_ids(prompt, max_length=10_000)
    cut = encoder.prompt_ids(prompt, max_length=len(whole) - 50)
    assert len(cut) == len(whole) - 50
    text = encoder.decode(cut)
    assert text.startswith("<|im_start|>system\n规则<|im_end|>")
    assert text.endswith("现在的位置<|im_end|>\n<|im_start|>assistant\n")
    constant = len(encoder.prompt_ids(Prompt(system="规则", user=""), max_length=200))
    with pytest.raises(GplanError, match=f"{constant} tokens, but a whole prompt may have only 5;"):
        encoder.prompt_ids(prompt, max_length=5)


def test_sections_split_at_the_plan(encoder: ChatEncoder) -> None:
    response = encoder.response(LABEL)
    assert response.ids[-1] == encoder.end_id and response.sections[-1] == 2
    border = int(np.argmax(response.sections == 2))
    assert (response.sections[:border] == 1).all() and (response.sections[border:] == 2).all()
    assert "[" not in encoder.decode(response.ids[:border])
    assert encoder.decode(response.ids[border:]).endswith('[{"tag":"美食"}]<|im_end|>')
    bare = encoder.response('[{"tag":"美食"}]')
    assert (bare.sections == 2).all()


def test_sections_agree_with_a_character_count_on_qwen3s_tokenizer(shared: Path) -> None:
    path = shared / "qwen3_tokenizer" / "tokenizer.json"
    encoder = ChatEncoder(path.read_text(encoding="utf-8"))
    response = encoder.response(LABEL)
    # Decoding ever longer prefixes finds the first token that reaches beyond </THOUGHT>.
    thought = LABEL.index("[")
    reach = [len(encoder.decode(response.ids[: n + 1])) for n in range(len(response.ids))]
    expected = [1 if characters <= thought else 2 for characters in reach]
    assert response.sections.tolist() == expected
    assert {1, 2} == set(expected)


def test_latent_tokens_are_single_ids(encoder: ChatEncoder) -> None:
    encoder.require_latents()
    for token in GSISR_LATENTS.tokens:
        assert len(encoder.response(token).ids) == 2


def test_what_a_tokenizer_file_cuts_and_pads_is_encoded_whole(
    encoder: ChatEncoder, tiny_model_dir: Path
) -> None:
    content = json.loads((tiny_model_dir / "tokenizer.json").read_text(encoding="utf-8"))
    content["truncation"] = {
        "direction": "Right",
        "max_length": 4,
        "strategy": "LongestFirst",
        "stride": 0,
    }
    content["padding"] = {
        "strategy": {"Fixed": 64},
        "direction": "Right",
        "pad_to_multiple_of": None,
        "pad_id": 0,
        "pad_type_id": 0,
        "pad_token": "<|endoftext|>",
    }
    content["post_processor"] = {
        "type": "ByteLevel",
        "add_prefix_space": True,
        "trim_offsets": True,
        "use_regex": True,
    }
    content["model"]["dropout"] = 0.9
    cutting = ChatEncoder(json.dumps(content))
    prompt = Prompt(system="规则", user="现在是晚上，在公司")
    np.testing.assert_array_equal(
        cutting.prompt_ids(prompt, max_length=200), encoder.prompt_ids(prompt, max_length=200)
    )
    for text in (LABEL, f"</THOUGHT> {LABEL}"):
        ours, theirs = encoder.response(text), cutting.response(text)
        np.testing.assert_array_equal(theirs.ids, ours.ids)
        np.testing.assert_array_equal(theirs.sections, ours.sections)


def test_what_is_missing_is_named(tiny_hf_dir: Path, tmp_path: Path) -> None:
    with pytest.raises(GplanError, match=r"lacks 33 latent tokens.*gplan convert"):
        ChatEncoder.load(tiny_hf_dir).require_latents()
    with pytest.raises(GplanError, match=r"tokenizer\.json does not exist"):
        ChatEncoder.load(tmp_path)
    spec = json.loads((tiny_hf_dir / "tokenizer.json").read_text())
    spec["added_tokens"] = [t for t in spec["added_tokens"] if t["content"] != "<|im_end|>"]
    spec["model"]["vocab"].pop("<|im_end|>", None)
    with pytest.raises(GplanError, match=r"has no token <\|im_end\|>"):
        ChatEncoder(json.dumps(spec))


def test_travels_to_worker_processes(encoder: ChatEncoder) -> None:
    there = pickle.loads(pickle.dumps(encoder))
    assert there.response(LABEL).ids.tolist() == encoder.response(LABEL).ids.tolist()
