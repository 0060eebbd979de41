"""Kills a small training run again and again, resumes it, and shows that nothing was lost.

    python scripts/kill_resume.py --kills 20 --seed 0 --work runs/kill_resume
    python scripts/kill_resume.py --mode scdpo --kills 12 --work runs/kill_resume_pairs

One run is left in peace. Another gets SIGKILL at random moments, by turns: anywhere from its start
on, some steps later, and while a checkpoint is being written; with --mode scdpo first while the
reference is being computed. At the end both must have the same weights bit for bit and the same
log; every row, or pair of contexts, must have gone to the device exactly once an epoch (a witness
beside the run writes down their ids); and no kill may cost a checkpoint. Exits with 1 and says what
differs where that does not hold. On one CPU; takes some minutes.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TextIO

ROWS, BATCH, EVERY = 96, 4, 3
KINDS = ("anywhere", "after steps", "in a save")
IN_REFERENCE, REFERENCE_KILLS, DONE = "in the reference", 4, "done"


@dataclass(frozen=True)
class Task:
    """What a mode trains on, and for how long; a step on pairs takes as long as several on rows."""

    mode: str
    data: str
    epochs: int
    max_length: int
    response_multiple: int

    def steps(self, work: Path) -> int:
        """Steps of the whole run: the last batch of an epoch may be filled up."""
        return -(-len(_row_ids(work, self)) // BATCH) * self.epochs


TASKS = {
    "picd": Task("picd", "rows.csv", epochs=24, max_length=512, response_multiple=384),
    "scdpo": Task("scdpo", "pairs.jsonl", epochs=8, max_length=1024, response_multiple=256),
}


@dataclass
class Kill:
    """One SIGKILL: when it struck, and what stood on disk then."""

    kind: str
    seconds: float
    last_logged_step: int
    newest_checkpoint: int
    save_in_progress: bool
    reference_in_progress: bool


def main() -> None:
    arguments = _arguments()
    work, task = Path(arguments.work).resolve(), TASKS[arguments.mode]
    if arguments.child:
        _train(work, arguments.child, task)
        return
    work.mkdir(parents=True)
    _prepare(work, task)
    started = time.monotonic()
    _start(work, "unbroken", task).wait()
    unbroken_seconds = time.monotonic() - started
    kills = _kill_until_finished(work, task, arguments.kills, random.Random(arguments.seed))
    faults = _compare(work) + _count_rows(work, task) + _lost(kills)
    if len(kills) < arguments.kills:
        faults.append(f"the run ended after {len(kills)} kills of {arguments.kills}")
    report = {
        "mode": task.mode,
        "kills": [asdict(kill) for kill in kills],
        "rows": len(_row_ids(work, task)),
        "epochs": task.epochs,
        "steps": task.steps(work),
        "steps_taken_again": _taken_again(work, task),
        "unbroken_seconds": round(unbroken_seconds, 1),
        "seconds": round(time.monotonic() - started, 1),
        "faults": faults,
    }
    (work / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for kill in kills:
        print(kill)
    by_kind = dict(Counter(kill.kind for kill in kills))
    in_reference = sum(kill.reference_in_progress for kill in kills)
    print(
        f"{len(kills)} kills {by_kind}, {sum(k.save_in_progress for k in kills)} of them in a "
        f"save, {in_reference} while the reference was computed; {report['steps']} steps, "
        f"{report['steps_taken_again']} taken again"
    )
    what = "pair" if task.mode == "scdpo" else "row"
    print("\n".join(faults) or f"same weights bit for bit, same log, every {what} once an epoch")
    raise SystemExit(bool(faults))


def _kill_until_finished(work: Path, task: Task, wanted: int, chance: random.Random) -> list[Kill]:
    run, kills, steps = work / "killed", list[Kill](), task.steps(work)
    while True:
        unknown = not any((run / "cache").glob("reference-*.npz"))
        kind = KINDS[len(kills) % len(KINDS)]
        if task.mode == "scdpo" and len(kills) < REFERENCE_KILLS and unknown:
            kind = IN_REFERENCE
        process = _start(work, "killed", task)
        if len(kills) < wanted:
            struck = _strike(run, process, kind, steps, chance)
            if struck:
                kills.append(struck)
                continue
        if process.wait():
            raise SystemExit(f"a run failed; see {work / 'killed.log'}")
        if len(kills) < wanted:
            print(f"the run was over after {len(kills)} kills", file=sys.stderr)
        return kills


def _strike(
    run: Path, process: subprocess.Popen[bytes], kind: str, total: int, chance: random.Random
) -> Kill | None:
    """Kills the process at a moment of the given kind; None where it ended before."""
    started, lines, left = time.monotonic(), _lines(run), _writing(run)
    # Kills spread over the run on any machine: by steps and saves, and by time only at the start.
    steps, saves = chance.randint(1, total // 20), chance.randint(1, total // EVERY // 20)
    parts = chance.randint(1, len(_parts(run.with_name("unbroken")))) if kind == IN_REFERENCE else 0
    seen: set[tuple[str, int]] = set()
    until = started + chance.uniform(0, 8) if kind == "anywhere" else None
    while until is None or time.monotonic() < until:
        if process.poll() is not None:
            return None
        seen |= _writing(run) - left
        if until is None and kind == "after steps" and _lines(run) >= lines + steps:
            until = time.monotonic() + chance.uniform(0, 0.3)
        if until is None and kind == "in a save" and len(seen) >= saves:
            until = time.monotonic() + chance.uniform(0, 0.05)
        if until is None and kind == IN_REFERENCE and len(_parts(run, process.pid)) >= parts:
            until = time.monotonic() + chance.uniform(0, 0.05)
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    logged = [record["step"] for record in _records(run / "log.jsonl")]
    return Kill(
        kind,
        round(time.monotonic() - started, 3),
        max(logged, default=0),
        max(_checkpoints(run), default=0),
        bool(_writing(run) - left),
        _parts(run, process.pid)[-1:] not in ([], [DONE]),
    )


def _start(work: Path, name: str, task: Task) -> subprocess.Popen[bytes]:
    with (work / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, __file__, "--child", name, "--work", str(work), "--mode", task.mode],
            env=os.environ
            | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(work / "compiled")},
            stdout=log,
            stderr=log,
        )


def _train(work: Path, name: str, task: Task) -> None:
    """The child: trains or goes on, and writes down the rows of each step as they are used.

    Likewise when it begins with a part of the reference, and when it is done with all.
    """
    import jax.numpy as jnp

    from gplan_jax.models import Qwen3
    from gplan_jax.training.loop import reference
    from gplan_jax.training.loop.loop import train
    from gplan_jax.training.loop.metrics_log import StepReporter

    witness = (work / f"{name}-rows.jsonl").open("a", encoding="utf-8")
    moments = (work / f"{name}-reference.jsonl").open("a", encoding="utf-8")
    hold, parts = StepReporter.hold, reference._by_length

    def hold_and_write(self: StepReporter, taken: int, loaded: Any, metrics: Any) -> None:
        # A user may have several rows, so a row is known by its place and its id.
        ids = [f"{row}:{self.run.training_set.row_id(row)}" for row in loaded.indices_B if row >= 0]
        entry = {"process": os.getpid(), "step": taken, "epoch": int(loaded.epoch), "ids": ids}
        _note(witness, entry)
        hold(self, taken, loaded, metrics)

    def parts_and_write(*arguments: Any) -> Iterator[Any]:
        for number, part in enumerate(parts(*arguments)):
            _note(moments, {"process": os.getpid(), "part": number})
            yield part
        _note(moments, {"process": os.getpid(), "part": DONE})

    def evaluate(model: Qwen3, folder: Path) -> dict[str, float]:
        time.sleep(0.3)  # Long enough to be hit.
        folder.mkdir(parents=True)
        return {"acc1": float(jnp.abs(model.embedding[...]).mean())}

    StepReporter.hold = hold_and_write  # type: ignore[method-assign]
    reference._by_length = parts_and_write  # type: ignore[assignment]
    config = _config(work, name, task)
    train(config, resume=(Path(config.output) / "config.yaml").is_file(), evaluate=evaluate)


def _note(out: TextIO, entry: dict[str, Any]) -> None:
    out.write(json.dumps(entry) + "\n")
    out.flush()


def _prepare(work: Path, task: Task) -> None:
    from gplan_jax.gsisr import IntentLibrary, PromptTemplate, training_texts, write_samples
    from gplan_jax.models import convert_checkpoint
    from gplan_jax.models.checkpoints.tiny import write_tiny_checkpoint
    from gplan_jax.reasoning import GSISR_LATENTS
    from gplan_jax.synthesis.pairs.counterfactuals import write_counterfactuals
    from gplan_jax.synthesis.world.simulation import simulate_rows

    rows = list(simulate_rows(ROWS, seed=1))
    write_samples(work / "rows.csv", rows)
    library = IntentLibrary.load()
    if task.mode == "scdpo":
        write_counterfactuals(work / "rows.csv", work / task.data, library)
    texts = training_texts(rows, PromptTemplate.load("compact_zh"), library)
    write_tiny_checkpoint(
        work / "hf",
        list(texts),
        vocab_size=512,
        hidden_size=32,
        layers=2,
        heads=2,
        kv_heads=1,
        head_dim=16,
        intermediate_size=48,
    )
    convert_checkpoint(
        work / "hf",
        work / "model",
        new_tokens=GSISR_LATENTS.tokens,
        metadata={"latents": GSISR_LATENTS.to_dict()},
    )


def _config(work: Path, name: str, task: Task) -> Any:
    from gplan_jax.training.steps.train_config import TrainConfig

    calr = {"learning_rate": 1e-3, "polish_lr": 1e-4, "target_blocks": 1}
    constant = {"schedule": "constant", "learning_rate": 1e-4, "warmup_ratio": 0.03}
    return TrainConfig.model_validate(
        {
            "mode": task.mode,
            "model": str(work / "model"),
            "output": str(work / name),
            "epochs": task.epochs,
            "batch_size": BATCH,
            "data": {
                "train": str(work / task.data),
                "template": "compact_zh",
                "max_length": task.max_length,
                "length_multiple": 512,
                "response_multiple": task.response_multiple,
            },
            "optimizer": constant if task.mode == "scdpo" else calr,
            "precision": {"compute": "float32", "remat": "none"},
            "checkpoint": {"every_steps": EVERY, "keep": 1, "keep_best": 1},
            "evaluation": {"every_epochs": 1},
        }
    )


def _compare(work: Path) -> list[str]:
    """Differences of the two runs in weights and log."""
    import jax
    import numpy as np
    from flax import nnx

    from gplan_jax.models import load_qwen3
    from gplan_jax.training.loop.metrics_log import TIMINGS

    faults = []
    for folder in ("model", "best"):
        weights = [
            jax.tree.leaves(nnx.state(load_qwen3(work / name / folder), nnx.Param))
            for name in ("unbroken", "killed")
        ]
        for number, (a, b) in enumerate(zip(*weights, strict=True)):
            if not np.array_equal(np.asarray(a), np.asarray(b)):
                faults.append(f"array {number} of {folder}/ differs")
    logs = [
        [
            {key: value for key, value in record.items() if key not in TIMINGS}
            for record in _records(work / name / "log.jsonl")
        ]
        for name in ("unbroken", "killed")
    ]
    return faults + (["the logs differ"] if logs[0] != logs[1] else [])


def _row_ids(work: Path, task: Task) -> list[str]:
    """What the witness calls the rows or pairs of the file that is trained on."""
    from gplan_jax.gsisr import IntentLibrary, read_context_pairs, read_samples

    path = work / task.data
    if task.mode == "scdpo":
        names = [pair.key for pair in read_context_pairs(path, IntentLibrary.load())]
    else:
        names = [sample.id for sample in read_samples(path)]
    return [f"{number}:{name}" for number, name in enumerate(names)]


def _count_rows(work: Path, task: Task) -> list[str]:
    """Rows that the steps which made the weights skipped or saw twice.

    A step that was taken again after a kill counts as it was taken last: the state that it made
    first was lost with the process.
    """
    every_row = Counter(_row_ids(work, task))
    faults: list[str] = []
    steps: dict[int, dict[str, Any]] = {}
    for entry in _records(work / "killed-rows.jsonl"):
        earlier = steps.setdefault(entry["step"], entry)
        if earlier["ids"] != entry["ids"]:
            faults.append(f"step {entry['step']} was taken again with other rows")
        steps[entry["step"]] = entry
    if sorted(steps) != list(range(1, task.steps(work) + 1)):
        faults.append("a step is missing")
    for epoch in range(task.epochs):
        seen = Counter(
            i for entry in steps.values() if entry["epoch"] == epoch for i in entry["ids"]
        )
        if seen != every_row:
            faults.append(f"epoch {epoch}: not every row exactly once")
    return faults


def _lost(kills: list[Kill]) -> list[str]:
    """Kills after which the newest checkpoint was older than after the kill before."""
    newest = [kill.newest_checkpoint for kill in kills]
    return [
        f"kill {number} cost a checkpoint: newest {later} after {earlier}"
        for number, (earlier, later) in enumerate(itertools.pairwise(newest), start=2)
        if later < earlier
    ]


def _taken_again(work: Path, task: Task) -> int:
    return len(_records(work / "killed-rows.jsonl")) - task.steps(work)


def _parts(run: Path, process: int | None = None) -> list[int | str]:
    """Parts of the reference that a process, or any, has begun to compute."""
    moments = _records(run.with_name(f"{run.name}-reference.jsonl"))
    return [moment["part"] for moment in moments if process in (None, moment["process"])]


def _records(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def _lines(run: Path) -> int:
    log = run / "log.jsonl"
    return log.read_bytes().count(b"\n") if log.is_file() else 0


def _checkpoints(run: Path) -> list[int]:
    return [int(path.name) for path in (run / "checkpoints").glob("*") if path.name.isdigit()]


def _writing(run: Path) -> set[tuple[str, int]]:
    """The checkpoints being written, or left half written; the inode tells a new one of a name."""
    found = set()
    for path in (run / "checkpoints").glob("*.orbax-checkpoint-tmp*"):
        with suppress(FileNotFoundError):
            found.add((path.name, path.stat().st_ino))
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--work", required=True, help="a new directory")
    parser.add_argument("--mode", choices=TASKS, default="picd")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
