"""A tiny random Qwen3 checkpoint in Hugging Face format, with a tokenizer of its own.

It stands in for a real checkpoint where none is at hand: the quickstart converts it exactly as it
would convert Qwen3-1.7B, and tests use it as a whole model that fits in a few megabytes.
"""

from __future__ import annotations

import dataclasses
import itertools
import tempfile
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors.numpy import save_file
from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import atomic_directory, write_json
from gplan_jax.models.checkpoints.convert import convert_checkpoint
from gplan_jax.models.checkpoints.hugging_face import rules
from gplan_jax.models.qwen3.config import Qwen3Config

END_OF_TEXT, TURN_START, TURN_END = "<|endoftext|>", "<|im_start|>", "<|im_end|>"
SPECIAL_TOKENS = (END_OF_TEXT, TURN_START, TURN_END)
MAX_POSITIONS = 4096
ROWS_MULTIPLE = 64
RESERVED_TOKENS = 33  # As many as GSISR has latent tokens, which a conversion adds.
DTYPES = {"float32": np.dtype(np.float32), "bfloat16": np.dtype(ml_dtypes.bfloat16)}

# Letters of one run stay together (a run of Chinese is one piece), each digit stands alone,
# punctuation and line breaks form their own pieces: the split that Qwen3's tokenizer makes.
SPLIT = r" ?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
# As that, but a digit takes the space before it, so that `3 2 * 1` is four tokens.
SPACED_SPLIT = SPLIT.replace(r"\p{N}|", r" ?\p{N}|", 1)

# Qwen3's layout of a conversation without tools and thinking:
# <|im_start|>role\ncontent<|im_end|>\n for every turn.
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' + message.content + '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)
TOKENIZER_CONFIG = {
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
    split: str = SPLIT,
) -> dict[str, int]:
    """Writes a Qwen3 checkpoint with weights from N(0, 0.02²) and a tokenizer trained on ``texts``.

    The same arguments give the same bytes. The sizes are Qwen3Config's; ``tie`` shares the
    embedding with the output matrix. ``vocab_size`` is the most tokens the tokenizer may have, its
    three special ones included; ``reserved_tokens`` embedding rows beyond it are kept free for
    tokens added later, and the rows are filled up to a multiple of 64. No token goes beyond a match
    of the regular expression ``split``. Returns {"tokens": ids of the tokenizer, "rows": embedding
    rows, "parameters": numbers in all}.

    GplanError for an impossible shape, an unknown dtype, a vocabulary below the 256 bytes, no text,
    or an ``out_dir`` that already holds something.
    """
    shape = {
        "vocab_size": vocab_size,
        "hidden_size": hidden_size,
        "intermediate_size": intermediate_size,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "head_dim": head_dim,
        "tie_word_embeddings": tie,
        "max_position_embeddings": MAX_POSITIONS,
        "rope_theta": 1_000_000.0,
    }
    config = Qwen3Config.from_hf(shape | {"model_type": "qwen3"}, source="This shape")
    if dtype not in DTYPES:
        raise GplanError(f"dtype {dtype!r} is not one of {', '.join(DTYPES)}.")
    with atomic_directory(out_dir) as temporary:
        tokenizer = train_tokenizer(texts, vocab_size, split)
        tokens = tokenizer.get_vocab_size()
        rows = -(-(tokens + reserved_tokens) // ROWS_MULTIPLE) * ROWS_MULTIPLE
        config = dataclasses.replace(config, vocab_size=rows)
        tensors = _random_tensors(config, seed, DTYPES[dtype])
        end_of_text, turn_end = map(tokenizer.token_to_id, (END_OF_TEXT, TURN_END))
        control = {"bos_token_id": end_of_text, "pad_token_id": end_of_text}
        # transformers before 5 looks for rope_theta at the top level only.
        model_config = config.to_hf() | control | {"eos_token_id": turn_end, "torch_dtype": dtype}
        model_config["rope_theta"] = config.rope_theta
        generation = control | {"do_sample": False, "eos_token_id": [turn_end, end_of_text]}
        tokenizer.save(str(temporary / "tokenizer.json"))
        write_json(temporary / "tokenizer_config.json", TOKENIZER_CONFIG)
        write_json(temporary / "config.json", model_config)
        write_json(temporary / "generation_config.json", generation)
        save_file(tensors, temporary / "model.safetensors", metadata={"format": "pt"})
    parameters = sum(tensor.size for tensor in tensors.values())
    return {"tokens": tokens, "rows": rows, "parameters": parameters}


def write_tiny_model(
    out_dir: str | Path,
    texts: Iterable[str],
    *,
    new_tokens: Sequence[str],
    metadata: dict[str, Any],
    seed: int,
    **sizes: Any,
) -> None:
    """A tiny checkpoint converted to the model directory ``out_dir``, and nothing left beside it.

    ``sizes`` are those of ``write_tiny_checkpoint``, the rest is as for ``convert_checkpoint``.
    """
    with tempfile.TemporaryDirectory(prefix="gplan-tiny-") as scratch:
        hugging_face = Path(scratch) / "hugging_face"
        write_tiny_checkpoint(hugging_face, texts, seed=seed, **sizes)
        convert_checkpoint(
            hugging_face, out_dir, new_tokens=new_tokens, metadata=metadata, seed=seed
        )


def train_tokenizer(texts: Iterable[str], vocab_size: int, split: str = SPLIT) -> Tokenizer:
    """A byte-level BPE over ``texts``: NFC, Qwen3's split, special tokens after the merges.

    Every text encodes without an unknown token and decodes to its NFC form.
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
            pre_tokenizers.Split(Regex(split), behavior="isolated"),
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


def _random_tensors(config: Qwen3Config, seed: int, dtype: np.dtype[Any]) -> dict[str, np.ndarray]:
    """Every tensor under its Hugging Face name, drawn layer by layer; norms are ones."""
    generator = np.random.default_rng(seed)
    embedding, *others = rules(config)
    drawn = [(embedding.template, embedding)]
    for layer in range(config.num_hidden_layers):
        drawn += [(rule.template.format(layer=layer), rule) for rule in others if rule.stacked]
    drawn += [(rule.template, rule) for rule in others if not rule.stacked]
    tensors = {}
    for name, rule in drawn:
        size = rule.tensor_shape(config)
        if len(size) == 1:
            tensors[name] = np.ones(size, dtype)
        else:
            values = generator.standard_normal(size, dtype=np.float32)
            tensors[name] = (values * np.float32(config.initializer_range)).astype(dtype)
    return tensors
