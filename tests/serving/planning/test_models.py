"""Models that take over while the server answers, and side by side for the arms of an A/B test: no
request is lost, and none is mixed.
"""

from __future__ import annotations

import asyncio
import json
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from apps import client_of, loaded_model, make_app, wait_until
from fake_engine import FakeEngine
from fastapi import FastAPI
from pydantic import SecretStr

from gplan_jax.foundation import GplanError
from gplan_jax.foundation.buckets import Experiment
from gplan_jax.gsisr import Sample
from gplan_jax.inference.engine.requests import NotFinite, PlanRequest
from gplan_jax.serving.http.settings import ServerSettings
from gplan_jax.serving.planning.app import create_app
from gplan_jax.serving.planning.models import MAIN, LoadedModel, Models, NoEngineYet

KEY = {"Authorization": "Bearer admin"}
EXPERIMENT = Experiment(name="homepage", arms={"ctr": 0.4, "gplan": 0.4}, control="ctr")
BODY = {"context": {"trigger_1": "加油"}}


def plan_of(name: str) -> str:
    """A plan that tells which model made it."""
    return json.dumps([{"工具名称": f"tool_{int(name) % 10 + 1}"}, {"工具名称": "tool_9"}])


def answers(name: str) -> Callable[[PlanRequest], str]:
    return lambda request: plan_of(name)


class Shop:
    """A server whose models are FakeEngines; ``load`` makes one that is called like its folder.

    ``arms`` of EXPERIMENT have folders of their own.
    """

    def __init__(
        self, examples: list[Sample], arms: dict[str, Path] | None = None, delay_s: float = 0.002
    ) -> None:
        self.engines: list[FakeEngine] = []
        self.delay_s = delay_s
        self.models = Models(
            loaded_model(NoEngineYet(), "0"),
            lambda path: self.load(path),
            {MAIN: Path("0")} | (arms or {}),
            examples,
            drain_s=5.0,
        )
        settings = ServerSettings(admin_key=SecretStr("admin"), experiment=EXPERIMENT)
        self.app = create_app(self.models, settings=settings)
        self.models.start(lambda: None, on_failure=lambda: None)
        wait_until(lambda: self.models.snapshot().ready and not self.models.loading)

    def load(self, path: Path) -> LoadedModel:
        if path.name == "missing":
            raise GplanError("missing is not a model directory")
        engine = FakeEngine(delay_s=self.delay_s, respond=answers(path.name), queue=200)
        self.engines.append(engine)
        return loaded_model(engine, path.name, f"r{path.name}")


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
            assert metrics.count("gplan_model_info{") == 1
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

    load_sound = shop.load

    def load(path: Path) -> LoadedModel:
        loaded = load_sound(path)
        shop.engines[-1].respond = respond or not_finite
        return loaded

    shop.load = load  # type: ignore[method-assign]
    with pytest.raises(GplanError, match=f"7 {message}"):
        shop.models.reload(Path("7"))
    assert closed(shop.engines[-1]) and not closed(shop.engines[0])
    assert shop.models.current.main.engine is shop.engines[0]


def test_a_model_whose_answers_depend_on_its_neighbours_changes_nothing(shop: Shop) -> None:
    counted: list[PlanRequest] = []

    load_sound = shop.load

    def load(path: Path) -> LoadedModel:
        loaded = load_sound(path)

        def respond(request: PlanRequest) -> str:
            counted.append(request)
            return plan_of("1" if len(counted) <= 3 else "2")

        shop.engines[-1].respond = respond
        return loaded

    shop.load = load  # type: ignore[method-assign]
    with pytest.raises(GplanError, match="7 answers example 1 differently beside others"):
        shop.models.reload(Path("7"))
    assert shop.models.current.main.engine is shop.engines[0]


def post(app: FastAPI, path: str, body: Any, headers: dict[str, str] | None = None) -> Any:
    async def run() -> Any:
        async with client_of(app) as client:
            return await client.post(path, json=body, headers=headers)

    return asyncio.run(run())


def ask(app: FastAPI, body: Any, headers: dict[str, str]) -> Any:
    return post(app, "/admin/reload", body, headers)


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

    shop.load = broken  # type: ignore[method-assign]
    answer = ask(shop.app, {}, KEY)
    assert answer.status_code == 500 and "secret" not in answer.text
    assert ask(make_app(FakeEngine()), {}, KEY).status_code == 404  # no key, no route


def test_one_reload_at_a_time(shop: Shop) -> None:
    with shop.models._busy, pytest.raises(GplanError, match="Another reload is at work"):
        shop.models.reload()
    shop.models.close()
    engines = len(shop.engines)
    with pytest.raises(GplanError, match=r"no model yet|being stopped"):
        shop.models.reload()
    assert all(map(closed, shop.engines)) and len(shop.engines) >= engines


USERS = [f"u{number}" for number in range(60)]
SERVED = {"ctr": "0", "gplan": "1@gplan", None: "0"}  # model by arm, where gplan has its own


def planned(shop: Shop, users: list[str]) -> list[Any]:
    """The results of one batch with a context for each user."""
    contexts = [{"trigger_1": "加油", "id": user} for user in users]

    async def run() -> Any:
        async with client_of(shop.app) as client:
            return await client.post("/v1/plans", json={"contexts": contexts})

    return list(asyncio.run(run()).json()["results"])


def get(shop: Shop, path: str) -> Any:
    async def run() -> Any:
        async with client_of(shop.app) as client:
            return await client.get(path)

    return asyncio.run(run())


def test_users_of_an_arm_get_its_model_and_all_places_say_which(
    world_rows: list[Sample], log_lines: list[str]
) -> None:
    shop = Shop(world_rows[:2], {"gplan": Path("1")})
    arms = {user: EXPERIMENT.assign(user) for user in USERS}
    assert {*arms.values()} == {"ctr", "gplan", None}
    for user, result in zip(USERS, planned(shop, USERS), strict=True):
        assert result["model"] == SERVED[arms[user]]
        assert result["text"] == plan_of("1" if arms[user] == "gplan" else "0")
        assert result.get("experiment", {}).get("arm") == arms[user]
    exposures = [line for line in map(json.loads, log_lines) if line["event"] == "exposure"]
    assert len(exposures) == sum(arm is not None for arm in arms.values())
    for line in exposures:
        assert line["model"] == SERVED[line["arm"]] and line["revision"] == f"r{line['model'][0]}"
    ready = get(shop, "/readyz").json()
    assert ready == {
        "status": "ready", "replicas": "2 of 2", "arms": {"ctr": "0", "gplan": "1@gplan"},
    }  # fmt: skip
    listed = get(shop, "/v1/models").json()["data"]
    assert [model["id"] for model in listed] == ["0", "1@gplan"]
    metrics = get(shop, "/metrics").text.splitlines()
    assert {line for line in metrics if line.startswith(("gplan_model_info", "gplan_replica"))} == {
        'gplan_model_info{model="0",revision="r0"} 1.0',
        'gplan_model_info{model="1@gplan",revision="r1"} 1.0',
        'gplan_replica_up{replica="main"} 1.0',
        'gplan_replica_up{replica="gplan"} 1.0',
    }
    for arm in ("ctr", "gplan"):
        count = sum(other == arm for other in arms.values())
        assert f'gplan_arm_request_seconds_count{{arm="{arm}"}} {count}.0' in metrics
    assert "gplan_slots 8.0" in metrics  # of both
    # OpenAI's routes take either by its name.
    chat = {"messages": [{"role": "user", "content": "{}"}]}
    for name in ("0", "1@gplan"):
        answer = post(shop.app, "/v1/chat/completions", chat | {"model": name})
        assert answer.json()["choices"][0]["message"]["content"] == plan_of(name[0])
    other = post(shop.app, "/v1/chat/completions", chat | {"model": "1"})
    assert other.status_code == 404 and "Only 0, 1@gplan are served" in other.text


def test_one_arm_is_reloaded_and_a_broken_model_leaves_it_as_it_was(
    world_rows: list[Sample],
) -> None:
    shop = Shop(world_rows[:2], {"gplan": Path("1")})
    load_sound = shop.load

    def load(path: Path) -> LoadedModel:
        loaded = load_sound(path)
        if path.name == "9":
            shop.engines[-1].respond = lambda request: "no plan"
        return loaded

    shop.load = load  # type: ignore[method-assign]
    user = next(user for user in USERS if EXPERIMENT.assign(user) == "gplan")
    broken = ask(shop.app, {"arm": "gplan", "model": "9"}, KEY)
    assert broken.status_code == 422 and "9@gplan answers example 1 with no plan" in broken.text
    assert planned(shop, [user])[0]["model"] == "1@gplan" and closed(shop.engines[-1])
    for arm in ("ctr", "gplna"):
        unknown = ask(shop.app, {"arm": arm, "model": "2"}, KEY)
        assert unknown.status_code == 422 and unknown.json()["error"] == {
            "code": "bad_request",
            "message": f"arm '{arm}' has no model of its own; those that have: gplan.",
            "column": "arm",
        }
    answer = ask(shop.app, {"arm": "gplan", "model": "2"}, KEY)
    assert answer.json()["model"] == "2@gplan" and answer.json()["revision"] == "r2"
    assert planned(shop, [user])[0]["text"] == plan_of("2")
    main = ask(shop.app, {"model": "3"}, KEY)  # the arm's stays
    assert main.json()["model"] == "3" and planned(shop, [user])[0]["model"] == "2@gplan"
    assert {line for line in get(shop, "/metrics").text.splitlines() if "gplan_model_i" in line} > {
        'gplan_model_info{model="2@gplan",revision="r2"} 1.0',
        'gplan_model_info{model="3",revision="r3"} 1.0',
    }
    assert [closed(engine) for engine in shop.engines] == [True, True, True, False, False]
    shop.models.reload_and_tell()  # as SIGHUP: each from the directory of the start
    wait_until(lambda: {m.name for m in shop.models.current.by_arm.values()} == {"0", "1@gplan"})


def test_users_of_an_arm_whose_engine_failed_are_planned_for_and_not_exposed(
    world_rows: list[Sample], log_lines: list[str]
) -> None:
    shop = Shop(world_rows[:2], {"gplan": Path("1")})
    user = next(user for user in USERS if EXPERIMENT.assign(user) == "gplan")
    shop.engines[1].ready = False
    [result] = planned(shop, [user])
    assert result["model"] == "0" and "experiment" not in result
    assert not [line for line in log_lines if json.loads(line)["event"] == "exposure"]
    assert get(shop, "/readyz").json() == {
        "status": "ready", "replicas": "1 of 2", "arms": {"ctr": "0", "gplan": "0"},
    }  # fmt: skip
    assert 'gplan_replica_up{replica="gplan"} 0.0' in get(shop, "/metrics").text
    assert ask(shop.app, {"arm": "gplan"}, KEY).status_code == 200  # which mends it
    assert planned(shop, [user])[0]["experiment"]["arm"] == "gplan"
    shop.engines[0].ready = False  # of the main model: the server has failed
    assert get(shop, "/healthz").status_code == 503


def test_an_arm_that_cannot_be_loaded_ends_the_start(world_rows: list[Sample]) -> None:
    ended, loaded = threading.Event(), list[FakeEngine]()

    def load(path: Path) -> LoadedModel:
        if path.name == "1":
            raise GplanError("1 has no weights")
        loaded.append(FakeEngine())
        return loaded_model(loaded[-1])

    directories = {MAIN: Path("0"), "gplan": Path("1")}
    models = Models(loaded_model(NoEngineYet()), load, directories)
    models.start(lambda: pytest.fail("it has not"), on_failure=ended.set)
    assert ended.wait(10)
    assert str(models.failure) == "1 has no weights" and closed(loaded[0])
