"""Training steps of the layouts side by side in one run; prints one JSON line of figures.

    python scripts/bench_train.py                                  # tiny, any machine, a minute
    python scripts/bench_train.py --shape wide --batch-size 32 --rounds 5
    python scripts/bench_train.py --shape small --vocab 151936 --torch-python HF_VENV/bin/python
    python scripts/bench_train.py --shape qwen3-1.7b --compute bfloat16 --batch-size 64 \\
        --micro-rows 8                                             # an accelerator
    python scripts/bench_train.py --shape qwen3-1.7b --batch-size 64 --count-only

The layouts (scripts/bench_layouts.py says which) take the same rows in the same order, a few
batches spread over a whole run; their steps take turns, so a machine whose speed drifts treats them
alike. Data loading is outside the clock. docs/lab/training.md says what each figure means.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import jax
import numpy as np
from bench_flops import SHAPES, Work
from bench_layouts import (
    LAYOUTS,
    Layout,
    UsefulWork,
    bench_config,
    make_layout,
    make_layouts,
    read_rows,
    useful_work,
)
from bench_measure import TORCH, Timings, measure
from bench_torch import torch_steps

from gplan_jax.data import Mode
from gplan_jax.data.batch_plan import EMPTY_ROW
from gplan_jax.foundation import GplanError
from gplan_jax.models import Qwen3Config

SHARED = Path(__file__).resolve().parents[2] / "shared"
PUBLIC_ROWS, PUBLIC_TOKENIZER = SHARED / "gsisr" / "gsisr_dev.csv", SHARED / "qwen3_tokenizer"


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
    add("--layouts", default=",".join(LAYOUTS), help="of %(default)s, in the order of their turns")
    add("--rows", type=Path, help="labelled rows; the public ones where they lie beside, else a "
        "simulated world")  # fmt: skip
    add("--tokenizer", type=Path, help="directory of tokenizer.json; Qwen3's where it lies beside, "
        "else a small one made for the rows")  # fmt: skip
    add("--simulated", type=int, default=0, help="rows of a simulated world with a small "
        "tokenizer, whatever lies beside")  # fmt: skip
    add("--template", default="amap_zh", help="prompt template")
    modes = [mode for mode in Mode if mode is not Mode.SCDPO]  # bench_scdpo.py is for pairs
    add("--mode", type=Mode, choices=modes, default=Mode.PICD)
    add("--batch-size", type=int, default=8, help="rows an optimizer step")
    add(
        "--micro-rows", type=int, default=4, help="rows that a step takes at a time, in all layouts"
    )
    add("--max-length", type=int, default=2048, help="tokens; padded pads every row to it")
    add("--length-multiple", type=int, default=64)
    add("--response-multiple", type=int, default=32)
    add("--epochs", type=int, default=13, help="of the run that batches are taken from")
    add("--batches", type=int, default=3, help="how many, spread evenly over the run")
    add("--rounds", type=int, default=3, help="how often each layout takes each batch")
    add("--compute", choices=("float32", "bfloat16"), default="float32")
    add("--remat", choices=("none", "full", "dots", "offload"), default="full")
    add("--attention", choices=("auto", "xla", "cudnn", "splash"), default="auto")
    add("--count-only", action="store_true", help="count operations, measure nothing")
    add("--torch-python", type=Path, help="a Python with torch and transformers: its padded step "
        "takes its turn too")  # fmt: skip
    add("--torch-rounds", type=int, default=1, help="rounds that torch takes part in")
    return parser.parse_args()


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measures all layouts; the figures by name."""
    # Compile times are of interest, so nothing compiled before may be taken up.
    jax.config.update("jax_enable_compilation_cache", False)
    shape = SHAPES[options.shape]
    shape = replace(
        shape,
        vocab_size=options.vocab or shape.vocab_size,
        num_hidden_layers=options.layers or shape.num_hidden_layers,
    )
    rows, tokenizer = sources(options)
    training_set = read_rows(
        folder,
        rows=rows,
        tokenizer=tokenizer,
        template=options.template,
        mode=options.mode,
        max_length=options.max_length,
        simulated=options.simulated,
    )
    config = bench_config(
        mode=options.mode,
        batch_size=options.batch_size,
        micro_rows=options.micro_rows,
        epochs=options.epochs,
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
    layouts = make_layouts(
        options.layouts.split(","),
        training_set,
        shape,
        config,
        weights=not options.count_only,
    )
    numbers = full_batches(layouts[0], options.batches)
    useful = [useful_of(layouts[0], number) for number in numbers]
    rows_seen = len(numbers) * options.batch_size
    figures = {layout.name: counted_figures(layout, numbers, shape) for layout in layouts}
    report = {
        "benchmark": "train_step_layouts",
        "shape": options.shape,
        "layers": shape.num_hidden_layers,
        "vocabulary": shape.vocab_size,
        "mode": options.mode.value,
        "rows": rows.name if rows else f"{options.simulated} simulated",
        "tokenizer": tokenizer.name if tokenizer else "made for the rows",
        "template": options.template,
        "batch_size": options.batch_size,
        "micro_rows": options.micro_rows,
        "batches": len(numbers),
        "tokens_per_row": round(sum(work.tokens for work in useful) / rows_seen),
        "prefix_tokens": useful[0].prefix,
        "layouts": figures,
        "counted_ratios": counted_ratios(figures),
    }
    if options.count_only:
        return report
    torch_python = options.torch_python or (sys.executable if find_spec("torch") else None)
    padded = make_layout("padded", layouts[0].run)
    with torch_steps(torch_python, folder, padded, numbers) as torch_worker:
        timings, peak = measure(
            layouts,
            numbers,
            torch_worker,
            rounds=options.rounds,
            torch_rounds=options.torch_rounds,
        )
    for name, times in timings.items():
        figures.setdefault(name, {}).update(
            speed_figures(times, useful, options.batch_size, shape, peak)
        )
    return report | {
        "speed_ratios": ratios({name: times.seconds for name, times in timings.items()}),
        "processor_ratios": ratios({name: times.processor for name, times in timings.items()}),
        "loss_difference": largest_difference(timings),
        "rounds": options.rounds,
        "compute": options.compute,
        "remat": options.remat,
        "kernel": layouts[0].run.model.kernel,
        "peak_tflops": round(peak / 1e12, 3),
        "ran_on": device_name(),
        "versions": {name: version(name) for name in ("jax", "flax", "optax")}
        | (torch_worker.versions if torch_worker else {}),
    }


def sources(options: argparse.Namespace) -> tuple[Path | None, Path | None]:
    """Rows and tokenizer; None where they are to be made."""
    if options.simulated:
        return None, None
    rows = options.rows or (PUBLIC_ROWS if PUBLIC_ROWS.is_file() else None)
    tokenizer = options.tokenizer or (PUBLIC_TOKENIZER if PUBLIC_TOKENIZER.is_dir() else None)
    if rows is None:
        options.simulated = 256
    return rows, tokenizer


def full_batches(layout: Layout, count: int) -> list[int]:
    """``count`` steps spread over the run, moved on where a batch is filled up with empty rows."""
    plan = layout.run.plan
    full = [n for n in range(plan.total_steps) if EMPTY_ROW not in plan.batch(n).rows]
    if len(full) < count:
        raise GplanError(f"The run has only {len(full)} full batches, not {count}.")
    places = (np.arange(count) + 0.5) * len(full) / count
    return [full[int(place)] for place in places]


def useful_of(layout: Layout, number: int) -> UsefulWork:
    """The work that a batch needs in any layout."""
    spec = layout.run.plan.batch(number)
    return useful_work(layout.run.training_set, spec.rows, spec.stage)


def counted_figures(layout: Layout, numbers: Sequence[int], shape: Qwen3Config) -> dict[str, Any]:
    """What a step of a layout multiplies, padding included, and what takes how much of it."""
    work = sum_work([layout.work(layout.load(number)) for number in numbers])
    return {
        "gflop_per_step": round(work.flops(shape) / len(numbers) / 1e9, 2),
        "head_share": round(work.head_share(shape), 3),
        "attention_share": round(work.attention_share(shape), 3),
    }


def speed_figures(
    timings: Timings,
    useful: Sequence[UsefulWork],
    batch_size: int,
    shape: Qwen3Config,
    peak: float,
) -> dict[str, Any]:
    """Throughput in rows and real tokens, share of the peak that useful work takes, memory."""
    seconds = sum(timings.step_seconds())
    plain = sum(work.plain.flops(shape) for work in useful)
    needed = sum(work.needed.flops(shape) for work in useful)
    return {
        "samples_per_second": round(len(useful) * batch_size / seconds, 3),
        "tokens_per_second": round(sum(work.tokens for work in useful) / seconds, 1),
        "step_seconds": round(seconds / len(useful), 4),
        "processor_seconds": round(statistics.median(map(sum, timings.processor)) / len(useful), 4),
        "utilisation_needed": round(needed / seconds / peak, 4),
        "utilisation_plain": round(plain / seconds / peak, 4),
        "peak_gib": round(timings.bytes / 2**30, 3),
        "compile_seconds": round(max(timings.compile_seconds, default=0.0), 1),
        "compiled_shapes": len(timings.compile_seconds),
        "loss": timings.losses[0][0],
    }


def sum_work(parts: Sequence[Work]) -> Work:
    """All parts together."""
    return sum(parts[1:], parts[0])


def ratios(seconds: dict[str, list[list[float]]]) -> dict[str, dict[str, Any]]:
    """How many times faster one layout is than another: the median round, and all rounds' range."""
    ours = [name for name in seconds if name != TORCH]
    pairs = [(fast, slow) for i, fast in enumerate(ours) for slow in ours[:i]]
    pairs += [(fast, TORCH) for fast in ours if TORCH in seconds]
    found = {}
    for fast, slow in pairs:
        rounds = zip(seconds[fast], seconds[slow], strict=False)  # torch may sit out the last ones
        values = [sum(slow_times) / sum(fast_times) for fast_times, slow_times in rounds]
        found[f"{fast} / {slow}"] = {
            "median": round(statistics.median(values), 2),
            "range": [round(min(values), 2), round(max(values), 2)],
        }
    return found


def counted_ratios(figures: dict[str, dict[str, Any]]) -> dict[str, float]:
    """The same ratios by counted operations alone."""
    ours = list(figures)
    return {
        f"{fast} / {slow}": round(
            figures[slow]["gflop_per_step"] / figures[fast]["gflop_per_step"], 2
        )
        for i, fast in enumerate(ours)
        for slow in ours[:i]
    }


def largest_difference(timings: dict[str, Timings]) -> float:
    """Largest relative difference between the layouts' losses of one batch."""
    losses = np.asarray([timing.losses[0] for timing in timings.values()])
    return float(np.max(np.ptp(losses, axis=0) / np.abs(losses).max(axis=0)))


def device_name() -> str:
    """What the steps ran on."""
    devices = jax.devices()
    if devices[0].platform == "cpu":
        return f"{os.cpu_count()} CPU cores ({processor()}), Python {platform.python_version()}"
    return f"{len(devices)} x {devices[0].device_kind}, Python {platform.python_version()}"


def processor() -> str:
    """The CPU's name where the system tells it."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


if __name__ == "__main__":
    main()
