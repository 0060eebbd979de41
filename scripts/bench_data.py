"""Rows tokenized once against texts tokenized in every epoch; prints one JSON line of figures.

    python scripts/bench_data.py --tokenizer QWEN3_DIRECTORY --rows 100000 --out runs/bench_data

Rows are simulated, in the public schema, or those of --data; responses go through 13 stages.

before  the plain way, on --plain rows: read, render, count the tokens of every stage; then prompt
        and response tokenized whole at each stage, samples a second
build   the first start: all rows checked and tokenized by all cores
start   a new process with the tokens there: from its beginning to its first batch
loader  in that process: samples a second at each stage, batches of 32 in the order of an epoch

Rates are a processor second, also where other work shares the machine; MiB are peaks of a process
(VmHWM), pages of mapped and read files among them. ``equal`` rows were compared at every stage.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from gplan_jax.data import BatchPlan, ChatEncoder, Mode, SampleLoader, TrainingSet
from gplan_jax.data.loaders import batch_iterator
from gplan_jax.data.pieces import response_text, shown_blocks
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.gsisr import IntentLibrary, PromptTemplate, write_samples
from gplan_jax.models.checkpoints.tokenizer_files import extend_tokenizer
from gplan_jax.objectives.curriculum import FORWARD, CompressionCurriculum
from gplan_jax.reasoning import GSISR_LATENTS
from gplan_jax.serving.latency.latency_report import machine
from gplan_jax.synthesis.world.simulation import simulate_rows

STAGES, BATCH = 13, 32
TASK = GsisrTask(
    PromptTemplate.load("amap_zh"), IntentLibrary.load(), prompt_length=1993, response="latent"
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--tokenizer", type=Path, required=True)
    add("--out", type=Path, required=True, help="folder for rows and tokens")
    add("--data", type=Path, help="rows; simulated where it is not given")
    add("--rows", type=int, default=100_000, help="to simulate")
    add("--plain", type=int, default=500, help="rows for the plain way")
    add("--steps", type=int, default=100, help="batches at each stage")
    add("--start", type=float, help="only the second start; when it was asked for (Unix time)")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    folder, data = options.out / "tokenizer", options.data or options.out / "world.csv"
    if options.start:
        print(json.dumps(second_start(folder, data, options)))
        return
    if not data.is_file():
        write_samples(data, simulate_rows(options.rows, seed=0))
    extension = extend_tokenizer(options.tokenizer, GSISR_LATENTS.tokens)
    assert extension is not None  # only without new tokens
    folder.mkdir(exist_ok=True)
    (folder / "tokenizer.json").write_text(extension.tokenizer.to_str(), encoding="utf-8")
    encoder = ChatEncoder.load(folder)

    figures: dict[str, Any] = {"machine": machine(), "before": plain_way(data, encoder, options)}
    started, before = time.perf_counter(), processor_seconds()
    rows = training_set(data, encoder, options.out)
    figures["build"] = {
        "rows": len(rows),
        "seconds": round(time.perf_counter() - started, 1),
        "processor_seconds": round(processor_seconds() - before, 1),
        "mib": peak_mib(),
        "mib_of_a_process": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024,
        "bytes_a_row": sum(f.stat().st_size for f in rows.examples.folder.iterdir()) // len(rows),
    }
    figures["equal"] = compare(rows, options.plain)
    command = [sys.executable, __file__, *sys.argv[1:], "--start", str(time.time())]
    found = subprocess.run(command, check=True, stdout=subprocess.PIPE)
    print(json.dumps(figures | json.loads(found.stdout), ensure_ascii=False))


def training_set(data: Path, encoder: ChatEncoder, out: Path) -> TrainingSet:
    """All rows, for PICD."""
    return TrainingSet.read(data, encoder=encoder, task=TASK, mode=Mode.PICD, cache=out / "tokens")


def plain_way(data: Path, encoder: ChatEncoder, options: argparse.Namespace) -> dict[str, Any]:
    """Rates of reading and counting rows, and of tokenizing samples at each stage."""
    begun, rows = time.process_time(), []
    for row in TASK.read(data, encoder.latents):
        rows.append(row)
        if len(rows) == options.plain:
            break

    def response(row: Any, stage: int) -> Any:
        shown = shown_blocks(Mode.PICD, FORWARD, row.block_names, stage)
        return encoder.response(response_text(row, shown, encoder))

    for row in rows:
        TASK.prompt_ids(row.context, encoder)
        for stage in range(min(STAGES, len(row.blocks) + 1)):
            response(row, stage)
    counted = len(rows) / (time.process_time() - begun)
    samples = []
    for stage in range(STAGES):
        begun, some = time.process_time(), rows[:100]
        for row in some:
            TASK.prompt_ids(row.context, encoder)
            response(row, stage)
        samples.append(len(some) / (time.process_time() - begun))
    return {"counted_rows": round(counted, 1), "samples": [round(rate) for rate in samples]}


def compare(rows: TrainingSet, count: int) -> int:
    """Rows, spread over all, that give what whole texts give; AssertionError where one doesn't."""
    chosen = range(0, len(rows), max(1, len(rows) // count))
    for row in chosen:
        context = rows.examples[row].context
        for stage in range(STAGES):
            prompt_ids, response = rows.tokenize(row, stage)
            due = rows.encoder.response(rows.response_text(row, stage))
            np.testing.assert_array_equal(response.ids, due.ids)
            np.testing.assert_array_equal(response.sections, due.sections)
        np.testing.assert_array_equal(prompt_ids, TASK.prompt_ids(context, rows.encoder))
    return len(chosen)


def second_start(folder: Path, data: Path, options: argparse.Namespace) -> dict[str, Any]:
    """Figures of a process that finds the tokens made."""
    rows = training_set(data, ChatEncoder.load(folder), options.out)
    plan = BatchPlan(
        rows.lengths(STAGES),
        CompressionCurriculum(len(rows)),
        batch_size=BATCH,
        epochs=STAGES,
        seed=0,
        prefix_length=len(rows.prefix_ids),
    )
    loader = SampleLoader(rows, plan)
    next(batch_iterator(loader, plan, prefetch=1))
    start = {
        "seconds": round(time.time() - options.start, 1),
        "processor_seconds": round(time.process_time(), 1),
    }
    rates = []
    for stage in range(STAGES):
        first = stage * plan.steps_per_epoch
        loader(first)  # The epoch's order is drawn once for all its steps.
        begun = time.process_time()
        for step in range(first, first + options.steps):
            loader(step)
        rates.append(round(BATCH * options.steps / (time.process_time() - begun)))
    return {"start": start | {"mib": peak_mib()}, "loader": rates}


def processor_seconds() -> float:
    """Of this process and of those that it has waited for."""
    spent = os.times()
    return spent.user + spent.system + spent.children_user + spent.children_system


def peak_mib() -> int:
    """The most memory that this process ever had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


if __name__ == "__main__":
    main()
