"""Two real models in one `gplan serve`: users get what their arm's model says when it is alone."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path

import httpx2
import jax.numpy as jnp
import pytest

from gplan_jax.abtest.experiment import AbTest
from gplan_jax.foundation.config import load_config
from gplan_jax.gsisr import Sample
from gplan_jax.inference.engine.engine import PlanEngine
from gplan_jax.inference.engine.requests import EngineConfig, PlanRequest
from gplan_jax.models.checkpoints.model_directory import read_config, save_model_directory
from gplan_jax.serving.latency.latency_study import local_server, serve_command
from tests.inference import planners

PROMPTS = {"template": "compact_zh", "prompt_length": 128}
KEY = "GPLAN_TEST_ADMIN_KEY"


def write_model(source: Path, folder: Path, seed: int, *, broken: bool = False) -> Path:
    model = planners.random_model(source, seed)
    model.config = read_config(source)
    if broken:
        model.embedding.set_value(model.embedding.get_value() * jnp.nan)
    save_model_directory(model, folder, source_dir=source)
    return folder


def texts_alone(folder: Path, samples: Sequence[Sample]) -> list[str]:
    engine = PlanEngine.load(folder, EngineConfig(response="latent", slots=2), **PROMPTS)
    try:
        futures = [engine.submit(PlanRequest(sample)) for sample in samples]
        return [future.result(timeout=60).text for future in futures]
    finally:
        engine.close()


@pytest.mark.slow
def test_each_arm_is_answered_as_its_model_answers_alone(
    tiny_model_dir: Path,
    world_rows: list[Sample],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    config = tmp_path / "experiment.yaml"
    config.write_text("name: home\narms: {a: 0.4, b: 0.4}\ncontrol: a\n", encoding="utf-8")
    experiment = load_config(AbTest, config)
    main = write_model(tiny_model_dir, tmp_path / "main", 1)
    served = write_model(tiny_model_dir, tmp_path / "other", 2)
    broken = write_model(tiny_model_dir, tmp_path / "broken", 3, broken=True)
    third = write_model(tiny_model_dir, tmp_path / "third", 4)
    samples = world_rows[:40]
    alone = {folder.name: texts_alone(folder, samples) for folder in (main, served, third)}
    assert alone["main"] != alone["other"] != alone["third"]

    monkeypatch.setenv(KEY, "key")
    options = ["--experiment", str(config), "--arm", f"b={served}", "--admin-key-env", KEY]
    options += ["--response", "latent", "--slots", "2", "--template", "compact_zh"]
    options += ["--prompt-length", "128"]
    with (
        local_server(lambda port: serve_command(main, port, options), tmp_path / "log") as server,
        httpx2.Client(base_url=server.url, trust_env=False, timeout=120) as client,
    ):

        def check(folder: Path) -> None:
            contexts = [sample.to_dict() for sample in samples]
            for context in contexts:
                del context["raw_labels"]
            results = client.post("/v1/plans", json={"contexts": contexts}).json()["results"]
            for number, (sample, result) in enumerate(zip(samples, results, strict=True)):
                arm = experiment.assign(sample.id)
                name = folder.name if arm == "b" else "main"
                assert result["model"] == (f"{name}@b" if arm == "b" else "main")
                assert result["text"] == alone[name][number]
                assert result.get("experiment", {}).get("arm") == arm

        check(served)
        check(served)  # the same user, the same arm
        admin = {"Authorization": "Bearer key"}
        body = {"arm": "b", "model": str(broken)}
        refused = client.post("/admin/reload", json=body, headers=admin)
        assert refused.status_code == 422 and "every plan meaningless" in refused.text
        shutil.rmtree(broken)
        missing = client.post("/admin/reload", json=body, headers=admin)
        assert missing.status_code == 422 and str(broken) in missing.text
        check(served)
        body = {"arm": "b", "model": str(third)}
        assert client.post("/admin/reload", json=body, headers=admin).status_code == 200
        check(third)
        ready = client.get("/readyz").json()
        assert ready["arms"] == {"a": "main", "b": "third@b"}
    events = [json.loads(line) for line in server.log.read_text().splitlines() if line[0] == "{"]
    assert {e["model"] for e in events if e["event"] == "exposure" and e["arm"] == "b"} == {
        "other@b",
        "third@b",
    }
