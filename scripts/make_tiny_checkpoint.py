"""Makes a small random Qwen3 with its own tokenizer, in Hugging Face format, for given rows.

python scripts/make_tiny_checkpoint.py train.csv --out tiny-hf --template compact_zh --hidden 128
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gplan_jax.gsisr import IntentLibrary, PromptTemplate, read_samples, training_texts
from gplan_jax.models.checkpoints.tiny import write_tiny_checkpoint


def main() -> None:
    """Trains the tokenizer on the rows' prompts and labels and draws the weights."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="training rows; the tokenizer learns from them")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--template", default="compact_zh")
    parser.add_argument("--vocab", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=4)
    parser.add_argument("--heads", type=int, default=2)
    parser.add_argument("--kv-heads", type=int, default=1)
    parser.add_argument("--head-dim", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    texts = training_texts(
        read_samples(options.data), PromptTemplate.load(options.template), IntentLibrary.load()
    )
    sizes = write_tiny_checkpoint(
        options.out,
        texts,
        vocab_size=options.vocab,
        hidden_size=options.hidden,
        layers=options.layers,
        heads=options.heads,
        kv_heads=options.kv_heads,
        head_dim=options.head_dim,
        intermediate_size=3 * options.hidden,
        seed=options.seed,
    )
    print(f"{sizes['parameters']:,} parameters, {sizes['tokens']} tokens in {options.out}")


if __name__ == "__main__":
    main()
