"""Two planners' answers to the same rows: what differs, by how much, what these rows can show.

A side is a model directory, which plans the rows first; or answers that are there already: what
`evaluate` or `predict` wrote, or a predictions.jsonl.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Group, RenderableType
from rich.text import Text

from gplan_jax.data.tasks.gsisr_task import LIBRARY_FILE, GsisrTask
from gplan_jax.data.tasks.registry import load_task
from gplan_jax.evaluation.scores.intervals import POWER, holm
from gplan_jax.evaluation.scores.model_evaluation import evaluate_model
from gplan_jax.evaluation.scores.offline import METRICS, PREDICTIONS, score_text
from gplan_jax.evaluation.scores.score_tables import HEADINGS, figure
from gplan_jax.evaluation.significance.arm_summary import summarize_arms
from gplan_jax.foundation import files
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import parse_json
from gplan_jax.foundation.row_files import import_parquet
from gplan_jax.foundation.tables import NOTHING, Cell, TextTable
from gplan_jax.gsisr import IntentLibrary, Service, parse_plan, read_numbered_samples
from gplan_jax.gsisr.service import MEND as SERVICE_MEND
from gplan_jax.gsisr.service import of_data, shipped
from gplan_jax.inference.prediction.predict import MANIFEST, Manifest
from gplan_jax.models.checkpoints.model_directory import RECORD

COMPARISON, DIFFERING = "comparison.json", "differing_rows.jsonl"
SIDES = ("A", "B")
SHOWN_ROWS = 3
SIGNED = ("difference", "low", "high")
MEND = 'Each row has the texts "id" and "text", a labelled one "label".'
# What a side's record says it was made from -> how a refusal calls it.
SAME = {
    "task": "are of different tasks",
    "library": "are of different services",
    "prompts": "have different prompt templates or intent libraries",
    "data": "are of different data files",
}


@dataclass(frozen=True)
class Side:
    """One planner's answers."""

    path: Path
    made_from: Mapping[str, Any]  # by the keys of SAME; None where nobody knows
    # A row's number in its file, from 1 -> {"id", "text", "label", "plan", "scores"}
    rows: Mapping[int, Mapping[str, Any]]


def compare_planners(
    first: Path,
    second: Path,
    *,
    data: Path | None = None,
    out: Path | None = None,
    service: str | None = None,
    **planner_options: Any,
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Differences B - A of every measure, paired by row, with intervals over ids; and the rows
    whose plans differ.

    Intervals, tests and what the rows can show are those of ``summarize_arms``; p is corrected over
    the measures by Holm's method, and a difference holds where p is below 0.05 then and its
    interval excludes 0. Models plan the rows of ``data`` with ``planner_options`` (those of
    ``evaluate_model``); answers of `predict` take their labels from it. With ``out`` everything is
    written there: the answers of models in OUT/A and OUT/B, the figures, the differing rows.

    Raises:
        GplanError: a side is missing or broken; the sides answer other rows, or are of different
            tasks, prompts, libraries or data; the message names the first row that differs.
    """
    paths = dict(zip(SIDES, (first, second), strict=True))
    models = {name: path for name, path in paths.items() if (path / RECORD).is_file()}
    tasks = {}
    for name, path in models.items():
        if data is None:
            raise GplanError(f"{path} is a model: name the rows that it shall plan, --data FILE.")
        task = load_task(path, **({"service": service} if service else {}))
        asked = files.json_digest(task.prompt_sources)
        library = task.library.name if isinstance(task, GsisrTask) else None
        tasks[name] = Side(path, {"task": task.name, "prompts": asked, "library": library}, {})
    if len(tasks) == len(SIDES):  # Before the first of them spends time.
        _check_alike(*tasks.values())
    labels: dict[int, str] = {}
    known = _library_of(service, (*paths.values(), data))
    if data is not None and len(models) < len(SIDES):
        form = known.rows if known else None
        rows = read_numbered_samples(data, form=form, faulty=FaultyRows("skip"))
        labels = {number: sample.raw_labels for number, sample in rows}
    with ExitStack() as stack:
        if out is None:
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        else:
            folder = stack.enter_context(files.atomic_directory(out))
        sides = []
        for name, path in paths.items():
            if name in models:
                assert data is not None
                evaluate_model(path, data, folder / name, service=service, **planner_options)
            sides.append(
                _read_side(path, folder / name if name in models else path, labels, service, known)
            )
        digest = data and files.file_digest(data)
        for side in sides:
            if data and side.made_from.get("data") not in (None, digest):
                raise GplanError(f"{side.path} was made from another file than {data} is now.")
        result, differing = _differences(*sides)
        if out is not None:
            files.write_json(folder / COMPARISON, result)
            files.write_jsonl(folder / DIFFERING, differing)
    return result, differing


def _library_of(service: str | None, paths: Sequence[Path | None]) -> IntentLibrary | None:
    """The library that is named, or that a model, answers or data record; None where nothing tells,
    as for other tasks.
    """
    if service is not None:
        return Service.load(service).library
    for path in filter(None, paths):
        if (path / LIBRARY_FILE).is_file():
            return IntentLibrary.load(path / LIBRARY_FILE)
        if found := of_data(path / PREDICTIONS if path.is_dir() else path):
            return found[0].library
        about = (path if path.is_dir() else path.parent) / METRICS
        name = files.read_json(about).get("run", {}).get("library") if about.is_file() else None
        if name in shipped():  # As older answers say it.
            return Service.load(name).library
    return None


def _read_side(
    path: Path,
    at: Path,
    labels: Mapping[int, str],
    service: str | None,
    known: IntentLibrary | None,
) -> Side:
    """The answers in the file or directory ``at``, under the name ``path``.

    Scores that `evaluate` wrote are taken as they are unless a service is named. Without labels
    there are only those that need none.
    """
    made_from: dict[str, Any] = {}
    rows: dict[int, dict[str, Any]] = {}
    known = known or _library_of(None, (at,))
    if (at / MANIFEST).is_file():
        manifest = Manifest.read(at)
        if manifest.parts is None:
            raise GplanError(f"{path} is not finished; run its command again, it goes on.")
        made_from, parts = manifest.run, [at / part.file for part in manifest.parts]
    else:
        parts = [at / PREDICTIONS if at.is_dir() else at]
        if not parts[0].is_file():
            raise GplanError(
                f"{path} holds no answers: name a model directory, a directory that gplan evaluate "
                "or gplan predict wrote, or a predictions.jsonl."
            )
        if (about := parts[0].parent / METRICS).is_file():
            run = files.read_json(about).get("run", {})
            made_from = {**run, "data": run.get("data", {}).get("sha256")}
    for number, row in enumerate((row for part in parts for row in _records(part)), start=1):
        number, label = row.get("row", number), row.get("label") or labels.get(number)
        if row.get("rank", 1) > 1:
            continue
        scores = row.get("scores") if service is None else None
        if scores is None and label:
            if known is None:
                raise GplanError(f"It is not known which service {path} is of. {SERVICE_MEND}")
            if not parse_plan(label, known):
                raise GplanError(f"Row {number} (id {row['id']}) of {path}: its label has no plan.")
            scores = score_text(row["text"], label, known).values
            if "latent_valid" in row:  # What predict has judged by the model's own latents.
                scores["latent_valid"] = row["latent_valid"]
        elif scores is None:
            scores = {"filter_pass": row.get("passed"), "latent_valid": row.get("latent_valid")}
        scores = {name: float(value) for name, value in scores.items() if value is not None}
        if "plan" in row:
            plan = row["plan"]
        else:
            plan = (parse_plan(row["text"], known) if known else []) or row["text"]
        kept = {"id": row["id"], "text": row["text"], "label": label}
        rows[number] = {**kept, "plan": plan, "scores": scores}
    return Side(path, made_from, rows)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    if path.suffix != ".parquet":
        yield from (row for _, row in files.read_records(path, ("id", "text"), MEND))
        return
    for row in import_parquet().read_table(path).to_pylist():
        yield {**row, "plan": parse_json(row["plan"])} if "plan" in row else row


def _check_alike(first: Side, second: Side) -> None:
    for key, words in SAME.items():
        one, other = first.made_from.get(key), second.made_from.get(key)
        if None not in (one, other) and one != other:
            raise GplanError(
                f"{first.path} and {second.path} {words}, so a difference would not be the "
                "planners'; compare planners that were asked the same."
            )
    for one, other in ((first, second), (second, first)):
        if missing := one.rows.keys() - other.rows.keys():
            number = min(missing)
            raise GplanError(
                f"{one.path} answers row {number} (id {one.rows[number]['id']}) and {other.path} "
                f"does not: they hold {len(one.rows)} and {len(other.rows)} rows. Compare answers "
                "to the same rows."
            )
    for number, row in first.rows.items():
        found = second.rows[number]
        labels = {row["label"], found["label"]} - {None}
        if row["id"] != found["id"] or len(labels) > 1:
            what = "other labels" if row["id"] == found["id"] else f"id {row['id']}, {found['id']}"
            raise GplanError(
                f"Row {number} of {first.path} and {second.path} has {what}: they are of different "
                "files. Compare answers to the same rows."
            )


def _differences(first: Side, second: Side) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    _check_alike(first, second)
    numbers = sorted(first.rows)
    pairs = [(first.rows[number], second.rows[number]) for number in numbers]
    measures = [m for m in HEADINGS if all(m in row["scores"] for pair in pairs for row in pair)]
    if not measures:
        raise GplanError(f"{first.path} and {second.path} have no figure in common; name --data.")
    arms = {
        name: {m: np.array([[pair[side]["scores"][m] for pair in pairs]]) for m in measures}
        for side, name in enumerate(SIDES)
    }
    ids = [one["id"] for one, _ in pairs]
    summary = summarize_arms(arms, ids, reference=SIDES[0], measures=measures)
    corrected = holm(np.array([found.p for found in summary.comparisons])).tolist()
    figures = {}
    for found, p_holm in zip(summary.comparisons, corrected, strict=True):
        gap_N = (arms["B"][found.measure] - arms["A"][found.measure])[0]
        figures[found.measure] = {
            **{name: summary.arms[name][found.measure].mean for name in SIDES},
            **found.model_dump(include={"difference", "low", "high", "p", "method"}),
            "p_holm": p_holm,
            "holds": p_holm < summary.alpha and (found.low > 0 or found.high < 0),
            # Rows that never differ have no spread, which says nothing of what they could show.
            "detectable": found.detectable or None,
            "rows_better": int((gap_N > 0).sum()),
            "rows_worse": int((gap_N < 0).sum()),
        }
    answer = ("text", "plan", "scores")
    differing = [
        {"row": number, "id": one["id"], "label": one["label"] or other["label"]}
        | {name: {k: row[k] for k in answer} for name, row in zip(SIDES, (one, other), strict=True)}
        for number, (one, other) in zip(numbers, pairs, strict=True)
        if one["plan"] != other["plan"]
    ]
    result = {
        **{name: str(side.path) for name, side in zip(SIDES, (first, second), strict=True)},
        "rows": summary.rows,
        "ids": summary.ids,
        "labelled": all(one["label"] or other["label"] for one, other in pairs),
        "measures": figures,
        "rows_that_differ": len(differing),
        "method": summary.method,
    }
    return result, differing


def pair_view(result: Mapping[str, Any], differing: Sequence[Mapping[str, Any]]) -> RenderableType:
    """The differences as a table of 80 columns, what they say, and the first rows that differ."""
    rows: list[Sequence[Cell]] = []
    higher: dict[str, list[str]] = {"A": [], "B": []}
    for measure, found in result["measures"].items():
        heading = HEADINGS[measure]
        name = heading.replace("-\n", "-").replace("\n", " ")
        if found["holds"]:
            higher["B" if found["difference"] > 0 else "A"].append(name.removesuffix(" %"))
        cells = {
            key: ("+" if key in SIGNED and found[key] > 0 else "") + figure(heading, found[key])
            for key in (*SIDES, *SIGNED, "detectable")
            if found[key] is not None
        }
        means = (
            cells["A"],
            cells["B"],
            Text(cells["difference"], "bold" if found["holds"] else ""),
        )
        shows = cells.get("detectable", NOTHING)
        counts = f"{found['rows_better']}/{found['rows_worse']}"
        interval = f"[{cells['low']}, {cells['high']}]"
        rows.append([name, *means, interval, f"{found['p_holm']:.3f}", shows, counts])
    verdict = "; ".join(f"{side} is higher in {', '.join(m)}" for side, m in higher.items() if m)
    caption = (
        f"{result['rows']} rows of {result['ids']} ids. 95% intervals, paired by row, over ids; p "
        "is corrected over the measures (Holm). Shows: the least true difference that these rows "
        f"show with a power of {POWER:.0%}. Rows: how many B is better / worse in."
    )
    if not result["labelled"]:
        caption += " No labels are known here; --data FILE brings them, and the figures they give."
    headings = ("", "A", "B", "B - A", "95% of B - A", "p", "Shows", "Rows")
    parts: list[RenderableType] = [
        *(Text(f"{side}  {result[side]}") for side in SIDES),
        TextTable(headings, rows, caption=caption, plain=True).rich(),
        Text(f"{verdict or 'These rows show no difference'}."),
        Text(f"The plans differ in {result['rows_that_differ']} of {result['rows']} rows."),
    ]
    for row in differing[:SHOWN_ROWS]:
        parts.append(Text(f"row {row['row']}, id {row['id']}", style="bold"))
        parts += [Text(f"  {side}  {_short(row[side]['plan'])}") for side in SIDES]
    return Group(*parts)


def _short(plan: Any) -> str:
    if not isinstance(plan, list):
        return str(plan)
    intents = []
    for intent in plan:
        tool, *values = intent.values()
        intents.append(f"{tool}({', '.join(values)})" if values else tool)
    return " > ".join(intents) or "no plan"
