"""Makes a small random Qwen3 with its own tokenizer, in Hugging Face format, for given rows.

python scripts/make_tiny_checkpoint.py train.csv --out tiny-hf --template compact_zh --hidden 128
python scripts/make_tiny_checkpoint.py rows.jsonl --task text --out tiny-hf --vocab 512

The tokenizer is a byte-level BPE: every digit is a token, and with room in --vocab every word that
comes twice; nothing is unknown to it. In rows of text a digit takes the space before it along.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from gplan_jax.data.tasks.text_task import texts_of_rows
from gplan_jax.gsisr import IntentLibrary, PromptTemplate, read_samples, training_texts
from gplan_jax.models.checkpoints.tiny import SPACED_SPLIT, SPLIT, write_tiny_checkpoint


def main() -> None:
    """Trains the tokenizer on the rows' prompts and labels and draws the weights."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path, help="training rows; the tokenizer learns from them")
    parser.add_argument("--task", choices=("gsisr", "text"), default="gsisr")
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
    if options.task == "text":
        texts = texts_of_rows(options.data)
    else:
        template, library = PromptTemplate.load(options.template), IntentLibrary.load()
        texts = training_texts(read_samples(options.data), template, library)
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
        split=SPACED_SPLIT if options.task == "text" else SPLIT,
    )
    print(f"{sizes['parameters']:,} parameters, {sizes['tokens']} tokens in {options.out}")


if __name__ == "__main__":
    main()
