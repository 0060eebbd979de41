"""Kills a small training run again and again, resumes it, and shows that nothing was lost.

    python scripts/kill_resume.py --kills 20 --seed 0 --work runs/kill_resume

One run is left in peace. Another gets SIGKILL at random moments, by turns: anywhere from its start
on, some steps later, and while a checkpoint is being written. At the end both must
have the same weights bit for bit and the same log; every row must have gone to the device exactly
once an epoch (a witness beside the run writes down their ids); and no kill may cost a checkpoint.
Exits with 1 and says what differs where that does not hold. On one CPU; takes some minutes.
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
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROWS, BATCH, EPOCHS, EVERY = 96, 4, 24, 3
STEPS = ROWS // BATCH * EPOCHS
KINDS = ("anywhere", "after steps", "in a save")


@dataclass
class Kill:
    """One SIGKILL: when it struck, and what stood on disk then."""

    kind: str
    seconds: float
    last_logged_step: int
    newest_checkpoint: int
    save_in_progress: bool


def main() -> None:
    arguments = _arguments()
    work = Path(arguments.work).resolve()
    if arguments.child:
        _train(work, arguments.child)
        return
    work.mkdir(parents=True)
    _prepare(work)
    started = time.monotonic()
    _start(work, "unbroken").wait()
    unbroken_seconds = time.monotonic() - started
    kills = _kill_until_finished(work, arguments.kills, random.Random(arguments.seed))
    faults = _compare(work) + _count_rows(work) + _lost(kills)
    if len(kills) < arguments.kills:
        faults.append(f"the run ended after {len(kills)} kills of {arguments.kills}")
    report = {
        "kills": [asdict(kill) for kill in kills],
        "steps": STEPS,
        "steps_taken_again": _taken_again(work),
        "unbroken_seconds": round(unbroken_seconds, 1),
        "seconds": round(time.monotonic() - started, 1),
        "faults": faults,
    }
    (work / "report.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    for kill in kills:
        print(kill)
    by_kind = dict(Counter(kill.kind for kill in kills))
    print(
        f"{len(kills)} kills {by_kind}, {sum(k.save_in_progress for k in kills)} of them in a "
        f"save; {report['steps']} steps, {report['steps_taken_again']} taken again"
    )
    print("\n".join(faults) or "same weights bit for bit, same log, every row once an epoch")
    raise SystemExit(bool(faults))


def _kill_until_finished(work: Path, wanted: int, chance: random.Random) -> list[Kill]:
    kills: list[Kill] = []
    while True:
        process = _start(work, "killed")
        if len(kills) < wanted:
            kind = KINDS[len(kills) % len(KINDS)]
            struck = _strike(work / "killed", process, kind, chance)
            if struck:
                kills.append(struck)
                continue
        if process.wait():
            raise SystemExit(f"a run failed; see {work / 'killed.log'}")
        if len(kills) < wanted:
            print(f"the run was over after {len(kills)} kills", file=sys.stderr)
        return kills


def _strike(
    run: Path, process: subprocess.Popen[bytes], kind: str, chance: random.Random
) -> Kill | None:
    """Kills the process at a moment of the given kind; None where it ended before."""
    started, lines, left = time.monotonic(), _lines(run), _writing(run)
    # Kills spread over the run on any machine: by steps and saves, and by time only at the start.
    steps, saves = chance.randint(1, STEPS // 20), chance.randint(1, STEPS // EVERY // 20)
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
    )


def _start(work: Path, name: str) -> subprocess.Popen[bytes]:
    with (work / f"{name}.log").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, __file__, "--child", name, "--work", str(work)],
            env=os.environ
            | {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(work / "compiled")},
            stdout=log,
            stderr=log,
        )


def _train(work: Path, name: str) -> None:
    """The child: trains or goes on, and writes down the rows of each step as they are used."""
    import jax.numpy as jnp

    from gplan_jax.models import Qwen3
    from gplan_jax.training.loop import train
    from gplan_jax.training.reporter import StepReporter

    witness = (work / f"{name}-rows.jsonl").open("a", encoding="utf-8")
    hold = StepReporter.hold

    def hold_and_write(self: StepReporter, taken: int, batch: Any, metrics: Any) -> None:
        samples = self.run.training_set.samples
        # A user may have several rows, so a row is known by its place and its id.
        ids = [f"{row}:{samples[row].id}" for row in batch["rows"] if row >= 0]
        entry = {"process": os.getpid(), "step": taken, "epoch": int(batch["epoch"]), "ids": ids}
        witness.write(json.dumps(entry) + "\n")
        witness.flush()
        hold(self, taken, batch, metrics)

    def evaluate(model: Qwen3, folder: Path) -> dict[str, float]:
        time.sleep(0.3)  # Long enough to be hit.
        folder.mkdir(parents=True)
        return {"acc1": float(jnp.abs(model.embedding[...]).mean())}

    StepReporter.hold = hold_and_write  # type: ignore[method-assign]
    config = _config(work, name)
    train(config, resume=(Path(config.output) / "config.yaml").is_file(), evaluate=evaluate)


def _prepare(work: Path) -> None:
    from gplan_jax.gsisr import IntentLibrary, PromptTemplate, write_samples
    from gplan_jax.models import convert_checkpoint
    from gplan_jax.reasoning import GSISR_LATENTS
    from gplan_jax.synthesis.tiny_checkpoint import training_texts, write_tiny_checkpoint
    from gplan_jax.synthesis.world import simulate_rows

    rows = list(simulate_rows(ROWS, seed=1))
    write_samples(work / "rows.csv", rows)
    texts = training_texts(rows, PromptTemplate.load("compact_zh"), IntentLibrary.load())
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


def _config(work: Path, name: str) -> Any:
    from gplan_jax.training.config import TrainConfig

    return TrainConfig.model_validate(
        {
            "mode": "picd",
            "model": str(work / "model"),
            "output": str(work / name),
            "epochs": EPOCHS,
            "batch_size": BATCH,
            "data": {
                "train": str(work / "rows.csv"),
                "template": "compact_zh",
                "max_length": 512,
                "length_multiple": 512,
                "response_multiple": 384,
            },
            "optimizer": {"learning_rate": 1e-3, "polish_lr": 1e-4, "target_blocks": 1},
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
            {key: value for key, value in record.items() if key != "tokens_per_second"}
            for record in _records(work / name / "log.jsonl")
        ]
        for name in ("unbroken", "killed")
    ]
    return faults + (["the logs differ"] if logs[0] != logs[1] else [])


def _count_rows(work: Path) -> list[str]:
    """Rows that the steps which made the weights skipped or saw twice.

    A step that was taken again after a kill counts as it was taken last: the state that it made
    first was lost with the process.
    """
    from gplan_jax.gsisr import read_samples

    every_row = Counter(
        f"{n}:{sample.id}" for n, sample in enumerate(read_samples(work / "rows.csv"))
    )
    faults: list[str] = []
    steps: dict[int, dict[str, Any]] = {}
    for entry in _records(work / "killed-rows.jsonl"):
        earlier = steps.setdefault(entry["step"], entry)
        if earlier["ids"] != entry["ids"]:
            faults.append(f"step {entry['step']} was taken again with other rows")
        steps[entry["step"]] = entry
    if sorted(steps) != list(range(1, STEPS + 1)):
        faults.append("a step is missing")
    for epoch in range(EPOCHS):
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


def _taken_again(work: Path) -> int:
    return len(_records(work / "killed-rows.jsonl")) - STEPS


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
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    main()
