"""Steps of SC-DPO in three layouts side by side in one run; prints one JSON line of figures.

    python scripts/bench_scdpo.py                                  # tiny, any machine, a minute
    python scripts/bench_scdpo.py --shape balanced --batch-size 16 --micro-pairs 2 --remat none
    python scripts/bench_scdpo.py --shape qwen3-1.7b --compute bfloat16 --batch-size 32 \\
        --micro-pairs 8                                            # an accelerator
    python scripts/bench_scdpo.py --shape qwen3-1.7b --batch-size 32 --count-only

The layouts (scripts/bench_preference.py says which) take the same pairs in the same order; their
steps take turns, so a machine whose speed drifts treats them alike. Data loading and the one pass
of the reference that the tree's cache takes are outside the clock. ``predicted`` is said before
anything is measured: operations of matrix products, padding included, one forward pass and two
backwards, one more forward pass where remat is full, and one of the reference where a step makes
it. docs/lab/training.md says what each figure means.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
import numpy as np
from bench_flops import SHAPES, Work
from bench_layouts import bench_config
from bench_measure import Timings, measure
from bench_preference import (
    SEQUENCES,
    PreferenceLayout,
    make_preference_layouts,
    read_pairs,
    tree_work,
    with_cached_reference,
)
from bench_train import device_name, full_batches, largest_difference, ratios, sources, sum_work

from gplan_jax.data import Mode
from gplan_jax.data.preference_set import PreferenceSet
from gplan_jax.foundation import GplanError
from gplan_jax.models import Qwen3Config


def main() -> None:
    """Parses the command line, measures, prints."""
    options = parse()
    with tempfile.TemporaryDirectory() as name:
        try:
            print(json.dumps(run(options, Path(name)), ensure_ascii=False))
        except GplanError as error:
            raise SystemExit(f"error: {error}") from None


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--shape", choices=SHAPES, default="tiny")
    add("--vocab", type=int, help="another size of the vocabulary; token ids are taken modulo it")
    add("--layers", type=int, help="another number of layers")
    add("--rows", type=Path, help="rows to make pairs of; the public ones where they lie beside, "
        "else a simulated world")  # fmt: skip
    add("--tokenizer", type=Path, help="directory of tokenizer.json; Qwen3's where it lies beside, "
        "else a small one made for the rows")  # fmt: skip
    add("--simulated", type=int, default=0, help="rows of a simulated world with a small "
        "tokenizer, whatever lies beside")  # fmt: skip
    add("--template", default="amap_zh", help="prompt template")
    add("--batch-size", type=int, default=8, help="pairs an optimizer step")
    add("--micro-pairs", type=int, default=2, help="pairs that a step takes at a time")
    add("--max-length", type=int, default=2048, help="tokens of prompt and response")
    add("--length-multiple", type=int, default=64)
    add("--response-multiple", type=int, default=32)
    add("--batches", type=int, default=2, help="how many, spread evenly over an epoch")
    add("--rounds", type=int, default=3, help="how often each layout takes each batch")
    add("--compute", choices=("float32", "bfloat16"), default="float32")
    add("--remat", choices=("none", "full"), default="none")
    add("--attention", choices=("auto", "xla", "cudnn", "splash"), default="auto")
    add("--count-only", action="store_true", help="count operations, measure nothing")
    return parser.parse_args()


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measures the layouts; the figures by name."""
    # Compile times are of interest, so nothing compiled before may be taken up.
    jax.config.update("jax_enable_compilation_cache", False)
    shape = SHAPES[options.shape]
    shape = replace(
        shape,
        vocab_size=options.vocab or shape.vocab_size,
        num_hidden_layers=options.layers or shape.num_hidden_layers,
    )
    rows, tokenizer = sources(options)
    pairs, levels_Nx3 = read_pairs(
        folder,
        rows=rows,
        tokenizer=tokenizer,
        template=options.template,
        max_length=options.max_length,
        simulated=options.simulated,
    )
    config = bench_config(
        mode=Mode.SCDPO,
        batch_size=options.batch_size,
        micro_rows=options.micro_pairs,
        epochs=1,
        data={
            "max_length": options.max_length,
            "length_multiple": options.length_multiple,
            "response_multiple": options.response_multiple,
        },
        precision={
            "compute": options.compute,
            "remat": options.remat,
            "attention": options.attention,
        },
    )
    layouts = make_preference_layouts(
        pairs, levels_Nx3, shape, config, weights=not options.count_only
    )
    numbers = full_batches(layouts[0], options.batches)
    figures = {layout.name: counted_figures(layout, numbers, shape) for layout in layouts}
    report = {
        "benchmark": "preference_step_layouts",
        "shape": options.shape,
        "layers": shape.num_hidden_layers,
        "vocabulary": shape.vocab_size,
        "rows": rows.name if rows else f"{options.simulated} simulated",
        "tokenizer": tokenizer.name if tokenizer else "made for the rows",
        "template": options.template,
        "pairs": len(pairs),
        "pairs_per_step": options.batch_size,
        "micro_pairs": options.micro_pairs,
        "batches": len(numbers),
        "remat": options.remat,
        "tokens": mean_lengths(layouts[0], numbers),
        "layouts": figures,
        "predicted": counted_ratios(figures, "gflop_per_step"),
        "predicted_without_padding": unpadded_ratios(layouts, numbers, shape),
    }
    if options.count_only:
        return report
    print(f"predicted: {json.dumps(report['predicted'])}", file=sys.stderr)
    layouts = with_cached_reference(layouts, numbers)
    load_before = os.getloadavg()[0]
    timings, _ = measure(layouts, numbers, None, rounds=options.rounds, torch_rounds=0)
    for name, times in timings.items():
        figures[name].update(speed_figures(times, options.batch_size))
    return report | {
        "speed_ratios": ratios({name: times.seconds for name, times in timings.items()}),
        "processor_ratios": ratios({name: times.processor for name, times in timings.items()}),
        "memory_ratios": counted_ratios(figures, "peak_gib"),
        "loss_difference": largest_difference(timings),
        "rounds": options.rounds,
        "compute": options.compute,
        "kernel": layouts[0].run.model.kernel,
        "load_before": round(load_before, 2),
        "ran_on": device_name(),
        "versions": {name: version(name) for name in ("jax", "flax", "optax")},
    }


def counted_figures(
    layout: PreferenceLayout, numbers: Sequence[int], shape: Qwen3Config
) -> dict[str, Any]:
    """What a step of a layout multiplies, padding included, and the shapes it compiles to."""
    batches = [layout.load(number) for number in numbers]
    work = sum_work([layout.work(batch) for batch in batches])
    shapes: dict[str, set[tuple[int, ...]]] = {}
    for batch in batches:
        for path, leaf in jax.tree_util.tree_leaves_with_path(batch):
            name = path[-1].name.rpartition("_")[0]
            if name in ("tokens", "shared_tokens", "context_tokens", "targets"):
                where = "prefix" if path[0].name == "prefix" else name
                shapes.setdefault(where, set()).add(leaf.shape)
    return {
        "gflop_per_step": round(step_flops(layout, work, shape) / len(numbers) / 1e9, 2),
        "head_share": round(work.head_share(shape), 3),
        "attention_share": round(work.attention_share(shape), 3),
        "shapes": {name: sorted(found) for name, found in shapes.items()},
    }


def step_flops(layout: PreferenceLayout, work: Work, shape: Qwen3Config) -> float:
    """Operations of a step: the policy's passes, what remat repeats, and the reference's."""
    repeated = int(layout.run.config.precision.remat == "full")
    forward = work.flops(shape) / 3
    return forward * (3 + repeated + layout.reference_passes)


def unpadded_ratios(
    layouts: Sequence[PreferenceLayout], numbers: Sequence[int], shape: Qwen3Config
) -> dict[str, float]:
    """The ratios by operations on real tokens alone."""
    figures = {}
    for layout in layouts:
        pairs = layout.run.training_set
        assert isinstance(pairs, PreferenceSet)
        parts = []
        for number in numbers:
            prefix = layout.run.plan.prefix_length
            if prefix:
                parts.append(tree_work([(1, prefix)], 0))
            rows = layout.run.plan.batch(number).rows
            parts += [pair_work(pairs, int(row), prefix) for row in rows]
        figures[layout.name] = {"flops": step_flops(layout, sum_work(parts), shape)}
    return counted_ratios(figures, "flops")


def pair_work(pairs: PreferenceSet, row: int, prefix: int) -> Work:
    """The work on the real tokens of a pair: below a prefix as a tree, or as whole sequences."""
    pair = pairs.tokenize(row)
    shared = max(pair.shared, prefix) if prefix else 0
    work = Work(shared - prefix, causal_pairs(shared) - causal_pairs(prefix), 0)
    for context, prompt in enumerate(pair.prompts):
        cut = len(prompt) - 1 if prefix else 0
        work += Work(cut - shared if prefix else 0, causal_pairs(cut) - causal_pairs(shared), 0)
        for choice in (0, 1):
            response = len(pair.response(context, choice))
            end = len(prompt) + response - 1
            work += Work(end - cut, causal_pairs(end) - causal_pairs(cut), response)
    return work


def causal_pairs(length: int) -> float:
    """Query-key pairs of a sequence."""
    return length * (length + 1) / 2


def mean_lengths(layout: PreferenceLayout, numbers: Sequence[int]) -> dict[str, int]:
    """Tokens of the pairs' parts on average: what is shared at each level, the tails, responses."""
    pairs = layout.run.training_set
    assert isinstance(pairs, PreferenceSet)
    rows = [int(row) for number in numbers for row in layout.run.plan.batch(number).rows]
    found = [pairs.tokenize(row) for row in rows]
    prompts = np.mean([len(prompt) for pair in found for prompt in pair.prompts])
    shared = np.mean([pair.shared for pair in found])
    prefix = len(pairs.prefix_ids)
    response = np.mean([len(response) for pair in found for response in pair.responses])
    return {
        "system": prefix,
        "shared": round(float(shared)) - prefix,
        "tail": round(float(prompts - shared)),
        "response": round(float(response)),
        "sequences_of_a_pair": round(float(SEQUENCES * (prompts + response))),
    }


def speed_figures(timings: Timings, batch_size: int) -> dict[str, Any]:
    """Throughput, processor time and memory."""
    seconds = timings.step_seconds()
    return {
        "pairs_per_second": round(batch_size * len(seconds) / sum(seconds), 3),
        "step_seconds": round(statistics.mean(seconds), 4),
        "processor_seconds": round(
            statistics.median(map(sum, timings.processor)) / len(seconds), 4
        ),
        "peak_gib": round(timings.bytes / 2**30, 3),
        "compile_seconds": round(max(timings.compile_seconds), 1),
        "compiled_shapes": len(timings.compile_seconds),
        "losses": timings.losses[0],
    }


def counted_ratios(figures: dict[str, dict[str, Any]], name: str) -> dict[str, float]:
    """How many times more of something the earlier layouts take than the later ones."""
    ours = list(figures)
    return {
        f"{less} / {more}": round(figures[more][name] / figures[less][name], 2)
        for i, less in enumerate(ours)
        for more in ours[:i]
    }


if __name__ == "__main__":
    main()
