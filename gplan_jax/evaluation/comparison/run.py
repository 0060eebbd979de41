"""A whole comparison: check, fit what is missing, write the results directory."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gplan_jax import __version__
from gplan_jax.evaluation.comparison.added import read_added
from gplan_jax.evaluation.comparison.fits import FitNote
from gplan_jax.evaluation.comparison.jobs import all_jobs, fits_of, is_done
from gplan_jax.evaluation.comparison.layout import (
    COMPARISON,
    CURVES,
    MARKDOWN,
    PREDICTIONS,
    SUMMARY,
    TABLE,
)
from gplan_jax.evaluation.comparison.results import (
    ArmTexts,
    best_floor,
    clear_halves,
    finished_arms,
    is_floor,
    prediction_lines,
    read_arm,
    score_texts,
    scored_rows,
)
from gplan_jax.evaluation.comparison.table import markdown_text, terminal_text
from gplan_jax.evaluation.comparison.task import Task, digest
from gplan_jax.evaluation.comparison.workers import Done, Failed, Ready, run_jobs
from gplan_jax.evaluation.significance.arm_summary import summarize_arms
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.extras import require_extra
from gplan_jax.foundation.files import atomic_write, read_json, write_json, write_jsonl
from gplan_jax.foundation.progress import ProgressBar

LOCK = ".lock"
# Key of comparison.json -> the option that sets it; in one directory these never change.
_FIXED = {
    "sha256": "--data",
    "train_sha256": "--test",
    "mode": "--mode",
    "folds": "--folds",
    "seeds": "--seeds",
    "trials": "--trials",
    "library_digest": "--library",
}


@dataclass(frozen=True)
class Outcome:
    """What a comparison came to.

    Attributes:
        about: comparison.json.
        summary: summary.json, or None where no arm was finished.
        failures: the jobs that failed, with the reasons.
    """

    about: dict[str, Any]
    summary: dict[str, Any] | None
    failures: tuple[Failed, ...]


def compare(task: Task, *, added: Mapping[str, Path], workers: int, command: str = "") -> Outcome:
    """Fits what is missing in ``task.out`` and writes the results.

    Args:
        task: what is compared.
        added: arms predicted elsewhere, name -> predictions.jsonl.
        workers: processes; on an accelerator one, whatever is given.
        command: how the comparison was called, kept in comparison.json.

    Raises:
        GplanError: the directory is of another comparison, an added file does not fit, an extra is
            not installed, or the rows have fewer than two ids.
    """
    # What the statistics need, before hours of fitting.
    require_extra(["statsmodels"], "baselines", "tests and intervals between arms")
    numbers = scored_rows(task)
    if clash := sorted(set(added) & set(task.arms)):
        raise GplanError(f"--add {clash[0]}=...: an arm of this name is known; choose another.")
    extra = {
        name: [read_added(path, numbers, task.rows.scored, task.library)]
        for name, path in added.items()
    }
    with _alone_in(task.out):
        about = _open(task, command)
        hardware, failures = _fit_all(task, workers)
        return _finish(task, about, extra, hardware, failures)


def _finish(
    task: Task,
    about: dict[str, Any],
    extra: Mapping[str, list[list[str]]],
    hardware: str,
    failures: tuple[Failed, ...],
) -> Outcome:
    """Writes the results of the arms that are finished, those of earlier runs included."""
    names = [name for name in task.arms if name in about["set"]]
    finished = finished_arms(task, names)
    about |= {
        "arms": [
            *(name for name in finished if not is_floor(task, name)),
            *extra,
            *(name for name in finished if is_floor(task, name)),
        ],
        "titles": {**{name: task.arms[name].title for name in finished}, **{n: n for n in extra}},
        "floors": [name for name in finished if is_floor(task, name)],
        "added": list(extra),
        "unfinished": [name for name in names if name not in finished],
        "failures": [{**vars(f.job), "reason": f.reason} for f in failures],
        "hardware": hardware or about["hardware"],
    }
    if not about["arms"]:
        write_json(task.out / COMPARISON, about)
        return Outcome(about, None, failures)
    return Outcome(*_write(task, about, extra), failures)


@contextmanager
def _alone_in(out: Path) -> Iterator[None]:
    """Keeps a second command out of the directory; the system lets go however this one ends."""
    if out.is_file():
        raise GplanError(f"{out} is a file; name a new directory.")
    out.mkdir(parents=True, exist_ok=True)
    with (out / LOCK).open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise GplanError(f"Another gplan baseline is at work in {out}; wait for it.") from None
        yield


def _open(task: Task, command: str) -> dict[str, Any]:
    """Makes the results directory, or checks that it is of this comparison; its comparison.json."""
    path = task.out / COMPARISON
    about = {
        **task.rows.files,
        "mode": task.mode.value,
        "folds": len(task.rows.parts),
        "seeds": task.seeds,
        "trials": task.trials,
        "arms": list(task.names),
        "titles": {},
        "library": task.library.name,
        "library_digest": digest(task.library.model_dump(mode="json")),
        "set": {name: dict(task.overrides.get(name, {})) for name in task.names},
        "declared": {name: _declared(task, name) for name in task.names},
        "rows_without_plan": len(task.rows.without_plan),
        "rows_not_learnt": len(task.rows.not_learnt),
        "unfinished": list(task.names),
        "hardware": "",
        "version": __version__,
        "command": command,
    }
    if path.exists():
        before = read_json(path)
        _check_same(before, about, task.out)
        for key in ("set", "declared"):
            about[key] = {**before.get(key, {}), **about[key]}
        about["hardware"] = before["hardware"]
        clear_halves(task.out)
    elif any(entry.name != LOCK for entry in task.out.iterdir()):
        raise GplanError(
            f"{task.out} holds something else than a comparison; name a new directory."
        )
    write_json(path, about)
    return about


def _declared(task: Task, name: str) -> str:
    """A digest of an arm's defaults and trials, by which a fit of another release is told."""
    arm = task.arms[name]
    return digest({"defaults": arm.settings().model_dump(mode="json"), "trials": arm.trials})


def _check_same(before: Mapping[str, Any], now: Mapping[str, Any], out: Path) -> None:
    """Refuses a directory that was made with other data or options, naming each difference."""
    old, new = (
        {
            **about,
            "sha256": about["data"]["sha256"],
            "train_sha256": about.get("train_data", {}).get("sha256"),
        }
        for about in (before, now)
    )
    odd = []
    for key, option in _FIXED.items():
        if old[key] != new[key]:
            shown = key in ("mode", "folds", "seeds", "trials")
            odd.append(f"{option} {old[key]} (now {new[key]})" if shown else f"another {option}")
    for name in sorted(set(before["set"]) & set(now["set"])):
        if before["set"][name] != now["set"][name]:
            odd.append(f"--set {before['set'][name]} of {name} (now {now['set'][name]})")
        if before.get("declared", {}).get(name) != now["declared"][name]:
            odd.append(f"other defaults or trials of {name}")
    if odd:
        raise GplanError(
            f"{out} is of another comparison: it was made with {', '.join(odd)}. Name a new --out, "
            "or give the options it was made with."
        )


def _fit_all(task: Task, workers: int) -> tuple[str, tuple[Failed, ...]]:
    """Does all jobs that are not done; the hardware they ran on and the failures."""
    jobs = all_jobs(task)
    pending = [job for job in jobs if not is_done(task.out, job)]
    total = sum(fits_of(task, job) for job in jobs)
    done = total - sum(fits_of(task, job) for job in pending)
    if not pending:
        return "", ()
    hardware, failures = "", []
    best: dict[str, float] = {}
    with ProgressBar("Fits", total, start=done) as bar:
        for event in run_jobs(task, pending, workers):
            match event:
                case Ready():
                    hardware = f"{event.backend} ({event.device})"
                case FitNote():
                    if event.acc1 is not None and not task.is_floor(event.job.arm):
                        best[event.job.arm] = max(best.get(event.job.arm, 0.0), event.acc1)
                    bar.advance(_note(event, best))
                case Failed():
                    failures.append(event)
                case Done():
                    pass
    return hardware, tuple(failures)


def _note(event: FitNote, best: Mapping[str, float]) -> str:
    job = event.job
    what = f"seed {job.seed}" if event.trial is None else f"trial {event.trial + 1}"
    note = f"{job.arm}, fold {job.fold + 1}, {what}"
    if best:
        top = max(best, key=lambda name: best[name])
        note += f"; best on validation rows: {top} {100 * best[top]:.1f}"
    return note


def _write(
    task: Task, about: dict[str, Any], extra: Mapping[str, list[list[str]]]
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Writes predictions, curves, summary and tables; returns what the tables are made of."""
    read = {name: read_arm(task, name) for name in about["arms"] if name not in extra}
    arms = {
        name: ArmTexts(extra[name], extra[name]) if name in extra else read[name][0]
        for name in about["arms"]
    }
    about["costs"] = {
        name: {"parameters": texts.parameters, "seconds": texts.seconds}
        for name, (texts, _) in read.items()
    }
    scores, beside = score_texts(task, arms)
    ids = [task.rows.scored[row].id for row in scored_rows(task)]
    reference = best_floor(task, scores)
    summary = {**summarize_arms(scores, ids, reference=reference).model_dump(), "beside": beside}
    write_jsonl(task.out / PREDICTIONS, prediction_lines(task, arms))
    write_json(task.out / CURVES, {name: curve for name, (_, curve) in read.items() if curve})
    write_json(task.out / SUMMARY, summary)
    for name, text in (
        (TABLE, terminal_text(about, summary)),
        (MARKDOWN, markdown_text(about, summary)),
    ):
        with atomic_write(task.out / name) as temporary:
            temporary.write_text(text, encoding="utf-8")
    write_json(task.out / COMPARISON, about)
    return about, summary
