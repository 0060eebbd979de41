"""Small checkpoints written without the code under test, and Qwen3 spelled out layer by layer."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
import safetensors.numpy
from tokenizers import Tokenizer, models, pre_tokenizers

from gplan_jax.models import Qwen3Config

Tensors = dict[str, np.ndarray]
_DTYPES = {"float32": np.float32, "bfloat16": ml_dtypes.bfloat16, "float16": np.float16}


@pytest.fixture(scope="session")
def config() -> Qwen3Config:
    return make_config()


@pytest.fixture(scope="session", params=["tied", "untied"])
def any_config(request: pytest.FixtureRequest) -> Qwen3Config:
    return make_config(tie_word_embeddings=request.param == "tied")


def make_config(**changes: Any) -> Qwen3Config:
    values: dict[str, Any] = {
        "vocab_size": 40,
        "hidden_size": 12,
        "intermediate_size": 20,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "head_dim": 6,
        "rope_theta": 5000.0,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
    }
    return Qwen3Config(**(values | changes))


@pytest.fixture(scope="session")
def random_tensors() -> Callable[..., Tensors]:
    """config, dtype, seed -> tensors under Hugging Face names, none of them all zeros or ones."""

    def make(config: Qwen3Config, dtype: str = "float32", seed: int = 0) -> Tensors:
        rng = np.random.default_rng(seed)
        d, f, h = config.hidden_size, config.intermediate_size, config.head_dim
        n, k = config.num_attention_heads * h, config.num_key_value_heads * h
        shapes: dict[str, tuple[int, ...]] = {
            "model.embed_tokens.weight": (config.vocab_size, d),
            "model.norm.weight": (d,),
        }
        for layer in range(config.num_hidden_layers):
            prefix = f"model.layers.{layer}."
            shapes |= {
                prefix + "input_layernorm.weight": (d,),
                prefix + "post_attention_layernorm.weight": (d,),
                prefix + "self_attn.q_proj.weight": (n, d),
                prefix + "self_attn.k_proj.weight": (k, d),
                prefix + "self_attn.v_proj.weight": (k, d),
                prefix + "self_attn.o_proj.weight": (d, n),
                prefix + "self_attn.q_norm.weight": (h,),
                prefix + "self_attn.k_norm.weight": (h,),
                prefix + "mlp.gate_proj.weight": (f, d),
                prefix + "mlp.up_proj.weight": (f, d),
                prefix + "mlp.down_proj.weight": (d, f),
            }
        if not config.tie_word_embeddings:
            shapes["lm_head.weight"] = (config.vocab_size, d)
        return {
            name: (rng.normal(size=shape) * 0.3 + ("norm" in name)).astype(_DTYPES[dtype])
            for name, shape in shapes.items()
        }

    return make


@pytest.fixture(scope="session")
def write_checkpoint() -> Callable[..., Path]:
    """Writes a Hugging Face directory with the safetensors library itself."""

    def write(
        directory: Path,
        config: Qwen3Config,
        tensors: Mapping[str, np.ndarray],
        *,
        shards: int = 1,
        tokens: int | None = None,
    ) -> Path:
        directory.mkdir(parents=True)
        (directory / "config.json").write_text(json.dumps(config.to_hf() | {"dtype": "float32"}))
        names = sorted(tensors)
        weight_map = {}
        for number in range(shards):
            part = names[number::shards]
            file = "model.safetensors" if shards == 1 else f"model-{number}-of-{shards}.safetensors"
            weight_map |= dict.fromkeys(part, file)
            content = safetensors.numpy.save({n: tensors[n] for n in part}, {"format": "pt"})
            (directory / file).write_bytes(content)
        if shards > 1:
            index = json.dumps({"metadata": {}, "weight_map": weight_map})
            (directory / "model.safetensors.index.json").write_text(index)
        if tokens is not None:
            tokenizer = Tokenizer(models.WordLevel({f"w{n}": n for n in range(tokens)}, "w0"))
            tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
            tokenizer.save(str(directory / "tokenizer.json"))
            (directory / "tokenizer_config.json").write_text('{"added_tokens_decoder": {}}')
        return directory

    return write


@pytest.fixture(scope="session")
def read_checkpoint() -> Callable[[Path], dict[str, tuple[str, list[int], bytes]]]:
    """Reads all shards of a directory with the safetensors library: name -> dtype, shape, bytes."""

    def read(directory: Path) -> dict[str, tuple[str, list[int], bytes]]:
        return {
            name: (entry["dtype"], list(entry["shape"]), bytes(entry["data"]))
            for file in sorted(directory.glob("*.safetensors"))
            for name, entry in safetensors.deserialize(file.read_bytes())
        }

    return read


@pytest.fixture(scope="session")
def reference_logits() -> Callable[..., jax.Array]:
    """Qwen3 written out from Hugging Face tensors: a Python loop over layers, heads repeated."""

    def norm(x: jax.Array, weight: jax.Array, eps: float) -> jax.Array:
        return x / jnp.sqrt((x**2).mean(-1, keepdims=True) + eps) * weight

    def rope(x: jax.Array, positions: jax.Array, theta: float) -> jax.Array:
        half = x.shape[-1] // 2
        angles = positions[:, None] / theta ** (jnp.arange(half) / half)
        turned = jnp.concatenate([-x[..., half:], x[..., :half]], -1)
        cos, sin = (jnp.tile(f(angles), 2)[None, :, None] for f in (jnp.cos, jnp.sin))
        return x * cos + turned * sin

    def logits(tensors: Mapping[str, Any], config: Qwen3Config, ids: jax.Array) -> jax.Array:
        batch, length = ids.shape
        positions = jnp.arange(length)
        x = tensors["model.embed_tokens.weight"][ids]
        for layer in range(config.num_hidden_layers):
            w = {
                name.removeprefix(f"model.layers.{layer}.").removesuffix(".weight"): value
                for name, value in tensors.items()
                if name.startswith(f"model.layers.{layer}.")
            }
            y = norm(x, w["input_layernorm"], config.rms_norm_eps)
            q, k, v = (
                (y @ w[f"self_attn.{part}_proj"].T).reshape(batch, length, -1, config.head_dim)
                for part in "qkv"
            )
            q = rope(
                norm(q, w["self_attn.q_norm"], config.rms_norm_eps), positions, config.rope_theta
            )
            k = rope(
                norm(k, w["self_attn.k_norm"], config.rms_norm_eps), positions, config.rope_theta
            )
            repeats = config.num_attention_heads // config.num_key_value_heads
            k, v = jnp.repeat(k, repeats, axis=2), jnp.repeat(v, repeats, axis=2)
            scores = jnp.einsum("bqnh,bknh->bnqk", q, k) / config.head_dim**0.5
            scores = jnp.where(positions[:, None] >= positions, scores, -jnp.inf)
            mixed = jnp.einsum("bnqk,bknh->bqnh", jax.nn.softmax(scores, -1), v)
            x = x + mixed.reshape(batch, length, -1) @ w["self_attn.o_proj"].T
            y = norm(x, w["post_attention_layernorm"], config.rms_norm_eps)
            gated = jax.nn.silu(y @ w["mlp.gate_proj"].T) * (y @ w["mlp.up_proj"].T)
            x = x + gated @ w["mlp.down_proj"].T
        x = norm(x, tensors["model.norm.weight"], config.rms_norm_eps)
        head = tensors.get("lm_head.weight", tensors["model.embed_tokens.weight"])
        return x @ head.T

    return logits
