"""`gplan convert` and `gplan export` as a user types them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from gplan_jax.cli.main import app
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary
from gplan_jax.models import ModelRecord, Qwen3Config
from gplan_jax.reasoning import GSISR_LATENTS, LatentVocabulary


def run(*arguments: str | Path) -> str:
    result = CliRunner().invoke(app, [str(a) for a in arguments], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return re.sub(r"\s+", " ", result.output)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    """A random Qwen3 with a word tokenizer of 100 ids and 120 embedding rows."""
    import json

    import jax.numpy as jnp
    import numpy as np
    from flax import nnx
    from tokenizers import Tokenizer, models

    from gplan_jax.models import Qwen3
    from gplan_jax.models.checkpoints.hugging_face import checkpoint_tensors, write_sharded
    from gplan_jax.models.checkpoints.model_directory import model_parameters

    config = Qwen3Config(120, 8, 8, 1, 2, 1, head_dim=4, tie_word_embeddings=True)
    model = Qwen3(config, rngs=nnx.Rngs(0), param_dtype=jnp.bfloat16)
    parameters = {path: np.asarray(v) for path, v in model_parameters(model).items()}
    dtypes = {path: v.dtype for path, v in parameters.items()}
    folder = tmp_path / "hf"
    folder.mkdir()
    tensors = checkpoint_tensors(parameters.__getitem__, dtypes, config, ships_lm_head=False)
    list(write_sharded(folder, list(tensors)))
    (folder / "config.json").write_text(json.dumps(config.to_hf()))
    words = Tokenizer(models.WordLevel({f"w{n}": n for n in range(100)}, "w0"))
    words.save(str(folder / "tokenizer.json"))
    return folder


def test_convert_and_export_say_what_they_did(checkpoint: Path, tmp_path: Path) -> None:
    said = run("convert", checkpoint, "--out", tmp_path / "model")
    assert f"The model is in {tmp_path / 'model'}" in said
    assert "in bfloat16" in said
    assert "embedding rows 256, grown from 120" in said
    assert "33 added, ids 100 to 132" in said
    record = ModelRecord.read(tmp_path / "model")
    assert tuple(record.new_tokens) == GSISR_LATENTS.tokens
    assert LatentVocabulary.from_dict(record.metadata["latents"]) == GSISR_LATENTS
    said = run("export", tmp_path / "model", "--out", tmp_path / "back")
    assert f"checkpoint is in {tmp_path / 'back'}" in said
    said = run("convert", tmp_path / "back", "--out", tmp_path / "again")
    assert "256, as in the original" in said
    assert "0 added, 33 already there" in said


def test_without_latents(checkpoint: Path, tmp_path: Path) -> None:
    said = run("convert", checkpoint, "--out", tmp_path / "model", "--latents", "none")
    assert "120, as in the original" in said
    assert "latent tokens" not in said
    assert ModelRecord.read(tmp_path / "model").metadata == {}


def test_problems_reach_the_caller_as_one_message(checkpoint: Path, tmp_path: Path) -> None:
    with pytest.raises(GplanError, match="never overwritten"):
        run("convert", checkpoint, "--out", checkpoint)


def test_an_option_of_the_other_kind_of_model_is_refused(checkpoint: Path, tmp_path: Path) -> None:
    out = tmp_path / "model"
    with pytest.raises(GplanError, match=r"--layers, --vocab: only for tiny"):
        run("convert", checkpoint, "--layers", "2", "--vocab", "300", "--out", out)
    with pytest.raises(GplanError, match=r"--adapter: only for a checkpoint"):
        run("convert", "tiny", "--adapter", tmp_path, "--out", out)
    assert not out.exists()


def test_a_model_with_a_library_is_exported_with_its_plan_grammars(
    tiny_model_dir: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(tiny_model_dir, model)
    said = run("export", model, "--out", tmp_path / "without")
    assert "plan grammars" not in said
    IntentLibrary.load().save(model / "library.yaml")
    said = run("export", model, "--out", tmp_path / "with")
    guided = tmp_path / "with" / "guided"
    assert f"latent.ebnf, latent.lark, plan.ebnf, plan.lark in {guided}" in said
    assert "tool_10" in (guided / "plan.ebnf").read_text(encoding="utf-8")


def test_an_adapter_goes_out_and_comes_back(tiny_model_dir: Path, tmp_path: Path) -> None:
    from gplan_jax.models import load_qwen3, save_model_directory
    from gplan_jax.models.checkpoints.adapters import adapter_of
    from gplan_jax.models.qwen3.lora import add_lora, merged

    model, trained = load_qwen3(tiny_model_dir), tmp_path / "model"
    add_lora(model, rank=2, alpha=4.0, targets=["up"], trained_rows=(512, 513))
    save_model_directory(merged(model), trained, source_dir=tiny_model_dir)
    adapter_of(model, base=str(tiny_model_dir)).write(trained / "adapter")
    said = run("export", trained, "--adapter", "peft", "--out", tmp_path / "lora")
    assert f"base {tiny_model_dir} (gplan export {tiny_model_dir} first)" in said
    assert "2 of the embedding, ids 512 to 513" in said
    said = run("export", trained, "--adapter", "vllm", "--out", tmp_path / "vllm")
    assert f"base {tmp_path / 'vllm' / 'base'}" in said and "rows" not in said
    base, adapter = tmp_path / "vllm" / "base", tmp_path / "lora"
    said = run("convert", base, "--adapter", adapter, "--out", tmp_path / "again")
    assert "0 added, 33 already there" in said


@pytest.mark.parametrize("command", ["convert", "export"])
def test_help_shows_an_example(command: str) -> None:
    assert f"Example: gplan {command}" in run(command, "--help")
