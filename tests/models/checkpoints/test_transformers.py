"""Exported checkpoints in transformers itself: same logits, same token ids."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from gplan_jax.models import (
    Qwen3Config,
    convert_checkpoint,
    export_checkpoint,
    load_qwen3,
)
from gplan_jax.reasoning import GSISR_LATENTS

pytestmark = pytest.mark.slow
torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")


def their_logits(directory: Path, ids: np.ndarray, mask: np.ndarray) -> np.ndarray:
    model = transformers.AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float32)
    with torch.no_grad():
        return model(torch.tensor(ids), attention_mask=torch.tensor(mask)).logits.numpy()


@pytest.mark.parametrize("name", ["qwen3_tied", "qwen3_untied"])
def test_golden_checkpoints_export_to_the_same_logits(
    shared: Path, tmp_path: Path, name: str
) -> None:
    expected = np.load(shared / "golden" / name / "expected.npz")
    convert_checkpoint(shared / "golden" / name, tmp_path / "model")
    export_checkpoint(tmp_path / "model", tmp_path / "hf")
    found = their_logits(tmp_path / "hf", expected["input_ids"], expected["attention_mask"])
    real = expected["attention_mask"].astype(bool)
    np.testing.assert_allclose(found[real], expected["logits"][real], rtol=0, atol=3e-5)


@pytest.mark.parametrize("tied", [True, False])
def test_an_extended_checkpoint_is_one_to_transformers_too(
    shared: Path,
    tmp_path: Path,
    random_tensors: Callable,
    write_checkpoint: Callable,
    tied: bool,
) -> None:
    config = Qwen3Config(151_936, 8, 16, 2, 4, 2, head_dim=8, tie_word_embeddings=tied)
    source = write_checkpoint(tmp_path / "source", config, random_tensors(config), shards=2)
    for file in (shared / "qwen3_tokenizer").iterdir():
        shutil.copyfile(file, source / file.name)
    convert_checkpoint(source, tmp_path / "model", new_tokens=GSISR_LATENTS.tokens)
    export_checkpoint(tmp_path / "model", tmp_path / "hf")

    text = (
        "<|im_start|>assistant\n<THOUGHT><THOUGHT_CONTEXT_a><T_1_b><T_9_c></THOUGHT>计划<|im_end|>"
    )
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    ids = tokenizer(text, add_special_tokens=False)["input_ids"]
    ours = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    assert ids == ours.encode(text, add_special_tokens=False).ids
    assert {151_669, 151_676, 151_701} <= set(ids)
    assert len(tokenizer) == 151_702
    assert tokenizer.decode(ids) == text

    batch, mask = np.asarray([ids]), np.ones((1, len(ids)), np.int64)
    found = their_logits(tmp_path / "hf", batch, mask)
    np.testing.assert_allclose(found, load_qwen3(tmp_path / "model")(batch), rtol=0, atol=3e-5)
