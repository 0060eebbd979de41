"""A tiny random Qwen3 checkpoint in Hugging Face format, with a tokenizer of its own.

It stands in for a real checkpoint where none is at hand: the quickstart converts it exactly as it
would convert Qwen3-1.7B, and tests use it as a whole model that fits in a few megabytes.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import atomic_directory, write_json

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
INITIAL_STD = 0.02
MAX_POSITIONS = 4096
ROWS_MULTIPLE = 64
RESERVED_TOKENS = 33  # As many as GSISR has latent tokens, which a conversion adds.
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}

# Letters of one run stay together (a run of Chinese is one piece), each digit stands alone,
# punctuation and line breaks form their own pieces: the split that Qwen3's tokenizer makes.
SPLIT = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"

# Qwen3's layout of a conversation without tools and thinking:
# <|im_start|>role\ncontent<|im_end|>\n for every turn.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


@dataclass(frozen=True)
class TinyShape:
    """The shape of a tiny Qwen3: D hidden, L layers, N query heads, K kv heads, H head, F MLP."""

    hidden_size: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    intermediate_size: int
    tie: bool

    def __post_init__(self) -> None:
        sizes = {name: value for name, value in vars(self).items() if name != "tie"}
        if wrong := [name for name, value in sizes.items() if value < 1]:
            raise GplanError(f"{', '.join(wrong)} must be at least 1.")
        if self.heads % self.kv_heads:
            raise GplanError(f"heads ({self.heads}) must be a multiple of kv_heads.")
        if self.head_dim % 2:
            raise GplanError(f"head_dim ({self.head_dim}) must be even for rotary positions.")


def write_tiny_checkpoint(
    out_dir: str | Path,
    texts: Iterable[str],
    *,
    vocab_size: int = 1024,
    hidden_size: int = 128,
    layers: int = 4,
    heads: int = 4,
    kv_heads: int = 2,
    head_dim: int = 32,
    intermediate_size: int = 384,
    tie: bool = True,
    seed: int = 0,
    dtype: str = "float32",
    reserved_tokens: int = RESERVED_TOKENS,
) -> dict[str, int]:
    """Writes a Qwen3 checkpoint with weights from N(0, 0.02²) and a tokenizer trained on ``texts``.

    The same arguments give the same bytes.

    Args:
        out_dir: new directory for config.json, generation_config.json, model.safetensors,
            tokenizer.json and tokenizer_config.json.
        texts: what the byte-level BPE learns its merges from.
        vocab_size: most tokens the tokenizer may have, its three special ones included.
        hidden_size, layers, heads, kv_heads, head_dim, intermediate_size, tie: the model's shape;
            ``tie`` shares the embedding with the output matrix.
        dtype: of the stored tensors, "float32" or "bfloat16".
        reserved_tokens: embedding rows kept free beyond the tokenizer, for tokens added later; the
            rows are then filled up to a multiple of 64.

    Returns:
        {"tokens": ids of the tokenizer, "rows": embedding rows, "parameters": numbers in all}.

    Raises:
        GplanError: an impossible shape, an unknown dtype, a vocabulary below the 256 bytes, no
            text, or an ``out_dir`` that already holds something.
    """
    shape = TinyShape(hidden_size, layers, heads, kv_heads, head_dim, intermediate_size, tie)
    if dtype not in DTYPES:
        raise GplanError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
    with atomic_directory(out_dir) as temporary:
        tokenizer = train_tokenizer(texts, vocab_size)
        tokens = tokenizer.get_vocab_size()
        rows = -(-(tokens + reserved_tokens) // ROWS_MULTIPLE) * ROWS_MULTIPLE
        tensors = dict(_random_tensors(shape, rows, seed, DTYPES[dtype]))
        tokenizer.save(str(temporary / "tokenizer.json"))
        write_json(temporary / "tokenizer_config.json", _tokenizer_config())
        write_json(temporary / "config.json", _model_config(shape, rows, dtype, tokenizer))
        write_json(temporary / "generation_config.json", _generation_config(tokenizer))
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
    parameters = sum(tensor.size for tensor in tensors.values())
    return {"tokens": tokens, "rows": rows, "parameters": parameters}


def train_tokenizer(texts: Iterable[str], vocab_size: int) -> Tokenizer:
    """A byte-level BPE over ``texts``: NFC, Qwen3's split, special tokens after the merges.

    Every text encodes without an unknown token and decodes to its NFC form.

    Raises:
        GplanError: ``vocab_size`` has no room for the 256 bytes, or ``texts`` is empty.
    """
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    if vocab_size < len(alphabet) + len(SPECIAL_TOKENS):
        raise GplanError(
            f"vocab_size {vocab_size} is too small; 256 bytes and {len(SPECIAL_TOKENS)} special "
            f"tokens need at least {len(alphabet) + len(SPECIAL_TOKENS)}."
        )
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = normalizers.NFC()
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(SPLIT), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(SPECIAL_TOKENS),
        initial_alphabet=alphabet,
        min_frequency=2,
        show_progress=False,
    )
    # The first text is taken off the stream to see that there is one; the others are never held.
    stream = iter(texts)
    first = next(stream, None)
    if first is None:
        raise GplanError("No text to train the tokenizer on; give at least one.")
    tokenizer.train_from_iterator(itertools.chain([first], stream), trainer)
    tokenizer.add_special_tokens(list(SPECIAL_TOKENS))
    return tokenizer


def _random_tensors(
    shape: TinyShape, rows: int, seed: int, dtype: np.dtype[Any]
) -> Iterator[tuple[str, np.ndarray]]:
    """Yields every tensor under its Hugging Face name; matrices are [out, in]."""
    generator = np.random.default_rng(seed)

    def normal(*size: int) -> np.ndarray:
        values = generator.standard_normal(size, dtype=np.float32) * np.float32(INITIAL_STD)
        return values.astype(dtype)

    def ones(size: int) -> np.ndarray:
        return np.ones(size, dtype)

    hidden, inner = shape.hidden_size, shape.intermediate_size
    queries, keys = shape.heads * shape.head_dim, shape.kv_heads * shape.head_dim
    yield "model.embed_tokens.weight", normal(rows, hidden)
    for layer in range(shape.layers):
        name = f"model.layers.{layer}"
        yield f"{name}.input_layernorm.weight", ones(hidden)
        yield f"{name}.self_attn.q_proj.weight", normal(queries, hidden)
        yield f"{name}.self_attn.k_proj.weight", normal(keys, hidden)
        yield f"{name}.self_attn.v_proj.weight", normal(keys, hidden)
        yield f"{name}.self_attn.o_proj.weight", normal(hidden, queries)
        yield f"{name}.self_attn.q_norm.weight", ones(shape.head_dim)
        yield f"{name}.self_attn.k_norm.weight", ones(shape.head_dim)
        yield f"{name}.post_attention_layernorm.weight", ones(hidden)
        yield f"{name}.mlp.gate_proj.weight", normal(inner, hidden)
        yield f"{name}.mlp.up_proj.weight", normal(inner, hidden)
        yield f"{name}.mlp.down_proj.weight", normal(hidden, inner)
    yield "model.norm.weight", ones(hidden)
    if not shape.tie:
        yield "lm_head.weight", normal(rows, hidden)


def _model_config(shape: TinyShape, rows: int, dtype: str, tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "architectures": ["Qwen3ForCausalLM"],
        "attention_bias": False,
        "attention_dropout": 0.0,
        "bos_token_id": tokenizer.token_to_id(END_OF_TEXT),
        "eos_token_id": tokenizer.token_to_id(TURN_END),
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initializer_range": INITIAL_STD,
        "intermediate_size": shape.intermediate_size,
        "max_position_embeddings": MAX_POSITIONS,
        "model_type": "qwen3",
        "num_attention_heads": shape.heads,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "pad_token_id": tokenizer.token_to_id(END_OF_TEXT),
        "rms_norm_eps": 1e-6,
        "rope_scaling": None,
        "rope_theta": 1_000_000.0,
        "sliding_window": None,
        "tie_word_embeddings": shape.tie,
        "torch_dtype": dtype,
        "use_cache": True,
        "use_sliding_window": False,
        "vocab_size": rows,
    }


def _generation_config(tokenizer: Tokenizer) -> dict[str, Any]:
    return {
        "bos_token_id": tokenizer.token_to_id(END_OF_TEXT),
        "do_sample": False,
        "eos_token_id": [tokenizer.token_to_id(TURN_END), tokenizer.token_to_id(END_OF_TEXT)],
        "pad_token_id": tokenizer.token_to_id(END_OF_TEXT),
    }


def _tokenizer_config() -> dict[str, Any]:
    return {
        "add_prefix_space": False,
        "bos_token": None,
        "chat_template": CHAT_TEMPLATE,
        "clean_up_tokenization_spaces": False,
        "eos_token": TURN_END,
        "model_max_length": MAX_POSITIONS,
        "pad_token": END_OF_TEXT,
        "additional_special_tokens": [TURN_START, TURN_END],
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": None,
    }
