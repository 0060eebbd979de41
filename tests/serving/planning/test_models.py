"""Another model takes over while the server answers: no request is lost, and none is mixed."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apps import client_of, make_app, wait_until
from fake_engine import FakeEngine
from fastapi import FastAPI
from pydantic import SecretStr

from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, Sample
from gplan_jax.inference.engine.requests import NotFinite, PlanRequest
from gplan_jax.reasoning import GSISR_LATENTS
from gplan_jax.serving.planning.models import LateEngine, LoadedModel, Reloader

KEY = {"Authorization": "Bearer admin"}
BODY = {"context": {"trigger_1": "加油"}}


def plan_of(name: str) -> str:
    """A plan that tells which model made it."""
    return json.dumps([{"工具名称": f"tool_{int(name) % 10 + 1}"}, {"工具名称": "tool_9"}])


def answers(name: str) -> Callable[[PlanRequest], str]:
    return lambda request: plan_of(name)


class Shop:
    """A server whose models are FakeEngines; ``load`` makes one that is called like its folder."""

    def __init__(self, examples: list[Sample], delay_s: float = 0.002) -> None:
        self.engines: list[FakeEngine] = []
        self.delay_s = delay_s
        late = LateEngine(lambda: self.load(Path("0")), lambda loaded: None)
        self.app: FastAPI = make_app(late, admin_key=SecretStr("admin"))  # type: ignore[arg-type]
        models = self.app.state.models
        late._on_loaded = models.take_over
        self.reloader = Reloader(self.load, Path("0"), late, models, examples, drain_s=5.0)
        self.app.state.reload = self.reloader.reload
        late.start(on_failure=lambda: None)
        wait_until(lambda: late.snapshot().ready and not late.loading)
        self.late = late

    def load(self, path: Path) -> LoadedModel:
        if path.name == "missing":
            raise GplanError("missing is not a model directory")
        engine = FakeEngine(delay_s=self.delay_s, respond=answers(path.name), queue=200)
        self.engines.append(engine)
        return LoadedModel(path.name, f"r{path.name}", engine, IntentLibrary.load(), GSISR_LATENTS)


@pytest.fixture
def shop(world_rows: list[Sample]) -> Shop:
    return Shop(world_rows[:3])


def closed(engine: FakeEngine) -> bool:
    return not engine._thread.is_alive()


def test_fifty_models_take_over_and_no_request_is_lost_or_mixed(shop: Shop) -> None:
    async def run() -> list[Any]:
        found, ended = list[Any](), asyncio.Event()

        async def traffic(client: Any) -> None:
            while not ended.is_set():
                found.append(await client.post("/v1/plan", json=BODY))

        async with client_of(shop.app) as client:
            tasks = [asyncio.create_task(traffic(client)) for _ in range(4)]
            for number in range(1, 51):
                answer = await client.post(
                    "/admin/reload", json={"model": f"{number}"}, headers=KEY
                )
                assert answer.status_code == 200, answer.text
                assert answer.json() | {"seconds": 0} == {
                    "model": f"{number}", "revision": f"r{number}", "seconds": 0, "examples": 3,
                }  # fmt: skip
                served = await client.get("/v1/models")
                assert served.json()["data"][0]["id"] == f"{number}"
            ended.set()
            await asyncio.gather(*tasks)
            metrics = (await client.get("/metrics")).text
            assert 'gplan_model_info{model="50",revision="r50"} 1.0' in metrics
        return found

    found = asyncio.run(run())
    assert len(found) > 50 and {answer.status_code for answer in found} == {200}
    for answer in found:
        assert answer.json()["text"] == plan_of(answer.json()["model"])
    assert [closed(engine) for engine in shop.engines] == [True] * 50 + [False]


@pytest.mark.parametrize(
    ("respond", "message"),
    [
        (lambda request: "nothing", "answers example 1 with no plan: nothing"),
        (None, "has no plan for example 1: The model's logits are NaN"),
    ],
)
def test_a_model_that_fails_its_trial_changes_nothing(
    shop: Shop, respond: Callable[[PlanRequest], str] | None, message: str
) -> None:
    def not_finite(request: PlanRequest) -> str:
        raise NotFinite

    def load(path: Path) -> LoadedModel:
        loaded = shop.load(path)
        shop.engines[-1].respond = respond or not_finite
        return loaded

    shop.reloader._load = load
    with pytest.raises(GplanError, match=f"7 {message}"):
        shop.reloader.reload(Path("7"))
    assert closed(shop.engines[-1]) and not closed(shop.engines[0])
    assert shop.app.state.models.current.planning.engine is shop.engines[0]


def test_a_model_whose_answers_depend_on_its_neighbours_changes_nothing(shop: Shop) -> None:
    counted: list[PlanRequest] = []

    def load(path: Path) -> LoadedModel:
        loaded = shop.load(path)

        def respond(request: PlanRequest) -> str:
            counted.append(request)
            return plan_of("1" if len(counted) <= 3 else "2")

        shop.engines[-1].respond = respond
        return loaded

    shop.reloader._load = load
    with pytest.raises(GplanError, match="7 answers example 1 differently beside others"):
        shop.reloader.reload(Path("7"))
    assert shop.app.state.models.current.planning.engine is shop.engines[0]


def ask(app: FastAPI, body: Any, headers: dict[str, str]) -> Any:
    async def run() -> Any:
        async with client_of(app) as client:
            return await client.post("/admin/reload", json=body, headers=headers)

    return asyncio.run(run())


def test_what_is_wrong_is_said_and_the_server_goes_on(shop: Shop) -> None:
    missing = ask(shop.app, {"model": "missing"}, KEY)
    assert missing.status_code == 422
    assert missing.json()["error"] == {
        "code": "bad_model", "message": "missing is not a model directory", "column": "model",
    }  # fmt: skip
    assert ask(shop.app, {"modle": "x"}, KEY).status_code == 422
    assert ask(shop.app, {}, {}).status_code == 401
    assert ask(shop.app, {}, {"Authorization": "Bearer other"}).status_code == 401
    assert ask(shop.app, {}, KEY).json()["model"] == "0"  # the directory of the start, read again

    def broken(path: Path) -> LoadedModel:
        raise RuntimeError("out of memory on /secret/device")

    shop.reloader._load = broken
    answer = ask(shop.app, {}, KEY)
    assert answer.status_code == 500 and "secret" not in answer.text
    assert ask(make_app(FakeEngine()), {}, KEY).status_code == 404  # no key, no route


def test_one_reload_at_a_time(shop: Shop) -> None:
    with shop.reloader._busy, pytest.raises(GplanError, match="Another reload is at work"):
        shop.reloader.reload()
    shop.late.close()
    engines = len(shop.engines)
    with pytest.raises(GplanError, match=r"no model yet|being stopped"):
        shop.reloader.reload()
    assert all(map(closed, shop.engines)) and len(shop.engines) >= engines
