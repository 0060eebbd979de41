"""Several models on the same pairs: resumed, refused, drawn, by planners told their answers."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.evaluation.scores.offline import METRICS, PREDICTIONS
from gplan_jax.evaluation.sensitivity import model_comparison as sensitivity_run
from gplan_jax.evaluation.sensitivity.measures import PAIRS
from gplan_jax.evaluation.sensitivity.model_comparison import (
    CURVES,
    IDENTITY,
    RESULTS,
    TABLES,
    compare_sensitivity,
)
from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import read_json, write_json
from gplan_jax.gsisr import (
    ContextPair,
    IntentLibrary,
    PromptTemplate,
    Provenance,
    Sample,
    canonical_plan,
    write_context_pairs,
)
from gplan_jax.reasoning import GSISR_LATENTS

DAY, EVENING = (
    canonical_plan([{"工具名称": f"tool_{n}"} for n in t]) for t in ((6, 8, 9), (9, 6, 8))
)
THOUGHT = (
    "<THOUGHT><CONTEXT>a</CONTEXT><STRATEGY>b</STRATEGY>"
    "<STEP_1>c</STEP_1><STEP_2>d</STEP_2><STEP_3>e</STEP_3></THOUGHT>"
)


class TellingPlanner:
    """Follows the clock, or, where its directory is called "blind", always plans the day."""

    class encoder:
        latents = GSISR_LATENTS

    task = SimpleNamespace(has_latents=True)
    asked: list[tuple[str, int]]
    options: dict[str, Any]

    def __init__(self, name: str) -> None:
        self.name = name

    @classmethod
    def load(cls, model: Path, **options: Any) -> TellingPlanner:
        cls.options = options
        return cls(Path(model).name)

    def generate(self, samples: Sequence[Sample]) -> list[str]:
        self.asked.append((self.name, len(samples)))
        late = [self.name != "blind" and "22:30" in sample.currenttime for sample in samples]
        return [EVENING if is_late else DAY for is_late in late]


@pytest.fixture(autouse=True)
def planner(monkeypatch: pytest.MonkeyPatch) -> type[TellingPlanner]:
    monkeypatch.setattr(sensitivity_run, "Planner", TellingPlanner)
    TellingPlanner.asked = []
    return TellingPlanner


def make_pair(user: str, evening: str) -> ContextPair:
    known = {"id": user, "currenttime": "2026-03-04 10:30:00", "raw_labels": THOUGHT + DAY}
    anchor = Sample.from_context({**known, "holidayflag": "0", "weekendflag": "0"})
    later = dataclasses.replace(
        anchor, currenttime="2026-03-04 22:30:00", raw_labels=THOUGHT + evening
    )
    origin = Provenance(user, 1, "hours_later", ("currenttime",), "rules", "passed")
    return ContextPair(user, anchor, later, origin)


@pytest.fixture
def files(tmp_path: Path) -> dict[str, Any]:
    """Arguments of a call: two models, three pairs that differ, one that doesn't."""
    for name in ("blind", "sighted"):
        GsisrTask(PromptTemplate.load("compact_zh"), IntentLibrary.load()).save(tmp_path / name)
        (tmp_path / name / "weights").write_text(name, encoding="utf-8")
    write_context_pairs(tmp_path / "pairs.jsonl", [make_pair(f"u{n}", EVENING) for n in range(3)])
    write_context_pairs(tmp_path / "same.jsonl", [make_pair("v", DAY)])
    return {
        "models": {"picd": tmp_path / "blind", "scdpo": tmp_path / "sighted"},
        "pairs": tmp_path / "pairs.jsonl",
        "out": tmp_path / "out",
        "unchanged": tmp_path / "same.jsonl",
    }


def means(metrics: dict[str, Any]) -> dict[str, float]:
    return {measure: figure["mean"] for measure, figure in metrics["figures"].items()}


def test_models_stand_side_by_side_with_their_files(files: dict[str, Any]) -> None:
    metrics = compare_sensitivity(**files)
    assert list(metrics) == ["picd", "scdpo"]
    assert means(metrics["picd"]) == {
        "changed": 0,
        "right_context": 0.5,
        "exact_own": 0.5,
        "exact_other": 0.5,
        "stayed": 1,
    }
    assert means(metrics["scdpo"]) == {
        "changed": 1,
        "right_context": 1,
        "exact_own": 1,
        "exact_other": 0,
        "stayed": 0,  # an evening plan where the teacher keeps the day's
    }
    assert TellingPlanner.asked == [("blind", 8), ("sighted", 8)]
    for name in ("picd", "scdpo"):
        assert {p.name for p in (files["out"] / name).iterdir()} == {PREDICTIONS, PAIRS, METRICS}
    assert read_json(files["out"] / RESULTS) == metrics
    gained = metrics["scdpo"]["difference"]
    assert gained["from"] == "picd"
    assert gained["figures"]["right_context"] == {"mean": 0.5, "interval": [0.5, 0.5], "count": 3}
    assert "difference" not in metrics["picd"]
    table = (files["out"] / TABLES).read_text(encoding="utf-8")
    assert all(
        word in table for word in ("picd", "scdpo", "hours_later", "3 + 1", "Difference from")
    )
    run = read_json(files["out"] / "scdpo" / METRICS)["run"]
    assert run["model"] == str(files["models"]["scdpo"])
    assert run["identity"].keys() == IDENTITY.keys()
    assert run["seconds_of_decoding"] >= 0
    assert "jax" in run


def test_a_model_that_stands_is_not_planned_again(files: dict[str, Any]) -> None:
    one = {**files, "models": {"picd": files["models"]["picd"]}}
    first = compare_sensitivity(**one)
    before = (files["out"] / "picd" / METRICS).read_bytes()
    TellingPlanner.asked.clear()
    both = compare_sensitivity(**files, batch_size=3)
    assert TellingPlanner.asked == [("sighted", 8)]
    assert both["picd"] == first["picd"]
    assert "difference" not in first["picd"]
    assert (files["out"] / "picd" / METRICS).read_bytes() == before
    TellingPlanner.asked.clear()
    assert compare_sensitivity(**files) == both
    assert TellingPlanner.asked == []


def test_an_interrupted_call_goes_on_with_the_model_it_had_not_finished(
    files: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: TellingPlanner, samples: Sequence[Sample]) -> list[str]:
        if self.name == "sighted":
            raise KeyboardInterrupt
        return [DAY] * len(samples)

    with monkeypatch.context() as patch:
        patch.setattr(TellingPlanner, "generate", killed)
        with pytest.raises(KeyboardInterrupt):
            compare_sensitivity(**files)
    assert [p.name for p in files["out"].iterdir()] == ["picd"]
    assert list(compare_sensitivity(**files)) == ["picd", "scdpo"]
    assert TellingPlanner.asked == [("sighted", 8)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ("weights", "another model"),
        ("pairs", "another file of pairs"),
        ("unchanged", "another file of pairs with equal plans"),
        ("limit", "another --limit"),
        ("max_new_tokens", "another --max-new-tokens"),
    ],
)
def test_a_folder_made_from_something_else_is_refused(
    change: str, words: str, files: dict[str, Any]
) -> None:
    compare_sensitivity(**files)
    TellingPlanner.asked.clear()
    if change == "weights":
        (files["models"]["scdpo"] / "weights").write_text("trained on", encoding="utf-8")
    elif change == "pairs":
        write_context_pairs(files["pairs"], [make_pair("u0", EVENING)])
    else:
        files = {**files, change: {"limit": 2, "max_new_tokens": 99}.get(change)}
    with pytest.raises(GplanError, match=rf"was made from {words}.*another --out") as error:
        compare_sensitivity(**files)
    assert str(files["out"]) in str(error.value)
    assert TellingPlanner.asked == []


@pytest.mark.parametrize("metrics", [{"rows": 3}, {"run": {}}, []])
def test_the_result_of_another_command_is_refused(metrics: Any, files: dict[str, Any]) -> None:
    write_json(files["out"] / "picd" / METRICS, metrics)
    with pytest.raises(GplanError, match="is not of gplan sensitivity"):
        compare_sensitivity(**files)
    (files["out"] / "picd" / METRICS).rename(files["out"] / "picd" / "notes.txt")
    with pytest.raises(GplanError, match="never overwritten"):
        compare_sensitivity(**files)


def test_limit_takes_the_first_pairs_of_each_file(files: dict[str, Any]) -> None:
    metrics = compare_sensitivity(**files, limit=2)["picd"]
    assert metrics["pairs"] == {"differ": 2, "equal": 1}
    assert TellingPlanner.asked[0] == ("blind", 6)
    assert TellingPlanner.options == {"batch_size": 16, "max_new_tokens": None}


def test_without_unchanged_pairs_that_figure_is_left_out(files: dict[str, Any]) -> None:
    metrics = compare_sensitivity(**{**files, "unchanged": None})
    assert "stayed" not in metrics["picd"]["figures"]


def write_log(path: Path, **values: float) -> Path:
    lines = [json.dumps({"kind": "step", "step": n, **values}) + "\n" for n in (1, 2)]
    path.write_text("".join(lines), encoding="utf-8")
    return path


def test_logs_become_a_picture(files: dict[str, Any], tmp_path: Path) -> None:
    log = write_log(tmp_path / "log.jsonl", **{"rewards/margins": 0.1})
    compare_sensitivity(**files, logs={"scdpo": log})
    assert (files["out"] / CURVES).read_bytes().startswith(b"\x89PNG")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"models": {}}, "at least one model"),
        ({"models": {"a/b": Path("x")}}, "'a/b' can't name"),
        ({"models": {"..": Path("x")}}, "can't name"),
        ({"models": {RESULTS: Path("x")}}, "can't name"),
        ({"models": {"picd": Path("nowhere")}}, "nowhere is not a model directory"),
        ({"logs": {"sdcpo": Path("x")}}, "no model sdcpo .* are picd, scdpo"),
        ({"logs": {"scdpo": Path("nowhere.jsonl")}}, "nowhere.jsonl does not exist"),
        ({"pairs": Path("nowhere.jsonl")}, "nowhere.jsonl does not exist"),
        ({"unchanged": Path("nowhere.jsonl")}, "nowhere.jsonl does not exist"),
    ],
)
def test_what_cannot_be_measured_is_named_before_a_model_starts(
    change: dict[str, Any], words: str, files: dict[str, Any]
) -> None:
    with pytest.raises(GplanError, match=words):
        compare_sensitivity(**{**files, **change})
    assert TellingPlanner.asked == []
    assert not files["out"].exists()


def test_a_log_without_preference_figures_is_named(files: dict[str, Any], tmp_path: Path) -> None:
    log = write_log(tmp_path / "picd.jsonl", loss=0.5)
    with pytest.raises(GplanError, match=r"picd.jsonl \(of picd\).*rewards/margins"):
        compare_sensitivity(**files, logs={"picd": log})
    assert TellingPlanner.asked == []


def test_files_given_the_wrong_way_round_or_empty_are_refused(files: dict[str, Any]) -> None:
    swapped = {**files, "pairs": files["unchanged"], "unchanged": files["pairs"]}
    with pytest.raises(RowError, match=r"same\.jsonl"):
        compare_sensitivity(**swapped)
    files["pairs"].write_text("", encoding="utf-8")
    with pytest.raises(GplanError, match=r"pairs\.jsonl"):
        compare_sensitivity(**files)
    assert TellingPlanner.asked == []


def test_a_faulty_pair_is_left_out_on_request(
    files: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    lines = files["pairs"].read_text(encoding="utf-8").splitlines()
    files["pairs"].write_text("\n".join([*lines, "{"]) + "\n", encoding="utf-8")
    with pytest.raises(RowError) as error:
        compare_sensitivity(**files)
    assert error.value.row == 7
    metrics = compare_sensitivity(**files, faulty=FaultyRows("skip"))
    assert metrics["picd"]["run"]["pairs_skipped"] == 1
    assert metrics["picd"]["pairs"]["differ"] == 3
    assert "row 7" in capsys.readouterr().err


def test_models_with_other_libraries_are_refused(files: dict[str, Any]) -> None:
    library = IntentLibrary.load()
    smaller = library.model_copy(update={"name": "another"})
    GsisrTask(PromptTemplate.load("compact_zh"), smaller).save(files["models"]["scdpo"])
    with pytest.raises(GplanError, match="picd and scdpo have different intent libraries"):
        compare_sensitivity(**files)
