"""LoRA adapters in PEFT's format: out of a model and into a base, with PEFT itself where it is."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from gplan_jax.foundation import GplanError
from gplan_jax.models import (
    Qwen3,
    Qwen3Config,
    convert_checkpoint,
    export_adapter,
    export_checkpoint,
    load_qwen3,
    save_model_directory,
)
from gplan_jax.models.checkpoints.adapters import adapter_of
from gplan_jax.models.checkpoints.model_directory import model_parameters
from gplan_jax.models.layers.projection import LoraParam
from gplan_jax.models.qwen3.lora import add_lora, merged

TOKENS = ("<T_a>", "<T_b>", "<T_c>")
IDS = np.random.default_rng(5).integers(0, 33, (2, 11))
IDS[0, 3:6] = 30, 31, 32  # the new tokens
TARGETS = ("query", "output", "gate", "down")
Q_PROJ = "base_model.model.model.layers.1.self_attn.q_proj.lora_A.weight"
ROWS = "base_model.model.model.embed_tokens.token_adapter.trainable_tokens_delta"


@jax.jit
def logits(model: Qwen3, ids: np.ndarray) -> jax.Array:
    return model(ids)


@pytest.fixture(scope="module")
def run(
    tmp_path_factory: pytest.TempPathFactory,
    any_config: Qwen3Config,
    random_tensors: Callable,
    write_checkpoint: Callable,
) -> tuple[Path, Path, Qwen3]:
    """A checkpoint, what a LoRA run on it leaves, and the run's model with its adapters."""
    folder = tmp_path_factory.mktemp("run")
    source = write_checkpoint(folder / "hf", any_config, random_tensors(any_config), tokens=30)
    base = folder / "base"
    convert_checkpoint(source, base, new_tokens=TOKENS)
    model = load_qwen3(base)
    add_lora(model, rank=3, alpha=8.0, targets=TARGETS, trained_rows=(30, 31, 32))
    rng = np.random.default_rng(1)
    moved = jax.tree.map(
        lambda x: x + 0.2 * rng.standard_normal(x.shape).astype(np.float32),
        nnx.state(model, LoraParam),
    )
    nnx.update(model, moved)
    save_model_directory(merged(model), folder / "model", source_dir=base)
    adapter_of(model, base=str(base)).write(folder / "model" / "adapter")
    return source, folder / "model", model


def assert_same_weights(found: Path, expected: Path) -> None:
    ours, theirs = (model_parameters(load_qwen3(path)) for path in (found, expected))
    for path, value in theirs.items():
        np.testing.assert_allclose(ours[path], value, rtol=0, atol=2e-6, err_msg=path)


def test_an_adapter_goes_out_and_comes_back(run: tuple[Path, Path, Qwen3], tmp_path: Path) -> None:
    source, trained, model = run
    convert_checkpoint(source, tmp_path / "again", new_tokens=TOKENS, adapter=trained / "adapter")
    assert_same_weights(tmp_path / "again", trained)
    found = logits(load_qwen3(tmp_path / "again"), IDS)
    np.testing.assert_allclose(found, logits(model, IDS), rtol=0, atol=2e-5)

    # With its tokenizer beside it, it brings the new tokens along.
    export_adapter(trained, tmp_path / "lora")
    report = convert_checkpoint(source, tmp_path / "third", adapter=tmp_path / "lora")
    assert_same_weights(tmp_path / "third", trained)
    assert report.rows_after == 40
    tokenizer = Tokenizer.from_file(str(tmp_path / "third" / "tokenizer.json"))
    assert [tokenizer.token_to_id(token) for token in TOKENS] == [30, 31, 32]


def test_the_file_holds_the_products_and_the_rows(run: tuple[Path, Path, Qwen3]) -> None:
    source, trained, model = run
    config = json.loads((trained / "adapter" / "adapter_config.json").read_text())
    tensors = load_file(trained / "adapter" / "adapter_model.safetensors")
    assert config["target_modules"] == ["down_proj", "gate_proj", "o_proj", "q_proj"]
    assert (config["r"], config["lora_alpha"], config["peft_type"]) == (3, 8.0, "LORA")
    before, after = load_file(source / "model.safetensors"), model_parameters(merged(model))
    down, up = tensors[Q_PROJ], tensors[Q_PROJ.replace("lora_A", "lora_B")]
    expected = before["model.layers.1.self_attn.q_proj.weight"] + 8 / 3 * up @ down
    found = np.asarray(after["layers.attention.query"][1]).reshape(12, 24).T
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)
    np.testing.assert_array_equal(after["embedding"][30:33], tensors[ROWS])
    indices = {"embed_tokens": [30, 31, 32]}
    if not model.config.tie_word_embeddings:
        indices["lm_head"] = [30, 31, 32]
        rows = tensors["base_model.model.lm_head.token_adapter.trainable_tokens_delta"]
        np.testing.assert_array_equal(after["head"][30:33], rows)
    assert config["trainable_token_indices"] == indices


def test_for_vllm_the_base_has_the_rows(run: tuple[Path, Path, Qwen3], tmp_path: Path) -> None:
    _, trained, _ = run
    export_adapter(trained, tmp_path / "out", rows_in_base=True)
    base, adapter = tmp_path / "out" / "base", tmp_path / "out" / "adapter"
    # vLLM takes no other tensors, and no adapter whose config has these.
    names = load_file(adapter / "adapter_model.safetensors")
    assert all(name.endswith((".lora_A.weight", ".lora_B.weight")) for name in names)
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert not config.get("modules_to_save") and not config["trainable_token_indices"]
    assert config["base_model_name_or_path"] == str(base)
    convert_checkpoint(base, tmp_path / "again", adapter=adapter)
    assert_same_weights(tmp_path / "again", trained)


def test_rows_beyond_the_base_make_it_grow(
    tmp_path: Path, config: Qwen3Config, random_tensors: Callable, write_checkpoint: Callable
) -> None:
    source = write_checkpoint(tmp_path / "hf", config, random_tensors(config), tokens=39)
    convert_checkpoint(source, tmp_path / "base", new_tokens=TOKENS)
    model = load_qwen3(tmp_path / "base")
    add_lora(model, rank=1, alpha=1.0, targets=["up"], trained_rows=(39, 40, 41))
    adapter_of(model, base="base").write(tmp_path / "lora")
    report = convert_checkpoint(
        source, tmp_path / "again", new_tokens=TOKENS, adapter=tmp_path / "lora"
    )
    assert report.rows_after == 128
    assert_same_weights(tmp_path / "again", tmp_path / "base")
    with pytest.raises(GplanError, match=r"row 41 of model\.embed_tokens, and the base 40 rows"):
        convert_checkpoint(source, tmp_path / "without", adapter=tmp_path / "lora")
    assert not (tmp_path / "without").exists()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora is True, and only False is read"),
        ({"peft_type": "LOHA"}, "peft_type is 'LOHA'"),
        ({"alpha_pattern": {"q_proj": 4}}, "alpha_pattern is"),
        ({"r": None}, r"r and lora_alpha are \(None, 8.0\)"),
        ({"r": 4}, r"misshapen: .*lora_A.weight is \[3, 12\], config.json asks for \[4, 12\]"),
        ({"target_modules": ["q_proj", "o_proj", "gate_proj"]}, "extra: .*mlp.down_proj.lora_A"),
        ({"layers_to_transform": [0, 2]}, r"extra: .*layers\.1\.self_attn\.q_proj\.lora_A"),
        ({"target_modules": r".*\.(q_proj|o_proj|gate_proj|down_proj|k_proj)"}, "missing: .*k_pro"),
        ({"trainable_token_indices": {"embed_tokens": [30, 99]}}, "has row 99 of model.embed_tok"),
    ],
)
def test_a_config_that_asks_for_something_else_is_refused(
    run: tuple[Path, Path, Qwen3], tmp_path: Path, change: dict[str, Any], message: str
) -> None:
    source, trained, _ = run
    shutil.copytree(trained / "adapter", tmp_path / "lora")
    path = tmp_path / "lora" / "adapter_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(GplanError, match=message):
        convert_checkpoint(source, tmp_path / "x", new_tokens=TOKENS, adapter=tmp_path / "lora")
    assert not (tmp_path / "x").exists()


def test_another_base_or_vocabulary_is_refused(
    run: tuple[Path, Path, Qwen3],
    tmp_path: Path,
    random_tensors: Callable,
    write_checkpoint: Callable,
) -> None:
    source, trained, model = run
    tensors = random_tensors(model.config, seed=1)
    other = write_checkpoint(tmp_path / "other", model.config, tensors, tokens=30)
    for base, adapter, message in (
        (other, trained / "adapter", "the first 30 rows of the embedding differ"),
        (trained, trained / "adapter", "model directory already; gplan export it first"),
        (source, source, r"adapter_config\.json does not exist"),
    ):
        with pytest.raises(GplanError, match=message):
            convert_checkpoint(base, tmp_path / "x", new_tokens=TOKENS, adapter=adapter)
    export_adapter(trained, tmp_path / "lora")
    path = tmp_path / "lora" / "tokenizer.json"
    path.write_text(path.read_text().replace('"w7"', '"w8x"'))
    with pytest.raises(GplanError, match=r"another vocabulary: 'w7' is None there and 7 in"):
        convert_checkpoint(source, tmp_path / "x", adapter=tmp_path / "lora")
    with pytest.raises(GplanError, match=r"has no adapter/: only a run with lora\.rank"):
        export_adapter(trained.parent / "base", tmp_path / "x")
    assert not (tmp_path / "x").exists()


def test_torn_and_infinite_tensors_are_refused(
    run: tuple[Path, Path, Qwen3], tmp_path: Path
) -> None:
    source, trained, _ = run
    shutil.copytree(trained / "adapter", tmp_path / "lora")
    path = tmp_path / "lora" / "adapter_model.safetensors"
    tensors = load_file(path)

    def convert() -> None:
        convert_checkpoint(source, tmp_path / "x", new_tokens=TOKENS, adapter=path.parent)

    save_file({name: x for name, x in tensors.items() if name != Q_PROJ}, path)
    with pytest.raises(GplanError, match=rf"missing: {Q_PROJ} \[3, 12\]"):
        convert()
    tensors[Q_PROJ][0, 0] = np.nan
    save_file(tensors, path)
    with pytest.raises(GplanError, match=f"{Q_PROJ} holds NaN"):
        convert()
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(GplanError, match="torn or not safetensors"):
        convert()


def their_logits(model: Any) -> np.ndarray:
    import torch

    with torch.no_grad():
        found: np.ndarray = model(torch.tensor(IDS)).logits.numpy()
    return found


@pytest.mark.slow
@pytest.mark.parametrize("form", ["peft", "vllm"])
def test_peft_computes_what_our_adapter_does(
    run: tuple[Path, Path, Qwen3], tmp_path: Path, form: str
) -> None:
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    _, trained, model = run
    export_adapter(trained, tmp_path / "out", rows_in_base=form == "vllm")
    if form == "peft":
        export_checkpoint(trained.parent / "base", tmp_path / "base-hf")
        base, adapter = tmp_path / "base-hf", tmp_path / "out"
    else:
        base, adapter = tmp_path / "out" / "base", tmp_path / "out" / "adapter"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    before = their_logits(theirs)
    found = their_logits(peft.PeftModel.from_pretrained(theirs, adapter))
    np.testing.assert_allclose(found, logits(model, IDS), rtol=0, atol=3e-5)
    assert np.abs(found - before).max() > 0.1


@pytest.mark.slow
@pytest.mark.parametrize("rows", ["trainable_token_indices", "modules_to_save", "none"])
def test_what_peft_saved_computes_the_same_here(
    run: tuple[Path, Path, Qwen3], tmp_path: Path, rows: str
) -> None:
    peft, torch = pytest.importorskip("peft"), pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    source, _, _ = run
    theirs = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    tied = theirs.config.tie_word_embeddings
    names = ["embed_tokens"] if tied else ["embed_tokens", "lm_head"]
    settings: dict[str, Any] = {}
    if rows == "trainable_token_indices":
        settings[rows] = {name: [5, 30, 31] for name in names}
    elif rows == "modules_to_save":
        settings |= {rows: names, "ensure_weight_tying": tied}
    adapted = peft.get_peft_model(
        theirs,
        peft.LoraConfig(
            r=2, lora_alpha=7, target_modules="all-linear", use_rslora=True, **settings
        ),
    )
    torch.manual_seed(0)
    for parameter in adapted.parameters():
        if parameter.requires_grad:
            parameter.data += 0.2 * torch.randn_like(parameter)
    adapted.save_pretrained(tmp_path / "lora")
    convert_checkpoint(source, tmp_path / "model", adapter=tmp_path / "lora")
    found = logits(load_qwen3(tmp_path / "model"), IDS)
    np.testing.assert_allclose(found, their_logits(adapted), rtol=0, atol=3e-5)
