"""A planner as others run it: a Hugging Face checkpoint with what GPlan reads, and its model card.

The card is written from the records of the runs that made the model; what they don't hold is said
to be unknown.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jinja2
from huggingface_hub import EvalResult
from huggingface_hub.repocard_data import eval_results_to_model_index

from gplan_jax import __version__
from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.gsisr_task import COUNTS_FILE, LIBRARY_FILE
from gplan_jax.data.tasks.task import PROMPT_FOLDER, TASK_FILE, read_task_file
from gplan_jax.evaluation.judge.judging import RESULT
from gplan_jax.evaluation.scores.offline import METRICS
from gplan_jax.foundation.config import parse_yaml, yaml_text
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import read_json, report_path, write_text
from gplan_jax.foundation.row_files import count_rows
from gplan_jax.gsisr import IntentLibrary
from gplan_jax.gsisr.service import MODEL_FOLDER
from gplan_jax.inference.grammar.guided_files import write_guided_files
from gplan_jax.models import CheckpointReport, ModelRecord, export_checkpoint, read_config
from gplan_jax.models.checkpoints.hugging_face import parameter_count
from gplan_jax.models.checkpoints.model_directory import RECORD

CARD, GUIDED = "README.md", "guided"
TEMPLATES = Path(__file__).parent / "templates"
LATENCY = "latency.json"  # of gplan bench latency


def export_planner(
    model_dir: Path, out_dir: Path, card: str, *, progress: bool = False
) -> CheckpointReport:
    """``export_checkpoint`` with prompt, library and task, plan grammars in guided/, and the card.

    ``out_dir`` appears whole or not at all, and GPlan's commands take it like the model directory.
    """

    def add(folder: Path) -> None:
        for name in (RECORD, TASK_FILE, LIBRARY_FILE, COUNTS_FILE):
            if (model_dir / name).is_file():
                shutil.copyfile(model_dir / name, folder / name)
        for name in (PROMPT_FOLDER, MODEL_FOLDER):
            if (model_dir / name).is_dir():
                shutil.copytree(model_dir / name, folder / name)
        write_text(folder / CARD, card)
        if (model_dir / LIBRARY_FILE).is_file():
            library = IntentLibrary.load(model_dir / LIBRARY_FILE)
            write_guided_files(folder / GUIDED, library, ChatEncoder.load(model_dir))

    return export_checkpoint(model_dir, out_dir, add=add, progress=progress)


def model_card(model_dir: Path, records: Sequence[Path] = (), name: str | None = None) -> str:
    """The card of a model, a README.md with the hub's header.

    Its facts are those of ``gplan.json``, of the run directories that it was trained in, of the
    reports beside their rows, and of the ``records``: what evaluate, judge and bench latency wrote.
    ``name`` is the model's id on the hub. GplanError where a record is none, or of another model.
    """
    record, config = ModelRecord.read(model_dir), read_config(model_dir)
    found: dict[str, list[Any]] = {METRICS: [], RESULT: [], LATENCY: []}
    for folder in records:
        there = [file for file in found if (folder / file).is_file()]
        if not there:
            raise GplanError(f"{folder} holds no {', '.join(found)}; name what one of them is in.")
        for file in there:
            values = read_json(folder / file)
            of = values.get("run", {}).get("model") if file == METRICS else None
            if of is not None and Path(of).resolve() != model_dir.resolve():
                raise GplanError(f"{folder / file} is of {of}, not of {model_dir}; name its own.")
            found[file].append({"folder": folder.name, **values})
    # The runs that led to it, the first first: config, rows, and their report where kept.
    stages: list[dict[str, Any]] = []
    ours = model_dir
    while len(stages) < 9 and (source := ours.parent / "config.yaml").is_file():
        values = parse_yaml(source.read_text(encoding="utf-8"), source=str(source))
        rows = Path(values["data"]["train"])
        report = report_path(rows)
        stage = {
            "run": ours.resolve().parent.name,
            "config": values,
            "file": rows.name,
            "rows": count_rows(rows) if rows.is_file() else None,
            "report": read_json(report) if report.is_file() else {},
        }
        stages.insert(0, stage)
        ours = Path(values["model"])
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES),
        undefined=jinja2.ChainableUndefined,  # What a record does not hold is unknown.
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["as_json"] = lambda text: json.dumps(text, ensure_ascii=False)
    title = (name or model_dir.resolve().parent.name).rpartition("/")[2]
    task, prompt_length, response = read_task_file(model_dir)
    return environment.get_template("model_card.md.j2").render(
        name=name or "OWNER/NAME",
        title=title,
        index=_model_index(title, found[METRICS]),
        base=record.metadata.get("base", {}),
        parameters=parameter_count(config),
        dtype=record.source_dtype,
        latents=len(record.new_tokens),
        stages=stages,
        evaluations=found[METRICS],
        judged=found[RESULT],
        latencies=found[LATENCY],
        task=task,
        prompt_length=prompt_length,
        response=response,
        version=__version__,
    )


def _model_index(title: str, evaluations: Sequence[dict[str, Any]]) -> str:
    """The scores of ``gplan evaluate`` as the hub's model-index, YAML; "" where there are none.

    An entry a metric of each evaluation, under the names of ``metrics.json``, in shares of 1.
    """
    results = []
    for one in evaluations:
        run = one.get("run", {})
        file = Path(run.get("data", {}).get("file", "rows")).name
        results += [
            EvalResult(
                task_type="text-generation",
                task_name="planning",
                dataset_type="own",  # The rows are the user's, not a data set of the hub.
                dataset_name=f"{file}, {one['rows']:,} rows",
                metric_type=metric,
                metric_name=f"{metric}, {run.get('mode', 'unknown')} decoding",
                metric_value=value,
            )
            for metric, value in one["model"].items()
        ]
    if not results:
        return ""
    return yaml_text({"model-index": eval_results_to_model_index(title, results)}).rstrip()
