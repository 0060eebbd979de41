"""`gplan predict` beside the bare engine, its memory over a long file, and kills at random moments.

    python scripts/bench_predict.py --model runs/quickstart/picd/model --out runs/bench_predict
    python scripts/bench_predict.py --model DIR --out DIR --rows 100000 --kills 20

Three measurements, one JSON line:

speed   the same simulated contexts are planned by ``gplan predict`` from a file to a directory, and
        by its engine from memory (prompts and decoding alone), a shard of the file each in turns,
        in one process: wall and processor seconds, and rows a second of predict over the engine's
memory  resident bytes of one command over the whole file, sampled twice a second: the mean of the
        first and last tenth of its parts, once the first part is there
kills   a command over ``--kill-rows`` of the rows is killed (-9) at ``--kills`` random moments and
        started again; in the end its bytes are compared with those of an undisturbed run
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import time
from itertools import islice
from pathlib import Path
from typing import Any

import jax

from gplan_jax.data.tasks.task import Task
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.streams import cores
from gplan_jax.gsisr import write_samples
from gplan_jax.inference.engine.planner import Planner
from gplan_jax.inference.prediction.predict import predict
from gplan_jax.synthesis.world.simulation import simulate_contexts

SEED = 1_000  # a world that no model was trained on


def main() -> None:
    """Parses the command line, measures, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True, help="a new directory")
    parser.add_argument("--rows", type=int, default=20_000)
    parser.add_argument("--part-rows", type=int, default=500)
    parser.add_argument("--turns", type=int, default=4, help="shards that are timed in turns")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--kill-rows", type=int, default=400)
    parser.add_argument("--kill-part-rows", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments of kills")
    options = parser.parse_args()
    options.out.mkdir(parents=True)
    print(json.dumps(run(options)))


def run(options: argparse.Namespace) -> dict[str, Any]:
    """All figures by name."""
    data = options.out / "contexts.csv"
    write_samples(data, simulate_contexts(SEED, count=options.rows))
    return {
        "benchmark": "predict",
        "rows": options.rows,
        "part_rows": options.part_rows,
        "speed": speed(options, data),
        "memory": memory(options, data),
        "kills": kills(options),
        "machine": {
            "device": jax.devices()[0].device_kind,
            "cores": cores(),
            "python": platform.python_version(),
            "jax": jax.__version__,
        },
    }


def speed(options: argparse.Namespace, data: Path) -> dict[str, Any]:
    """Both ways in turns over the shards of the first rows."""
    part_rows, turns = options.part_rows, options.turns
    planner = Planner.load(options.model, mode="drafted")
    task: Task = planner.task
    few = options.out / "few.csv"
    count = min(options.rows, turns * part_rows)
    write_samples(few, simulate_contexts(SEED, count=count))
    rows = task.read_contexts(few, FaultyRows())
    seconds: dict[str, list[tuple[float, float]]] = {"predict": [], "engine": []}
    for turn in range(1, turns + 1):
        contexts = list(islice(rows, part_rows))
        # The first round isn't timed: it compiles for the lengths of these prompts.
        for round_ in range(2):
            for name in ("engine", "predict") if turn % 2 else ("predict", "engine"):
                wall, processor = time.perf_counter(), time.process_time()
                if name == "engine":
                    plan_in_memory(planner, contexts)
                else:
                    out = options.out / "shards" / f"{turn}-{round_}"
                    predict(options.model, few, out, shard=f"{turn}/{turns}", part_rows=part_rows)
                if round_:
                    taken = time.perf_counter() - wall, time.process_time() - processor
                    seconds[name].append(taken)
    planned = len(seconds["engine"]) * part_rows
    totals = {name: [sum(column) for column in zip(*s, strict=True)] for name, s in seconds.items()}
    return {
        "rows_each": planned,
        "rows_a_second": {name: round(planned / wall, 2) for name, (wall, _) in totals.items()},
        "wall_ratio": round(totals["engine"][0] / totals["predict"][0], 3),
        "processor_ratio": round(totals["engine"][1] / totals["predict"][1], 3),
    }


def plan_in_memory(planner: Planner, contexts: list[Any]) -> None:
    """Prompts and decoding, and nothing else."""
    prompts = [planner.prompt(context, number - 1) for number, _, context in contexts]
    planner.answers(prompts, contexts[0][2], on_row=lambda: None)


def command(options: argparse.Namespace, data: Path, out: Path, part_rows: int) -> list[str]:
    """The command line of a user."""
    arguments = ["--model", options.model, "--data", data, "--out", out, "--part-rows", part_rows]
    return [sys.executable, "-m", "gplan_jax.cli.main", "predict", *map(str, arguments)]


def memory(options: argparse.Namespace, data: Path) -> dict[str, Any]:
    """Resident memory by the share of parts that are there."""
    out, total = options.out / "plans", -(-options.rows // options.part_rows)
    started = time.perf_counter()
    process = subprocess.Popen(command(options, data, out, options.part_rows))
    samples: list[tuple[float, int]] = []
    while process.poll() is None:
        done = len(list(out.glob("part-*"))) if out.is_dir() else 0
        if done:
            samples.append((done / total, resident(process.pid)))
        time.sleep(0.5)
    if process.returncode:
        raise SystemExit(f"error: the command ended with {process.returncode}")
    first, last = (
        statistics.mean(size for share, size in samples if low <= share < high and size)
        for low, high in ((0.0, max(0.1, 2 / total)), (0.9, 1.0))
    )
    return {
        "seconds": round(time.perf_counter() - started, 1),
        "first_tenth_mib": round(first / 2**20, 1),
        "last_tenth_mib": round(last / 2**20, 1),
        "ratio": round(last / first, 3),
    }


def resident(process: int) -> int:
    """Bytes of a process that are in memory; 0 where it has just ended."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0
    return pages * os.sysconf("SC_PAGE_SIZE")


def kills(options: argparse.Namespace) -> dict[str, Any]:
    """Kills at moments drawn from the time that an undisturbed run takes."""
    data, part_rows = options.out / "killed.csv", options.kill_part_rows
    write_samples(data, simulate_contexts(SEED, count=options.kill_rows))
    whole, killed = options.out / "undisturbed", options.out / "killed"
    started = time.perf_counter()
    subprocess.run(command(options, data, whole, part_rows), check=True, capture_output=True)
    length = time.perf_counter() - started
    draw, parts_at_kills, starts = random.Random(options.seed), list[int](), 0
    while len(parts_at_kills) < options.kills:
        starts += 1
        process = subprocess.Popen(
            command(options, data, killed, part_rows),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            process.wait(draw.uniform(0, length))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            parts_at_kills.append(len(list(killed.glob("part-*"))))
        else:  # It was finished before the moment came: the next kill meets a new run.
            if contents(killed) != contents(whole):
                break
            shutil.rmtree(killed)
    subprocess.run(command(options, data, killed, part_rows), check=True, capture_output=True)
    return {
        "kills": len(parts_at_kills),
        "starts": starts + 1,
        "rows": options.kill_rows,
        "parts": -(-options.kill_rows // part_rows),
        "parts_there_at_kills": parts_at_kills,
        "equal_bytes": contents(killed) == contents(whole),
    }


def contents(folder: Path) -> dict[str, bytes]:
    """Name -> bytes of the files that are no leftovers."""
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name[0] != "."}


if __name__ == "__main__":
    main()
