"""Ways of internalizing reasoning, compared on public reasoning tasks: `gplan reproduce tasks`.

OUT/TASK/rows/             train.jsonl and test.jsonl, which share no question
OUT/TASK/tokens/           their token ids, for all arms and seeds
OUT/TASK/ARM/seed_S/       start weights, the training run, the answers to the test rows
OUT/TASK/workers.log       what the trainings print
OUT/TASK.md, TASK.json     exact answers by arm and seed, and what can be said of them

All arms take the same rows, epochs and optimizer, and begin with the same weights, but for the rows
of their latent tokens. Nothing is tuned for any of them.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np

from gplan_jax.data.tasks.task import Mode
from gplan_jax.evaluation.comparison.worker_pool import LOG, become_worker, one_thread_a_process
from gplan_jax.evaluation.reproduce.paper import Claim
from gplan_jax.evaluation.reproduce.tables import judge_claims, verdict_table, write_tables
from gplan_jax.evaluation.scores.intervals import t_interval
from gplan_jax.evaluation.scores.offline import PREDICTIONS
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import Config, parse_config
from gplan_jax.foundation.files import read_json, read_jsonl, write_json, write_jsonl
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.foundation.tables import NOTHING, TextTable
from gplan_jax.reasoning_tasks.questions import (
    check_rows,
    multiplication_rows,
    parity_rows,
    prosqa_rows,
)

TEST_ROWS = 400
SETTINGS_FILE, ANSWERS = "settings.json", "answers"


@dataclass(frozen=True)
class TaskArm:
    """One way of training."""

    title: str
    mode: str
    width: int = 3  # K, latent tokens a block
    curriculum: Mapping[str, str] = field(default_factory=dict)

    @property
    def has_latents(self) -> bool:
        return Mode(self.mode).response == "latent"


ARMS: Mapping[str, TaskArm] = {
    "none": TaskArm("No reasoning", "direct_sft"),
    "cot": TaskArm("Explicit CoT", "cot_sft"),
    "pause": TaskArm("Pause tokens (PICD without its curriculum)", "pause"),
    "icot": TaskArm("ICoT, blocks removed", "icot"),
    "picd": TaskArm("PICD, K = 3", "picd"),
    "picd_k1": TaskArm("PICD, K = 1", "picd", width=1),
    "picd_k6": TaskArm("PICD, K = 6", "picd", width=6),
    "picd_log": TaskArm("PICD, chunks of 1, 2, 4", "picd", curriculum={"chunks": "log"}),
    "picd_reverse": TaskArm("PICD, last block first", "picd", curriculum={"order": "reverse"}),
}
CLAIMS = (
    Claim("picd", "none", "exact"),
    Claim("picd", "pause", "exact"),
    Claim("picd", "cot", "exact", "same"),
    Claim("picd", "icot", "exact", "same"),
    *(Claim("picd", arm, "exact") for arm in ("picd_reverse", "picd_log", "picd_k1")),
    Claim("picd_k6", "picd", "exact"),
)


class TaskStudy(Config):
    """Rows, model and training of one task."""

    make: Literal["parity", "multiplication", "prosqa"]
    options: dict[str, int]
    blocks: int  # of its longest row: a curriculum of so many stages
    rows: int
    epochs_per_stage: int
    epochs_after: int  # once all blocks are latent
    layers: int = 2
    hidden_size: int = 64
    heads: int = 2
    head_dim: int = 32
    batch_size: int = 32
    learning_rate: float = 1e-3
    max_length: int = 128

    @property
    def epochs(self) -> int:
        """The same for all arms: a stage of explicit reasoning, one a block, and the rest."""
        return (self.blocks + 1) * self.epochs_per_stage + self.epochs_after


STUDIES: Mapping[str, TaskStudy] = {
    "parity": TaskStudy(
        make="parity",
        options={"bits": 8, "k": 4},
        blocks=4,
        rows=4000,
        epochs_per_stage=3,
        epochs_after=6,
    ),
    "multiplication-2": TaskStudy(
        make="multiplication",
        options={"digits": 2},
        blocks=2,
        rows=3000,
        epochs_per_stage=4,
        epochs_after=8,
    ),
    "multiplication-3": TaskStudy(
        make="multiplication",
        options={"digits": 3},
        blocks=3,
        rows=40_000,
        epochs_per_stage=2,
        epochs_after=4,
        hidden_size=128,
        heads=4,
    ),
    "multiplication-4": TaskStudy(
        make="multiplication",
        options={"digits": 4},
        blocks=4,
        rows=808_000,
        epochs_per_stage=1,
        epochs_after=2,
        hidden_size=256,
        heads=4,
        head_dim=64,
    ),
    "prosqa": TaskStudy(
        make="prosqa",
        options={},
        blocks=6,
        rows=17_886,
        epochs_per_stage=3,
        epochs_after=6,
        hidden_size=256,
        heads=4,
        head_dim=64,
        max_length=512,
    ),
}


def arms_of(study: TaskStudy) -> list[str]:
    """All arms but chunks of 1, 2, 4 where two blocks make them PICD's own stages."""
    return [arm for arm in ARMS if arm != "picd_log" or study.blocks > 2]


def reproduce_task(
    name: str,
    out: Path,
    *,
    arms: Sequence[str] = (),
    seeds: int,
    workers: int = 2,
    changes: Mapping[str, Any] = MappingProxyType({}),
) -> list[TextTable]:
    """Trains what is missing and writes OUT/NAME.md and .json; the figures and the verdicts.

    ``changes`` replace fields of the study. GplanError for an arm or a field that there is none,
    and where OUT holds a study of other settings.
    """
    study = parse_config(TaskStudy, {**STUDIES[name].model_dump(), **changes}, source="--set")
    chosen = list(arms or arms_of(study))
    if unknown := sorted(set(chosen) - set(ARMS)):
        raise GplanError(f"There is no arm {unknown[0]}; there are {', '.join(ARMS)}.")
    folder = out / name
    _open(folder, study)
    cells = [(arm, seed) for seed in range(seeds) for arm in chosen]
    missing = [cell for cell in cells if not (cell_of(folder, *cell) / ANSWERS).is_dir()]
    context = multiprocessing.get_context("spawn")
    with (
        ProgressBar(
            f"{name}: arms and seeds",
            len(cells),
            start=len(cells) - len(missing),
            note=f"the steps are in {folder / LOG}",
        ) as bar,
        one_thread_a_process(),
        ProcessPoolExecutor(workers, context, become_worker, (folder / LOG,)) as pool,
    ):
        running: dict[Future[float], tuple[str, int]] = {}
        try:
            while missing or running:
                # No more than are worked on: what a pool holds in advance can't be taken back.
                while missing and len(running) < workers:
                    cell = missing.pop(0)
                    running[pool.submit(_in_worker, train_cell, study, folder, *cell)] = cell
                for done in wait(running, return_when=FIRST_COMPLETED).done:
                    arm, seed = running.pop(done)
                    bar.advance(f"{arm}, seed {seed}: exact {100 * done.result():.1f}")
        except BaseException:
            for process in multiprocessing.active_children():
                process.terminate()  # a training saves a checkpoint first
            raise

    scores = {arm: _scores(folder, arm, seeds) for arm in chosen}
    answered = read_jsonl(cell_of(folder, chosen[0], 0) / ANSWERS / PREDICTIONS)
    ids = [record["id"] for record in answered]
    claims = [claim for claim in CLAIMS if {claim.first, claim.second} <= set(chosen)]
    titles = {arm: ARMS[arm].title for arm in chosen}
    verdicts = judge_claims(claims, scores, ids, titles) if claims else []
    tables = [_figures(name, study, scores, seeds, len(ids))]
    tables += [verdict_table(verdicts)] if verdicts else []
    write_tables(out / f"{name}.md", tables)
    seeds_of = {
        arm: {measure: values.mean(axis=1).tolist() for measure, values in found.items()}
        for arm, found in scores.items()
    }
    found = {
        "study": study.model_dump(),
        "seeds": seeds_of,
        "verdicts": [asdict(v) for v in verdicts],
    }
    write_json(out / f"{name}.json", found)
    return tables


def train_cell(study: TaskStudy, folder: Path, arm_name: str, seed: int) -> float:
    """Trains one arm with one seed, or goes on; the share of exact answers to the test rows."""
    from gplan_jax.data.tasks.text_task import text_latents, texts_of_rows
    from gplan_jax.evaluation.scores.model_evaluation import evaluate_model
    from gplan_jax.models.checkpoints.tiny import SPACED_SPLIT, write_tiny_model
    from gplan_jax.training.loop.loop import train
    from gplan_jax.training.steps.train_config import TrainConfig

    arm, cell, rows = ARMS[arm_name], cell_of(folder, arm_name, seed), folder / "rows"
    start, run = cell / "start", cell / "run"
    if not start.is_dir():
        latents = text_latents(rows / "train.jsonl", width=arm.width)
        write_tiny_model(
            start,
            texts_of_rows(rows / "train.jsonl"),
            new_tokens=latents.tokens,
            metadata={"latents": latents.to_dict()},
            seed=seed,
            vocab_size=512,
            hidden_size=study.hidden_size,
            layers=study.layers,
            heads=study.heads,
            kv_heads=study.heads,
            head_dim=study.head_dim,
            split=SPACED_SPLIT,
        )
    config = TrainConfig.model_validate(
        {
            "mode": arm.mode,
            "model": str(start),
            "output": str(run),
            "epochs": study.epochs,
            "epochs_per_stage": study.epochs_per_stage,
            "batch_size": study.batch_size,
            "seed": seed,
            "curriculum": dict(arm.curriculum),
            "data": {
                "task": "text",
                "train": str(rows / "train.jsonl"),
                "cache": str(folder / "tokens"),
                "max_length": study.max_length,
                "length_multiple": 8,
                "response_multiple": 8,
            },
            # A constant rate for all: a schedule that knows the curriculum would favour its arms.
            "optimizer": {
                "schedule": "constant",
                "learning_rate": study.learning_rate,
                "warmup_ratio": 0.02,
                "weight_decay": 0.01,
                "b2": 0.98,
            },
            "precision": {"params": "float32", "compute": "float32", "remat": "none"},
            "checkpoint": {"keep": 1},
        }
    )
    model = train(config, resume=(run / "config.yaml").is_file())
    metrics = evaluate_model(
        model, rows / "test.jsonl", cell / ANSWERS, batch_size=128, max_new_tokens=96
    )
    return float(metrics["model"]["exact"])


def _in_worker(work: Callable[..., float], *given: Any) -> float:
    """What ``work`` returns. A signal that stops it ends the process: the pool's own SIGTERM to a
    worker, sent once, is lost on one that writes its checkpoint, and both would wait forever.
    """
    try:
        return work(*given)
    except SystemExit as stopped:
        print(stopped, flush=True)
        os._exit(1)


def cell_of(folder: Path, arm: str, seed: int) -> Path:
    """Where one arm with one seed lies in the folder of a task."""
    return folder / arm / f"seed_{seed}"


def _open(folder: Path, study: TaskStudy) -> None:
    settings = study.model_dump()
    path = folder / SETTINGS_FILE
    if path.is_file():
        before = read_json(path)
        if odd := [
            f"{k} {before.get(k)} (now {v})" for k, v in settings.items() if before.get(k) != v
        ]:
            raise GplanError(f"{folder} was made with {', '.join(odd)}; name a new --out.")
    else:
        folder.mkdir(parents=True, exist_ok=True)
        write_json(path, settings)
    makers = {"parity": parity_rows, "multiplication": multiplication_rows, "prosqa": prosqa_rows}
    for split, count in (("train", study.rows), ("test", TEST_ROWS)):
        file = folder / "rows" / f"{split}.jsonl"
        if not file.is_file():
            file.parent.mkdir(exist_ok=True)
            made = makers[study.make](split, count, 0, **study.options)  # type: ignore[operator]
            write_jsonl(file, check_rows(file, made, set()))


def _scores(folder: Path, arm: str, seeds: int) -> dict[str, np.ndarray]:
    """Measure -> [S, N]."""
    records = [
        list(read_jsonl(cell_of(folder, arm, seed) / ANSWERS / PREDICTIONS))
        for seed in range(seeds)
    ]
    return {
        measure: np.array([[record["scores"][measure] for record in rows] for rows in records])
        for measure in ("exact", "answer_tokens", "latent_valid")
        if measure != "latent_valid" or ARMS[arm].has_latents
    }


def _figures(
    name: str,
    study: TaskStudy,
    scores: Mapping[str, Mapping[str, np.ndarray]],
    seeds: int,
    rows: int,
) -> TextTable:
    lines: list[list[str]] = []
    for arm, found in scores.items():
        exact_S = 100 * found["exact"].mean(axis=1)
        low, high = t_interval(exact_S) if seeds > 1 else (None, None)
        lines.append(
            [
                ARMS[arm].title,
                f"{exact_S.mean():.1f}",
                NOTHING if low is None else f"{max(low, 0):.1f}–{min(high, 100):.1f}",  # type: ignore[type-var]
                f"{exact_S.min():.1f}–{exact_S.max():.1f}",
                f"{100 * found['answer_tokens'].mean():.1f}",
                f"{100 * found['latent_valid'].mean():.1f}" if ARMS[arm].has_latents else NOTHING,
            ]
        )
    return TextTable(
        ("", "Exact %", "95% over seeds", "Least–greatest", "Answer tokens %", "Latent-Valid %"),
        lines,
        caption=f"{name}: {study.rows:,} training rows, {study.epochs} epochs for every arm, "
        f"{study.layers} layers of {study.hidden_size}, {seeds} seed(s), {rows} test questions "
        "that no training row holds, greedy free decoding.",
    )
