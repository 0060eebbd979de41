"""Several models under the same load: what is sent, written and refused; by a plain server."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from itertools import islice
from pathlib import Path

import pytest

from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.tables import plain_text
from gplan_jax.gsisr import IntentLibrary, PromptTemplate, Sample, Service
from gplan_jax.inference.prediction.predict import mode_of
from gplan_jax.serving.latency import latency_study as load_latency
from gplan_jax.serving.latency.latency_study import (
    LoadPlan,
    compare_latency,
    contexts_needed,
    latency_view,
    local_server,
    measure_running,
    simulated_contexts,
)
from gplan_jax.serving.latency.load_generator import plan_bodies, poisson_schedule
from gplan_jax.synthesis.world.data_world import world_contexts

PLAIN_SERVER = Path(__file__).parents[1] / "plain_server.py"
PLAN = LoadPlan(qps=(20.0, 40.0), duration_s=0.5, deadline_ms=5000.0, warmup=2, timeout_s=30.0)


@pytest.fixture
def commands(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Path, list[str]]]:
    """Serves a plain server in the models' place; what `gplan serve` was to be given."""
    seen: list[tuple[Path, list[str]]] = []

    def plain(model_dir: Path, port: int, options: Sequence[str] = ()) -> list[str]:
        seen.append((model_dir, [*options]))
        status = "422" if model_dir.name == "faulty" else "200"
        return [sys.executable, "-S", str(PLAIN_SERVER), str(port), "--status", status]

    monkeypatch.setattr(load_latency, "serve_command", plain)
    return seen


def model_dir(folder: Path, response: str = "plan") -> Path:
    folder.mkdir(parents=True)
    task = GsisrTask(PromptTemplate.load("compact_zh"), IntentLibrary.load(), response=response)
    task.save(folder)
    return folder


def test_every_model_meets_every_rate_with_the_same_arrivals(
    tmp_path: Path, commands: list[tuple[Path, list[str]]], world_rows: list[Sample]
) -> None:
    models = {
        "direct": model_dir(tmp_path / "direct"),
        "cot": model_dir(tmp_path / "cot", "reasoning"),
        "picd": model_dir(tmp_path / "picd", "latent"),
    }
    out = tmp_path / "out"
    results = compare_latency(
        models, world_rows, out, PLAN, modes={"picd": "constrained"}, serve_options=["--slots", "2"]
    )
    # A model with a grammar of its own is also decoded freely, unless its mode is named.
    arms = {
        "direct": ("direct", "drafted"),
        "direct-free": ("direct", "unconstrained"),
        "cot": ("cot", "unconstrained"),
        "picd": ("picd", "constrained"),
    }
    assert list(results["models"]) == list(arms)
    for (folder, options), (name, (model, mode)) in zip(commands, arms.items(), strict=True):
        assert folder == models[model]
        assert options == ["--mode", mode, "--deadline-ms", "30000", "--slots", "2"]
        assert results["models"][name]["mode"] == mode
        for qps, summary in results["models"][name]["runs"].items():
            intended = poisson_schedule(float(qps), PLAN.duration_s, PLAN.seed)
            rows = [json.loads(x) for x in (out / name / f"qps_{qps}.jsonl").open()]
            assert [row["intended_s"] for row in rows] == pytest.approx(list(intended), abs=1e-6)
            assert summary["answered"] == summary["goodput"]["within"] == len(intended)
            assert summary["usage"]["passes"] == 6
        assert (out / name / "server.log").read_text() == "started\n"
    assert json.loads((out / "latency.json").read_text()) == json.loads(json.dumps(results))
    shown = plain_text(latency_view(results))
    assert (out / "latency.txt").read_text() == shown
    for line in ("20 QPS", "40 QPS", "picd, 40 QPS", "Server and load generator on"):
        assert line in shown


def test_more_replicas_are_arms_of_their_own(
    tmp_path: Path, commands: list[tuple[Path, list[str]]], world_rows: list[Sample]
) -> None:
    models = {"direct": model_dir(tmp_path / "direct")}
    plan = LoadPlan(qps=(20.0,), duration_s=0.2, warmup=1, timeout_s=30.0)
    results = compare_latency(models, world_rows, tmp_path / "out", plan, replicas=(1, 2))
    assert {name: (arm["mode"], arm["replicas"]) for name, arm in results["models"].items()} == {
        "direct": ("drafted", 1),
        "direct-free": ("unconstrained", 1),
        "direct-x2": ("drafted", 2),
        "direct-free-x2": ("unconstrained", 2),
    }
    assert [options[4:] for _, options in commands] == [[], [], *[["--replicas", "2"]] * 2]
    assert "direct-free-x2" in (tmp_path / "out" / "latency.txt").read_text()


def test_a_running_server_is_measured_and_left_alone(
    tmp_path: Path, world_rows: list[Sample]
) -> None:
    def command(port: int) -> list[str]:
        return [sys.executable, "-S", str(PLAIN_SERVER), str(port)]

    with local_server(command, tmp_path / "log") as server:
        results = measure_running(server.url, world_rows, tmp_path / "out", PLAN)
        assert server.process.poll() is None
    assert results["models"]["server"]["url"] == server.url
    assert not any(run["errors"] for run in results["models"]["server"]["runs"].values())


def test_a_server_that_refuses_the_contexts_ends_the_measurement(
    tmp_path: Path, commands: list[tuple[Path, list[str]]], world_rows: list[Sample]
) -> None:
    models = {"faulty": model_dir(tmp_path / "faulty")}
    with pytest.raises(GplanError, match=r"did not answer .*422: .*currenttime is empty"):
        compare_latency(models, world_rows, tmp_path / "out", PLAN)


def test_nothing_starts_where_the_input_is_wrong(
    tmp_path: Path, commands: list[tuple[Path, list[str]]], world_rows: list[Sample]
) -> None:
    good = model_dir(tmp_path / "good")
    wrong = [
        ({"a/b": good}, {}, "can't name a model's folder"),
        ({"a": good, "a-free": good}, {}, "'a-free' can't name a model's folder"),
        ({"a": good}, {"b": "drafted"}, "--mode names b; the models are a"),
        ({"a": good, "b": tmp_path / "absent"}, {}, "absent is not a model directory"),
    ]
    for models, modes, message in wrong:
        with pytest.raises(GplanError, match=message):
            compare_latency(models, world_rows, tmp_path / "out", PLAN, modes=modes)  # type: ignore[arg-type]
    with pytest.raises(GplanError, match="never overwritten"):
        compare_latency({"a": good}, world_rows, good, PLAN)
    assert commands == []


def test_only_written_reasoning_decodes_without_the_grammar(tmp_path: Path) -> None:
    forms = {"plan": "drafted", "latent": "drafted", "reasoning": "unconstrained"}
    for response, mode in forms.items():
        assert mode_of(GsisrTask.load(model_dir(tmp_path / response, response))) == mode


def test_contexts_are_enough_that_none_comes_twice() -> None:
    samples = simulated_contexts(PLAN, IntentLibrary.load())
    assert len(samples) == contexts_needed(PLAN) == 2 + 10 + 20
    assert len({tuple(sample.to_dict().values()) for sample in samples}) == len(samples)
    assert len(simulated_contexts(PLAN, IntentLibrary.load(), most=5)) == 5


@pytest.mark.parametrize("name", ["amap", "city_guide"])
def test_contexts_are_of_other_users_of_the_service(name: str) -> None:
    library = Service.load(name).library
    samples = simulated_contexts(PLAN, library)
    columns = set(library.form.columns) - {library.form.label}
    bodies = [json.loads(body) for body in plan_bodies(samples)]
    assert len(bodies) == contexts_needed(PLAN)
    assert all(set(body["context"]) == columns for body in bodies)
    known = [row.context() for row in islice(world_contexts(library, PLAN.seed), len(samples))]
    assert not [body for body in bodies if body["context"] in known]
