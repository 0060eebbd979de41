"""OpenAI's routes: by their form on the wire, by OpenAI's own client, and around a real engine."""

from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from apps import client_of, make_app, running
from fake_engine import PLAN, TEXT, FakeEngine
from pydantic import SecretStr

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.gsisr import Sample
from gplan_jax.gsisr.intent_counts import IntentCounts
from gplan_jax.inference.engine.engine import PlanEngine
from gplan_jax.inference.engine.requests import NotFinite, Overloaded, PlanRequest
from gplan_jax.inference.grammar.drafts import DraftModel
from gplan_jax.inference.grammar.plan_grammar import PlanGrammar
from tests.inference import planners

CONTEXT = {"id": "7", "currenttime": "2026-05-04 18:16:38", "trigger_1": "加油"}
ASKED = [{"role": "user", "content": json.dumps(CONTEXT, ensure_ascii=False)}]
CHAT, COMPLETION = "/v1/chat/completions", "/v1/completions"
Client = httpx2.AsyncClient


def ask(engine: FakeEngine, calls: Callable[[Client], Awaitable[Any]], **settings: Any) -> Any:
    async def run() -> Any:
        async with client_of(make_app(engine, **({"model": "tiny"} | settings))) as client:
            return await calls(client)

    try:
        return asyncio.run(run())
    finally:
        engine.close()


def chat(**fields: Any) -> Callable[[Client], Awaitable[Any]]:
    return lambda client: client.post(CHAT, json={"model": "tiny", "messages": ASKED} | fields)


def completion(**fields: Any) -> Callable[[Client], Awaitable[Any]]:
    return lambda client: client.post(COMPLETION, json={"model": "tiny", "prompt": "p"} | fields)


def events(answer: httpx2.Response) -> list[dict[str, Any]]:
    """The chunks of a stream, which ends as OpenAI's do."""
    assert answer.headers["content-type"].startswith("text/event-stream")
    *lines, done, nothing = answer.text.split("\n\n")
    assert (done, nothing) == ("data: [DONE]", "")
    return [json.loads(line.removeprefix("data: ")) for line in lines]


USAGE = {
    "prompt_tokens": 300,
    "completion_tokens": len(TEXT),
    "total_tokens": 300 + len(TEXT),
    "prompt_tokens_details": {"cached_tokens": 200},
}


def test_a_chat_is_answered_with_the_plan_of_its_last_context() -> None:
    engine = FakeEngine()
    earlier = [{"role": "user", "content": "hello"}, {"role": "assistant", "content": "?"}]
    parts = [{"type": "text", "text": ASKED[0]["content"][:9]}]
    parts += [{"type": "text", "text": ASKED[0]["content"][9:]}]
    turns = [*earlier, {"role": "user", "content": parts}]
    answer = ask(engine, chat(messages=turns, temperature=0.5, seed=3, user="u")).json()
    assert answer.pop("id").startswith("chatcmpl-") and answer.pop("created") > 1.7e9
    assert answer == {
        "object": "chat.completion",
        "model": "tiny",
        "choices": [
            {
                "index": 0,
                "message": {"role": "assistant", "content": TEXT, "refusal": None},
                "logprobs": None,
                "finish_reason": "stop",
            }
        ],
        "usage": USAGE,
    }
    [request] = engine.requests
    assert isinstance(request.sample, Sample)
    assert (request.temperature, request.seed, request.deadline_s) == (0.5, 3, 10)
    assert {k: v for k, v in request.sample.to_dict().items() if v} == CONTEXT


def test_a_completion_goes_on_from_its_prompt() -> None:
    engine = FakeEngine()
    answer = ask(engine, completion(prompt=[5, 6], logprobs=0, max_tokens=3)).json()
    assert answer["object"] == "text_completion" and answer["id"].startswith("cmpl-")
    assert answer["choices"] == [
        {
            "text": TEXT[:3],
            "logprobs": {
                "tokens": [*TEXT[:3]],
                "token_logprobs": [-0.25, 0.0, 0.0],
                "top_logprobs": None,
                "text_offset": [0, 1, 2],
            },
            "index": 0,
            "finish_reason": "length",
        }
    ]
    assert answer["usage"]["completion_tokens"] == 3
    assert engine.requests[0].sample == (5, 6)


@pytest.mark.parametrize("stop", ["</THOUGHT>", ["nowhere", "</THOUGHT>", "</"]])
def test_a_text_ends_before_the_first_stop(stop: Any) -> None:
    plan = ask(FakeEngine(), chat(stop=stop, logprobs=True)).json()["choices"][0]
    wanted = TEXT.split("</THOUGHT>")[0]
    assert plan["message"]["content"] == wanted and plan["finish_reason"] == "stop"
    tokens = plan["logprobs"]["content"]
    assert "".join(token["token"] for token in tokens) == wanted
    assert tokens[0] == {"token": "<", "logprob": -0.25, "bytes": [60], "top_logprobs": []}


def test_n_plans_are_drawn_with_seeds_of_their_own() -> None:
    def respond(request: PlanRequest) -> str:
        return str(request.seed)

    answer = ask(FakeEngine(respond=respond), chat(n=3, temperature=1, seed=2**31 - 1)).json()
    texts = [choice["message"]["content"] for choice in answer["choices"]]
    assert texts == [str(2**31 - 1), "0", "1"]
    assert [choice["index"] for choice in answer["choices"]] == [0, 1, 2]
    engine = FakeEngine()
    ask(engine, chat(n=20, temperature=1))
    assert len({request.seed for request in engine.requests}) == 20


def test_a_stream_says_what_the_whole_answer_says() -> None:
    options = {"stream": True, "stream_options": {"include_usage": True}, "logprobs": True}
    *chunks, usage = events(ask(FakeEngine(), chat(**options)))
    assert {chunk["object"] for chunk in chunks} == {"chat.completion.chunk"}
    assert usage["choices"] == [] and usage["usage"] == USAGE
    first, last = (chunk["choices"][0] for chunk in chunks)
    assert first["delta"] == {"role": "assistant", "content": TEXT}
    assert first["finish_reason"] is None and len(first["logprobs"]["content"]) == len(TEXT)
    assert last == {"delta": {}, "logprobs": None, "index": 0, "finish_reason": "stop"}
    drawn = events(ask(FakeEngine(), completion(n=2, temperature=1, stream=True)))
    assert [chunk["choices"][0]["index"] for chunk in drawn] == [0, 1]
    assert all(chunk["choices"][0]["text"] == TEXT for chunk in drawn)
    assert all(chunk["object"] == "text_completion" and "usage" not in chunk for chunk in drawn)


def test_options_that_ask_for_nothing_are_taken() -> None:
    nothing = {
        "top_p": 1.0,
        "frequency_penalty": 0.0,
        "presence_penalty": 0,
        "repetition_penalty": 1.0,
        "logit_bias": {},
        "response_format": {"type": "text"},
        "tools": None,
        "stop": None,
        "max_tokens": None,
        "n": None,
    }
    assert ask(FakeEngine(), chat(**nothing)).status_code == 200


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_p": 0.5}, "top_p"),
        ({"tools": [{"type": "function"}]}, "tools"),
        ({"response_format": {"type": "json_object"}}, "response_format"),
        ({"top_logprobs": 2}, "top_logprobs"),
        ({"presence_penalty": 1}, "presence_penalty"),
        ({"n": 21, "temperature": 1}, "n"),
        ({"n": 2}, "n"),
        ({"temperature": -1}, "temperature"),
        ({"max_tokens": 0}, "max_tokens"),
        ({"seed": 0.5}, "seed"),
        ({"stream_options": {"include_usage": 1}}, "stream_options.include_usage"),
        ({"messages": []}, "messages"),
        ({"messages": [{"role": "system", "content": ""}, *ASKED]}, "messages.0.role"),
        ({"messages": [*ASKED, {"role": "assistant", "content": ""}]}, "messages.1.role"),
        ({"messages": [{"role": "user", "content": "hello"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": "[]"}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": '{"id": 7}'}]}, "messages.0.content"),
        ({"messages": [{"role": "user", "content": '{"color": ""}'}]}, "messages.0.content"),
    ],
)  # fmt: skip
def test_what_can_t_be_honoured_is_refused_by_its_name(fields: Any, param: str) -> None:
    engine = FakeEngine()

    async def calls(client: Client) -> Any:
        return await chat(**fields)(client), await chat()(client)

    refused, after = ask(engine, calls)
    error = refused.json()["error"]
    assert error.keys() == {"message", "type", "param", "code"}
    assert (refused.status_code, error["type"]) == (400, "invalid_request_error")
    assert error["param"] == param and error["message"]
    assert after.status_code == 200 and len(engine.requests) == 1


def test_unknown_options_and_models_are_named() -> None:
    answer = ask(FakeEngine(), chat(temprature=1))
    assert (
        answer.status_code == 400
        and "did you mean temperature" in answer.json()["error"]["message"]
    )
    answer = ask(FakeEngine(), chat(model="gpt-4"))
    error = answer.json()["error"]
    assert (answer.status_code, error["code"], error["param"]) == (404, "model_not_found", "model")
    answer = ask(FakeEngine(), chat(logprobs=True), mode="unconstrained")
    assert answer.status_code == 400 and answer.json()["error"]["param"] == "logprobs"


@pytest.mark.parametrize(
    ("fault", "status", "code"),
    [(NotFinite(), 500, "not_finite"), (Overloaded("full", 6.2), 503, "overloaded")],
)
def test_faults_of_the_server_have_openai_s_form(fault: Exception, status: int, code: str) -> None:
    def respond(request: PlanRequest) -> str:
        raise fault

    answer = ask(FakeEngine(respond=respond), chat())
    assert answer.status_code == status
    assert answer.json()["error"] | {"message": ""} == {
        "message": "",
        "type": "server_error",
        "param": None,
        "code": code,
    }


def test_keys_paths_and_bodies_that_are_wrong_have_openai_s_form_too() -> None:
    async def calls(client: Client) -> list[httpx2.Response]:
        key = {"Authorization": "Bearer s"}
        broken = await client.post(CHAT, content=b"{", headers=key | {"Content-Type": "text/plain"})
        return [await chat()(client), await client.get(CHAT, headers=key), broken]

    answers = ask(FakeEngine(), calls, api_key=SecretStr("s"))
    assert [answer.status_code for answer in answers] == [401, 405, 415]
    for answer in answers:
        assert answer.json()["error"]["type"] == "invalid_request_error"
    assert answers[1].headers["Allow"] == "POST"


def test_the_model_is_listed() -> None:
    async def calls(client: Client) -> list[httpx2.Response]:
        paths = ("/v1/models", "/v1/models/picd/model", "/v1/models/other")
        return [await client.get(path) for path in paths]

    listed, one, other = ask(FakeEngine(), calls, model="picd/model")
    assert listed.json() == {"object": "list", "data": [one.json()]}
    assert (one.json()["id"], other.status_code) == ("picd/model", 404)


def test_openai_s_own_client_gets_plans() -> None:
    openai = pytest.importorskip("openai")
    with running(FakeEngine(), model="picd/model", api_key=SecretStr("s")) as server:
        client = openai.OpenAI(base_url=server.url + "/v1", api_key="s", max_retries=0)
        [model] = client.models.list()
        assert client.models.retrieve(model.id).id == model.id == "picd/model"
        chat = client.chat.completions
        answer = chat.create(model=model.id, messages=ASKED, n=2, temperature=1, logprobs=True)
        assert [choice.message.content for choice in answer.choices] == [TEXT, TEXT]
        assert answer.usage.prompt_tokens_details.cached_tokens == 200
        assert answer.choices[1].logprobs.content[0].logprob == -0.25
        options = {"stream": True, "stream_options": {"include_usage": True}}
        *chunks, last = chat.create(model=model.id, messages=ASKED, **options)
        assert "".join(c.choices[0].delta.content or "" for c in chunks) == TEXT
        assert last.usage.completion_tokens == len(TEXT)
        text = client.completions.create(model=model.id, prompt="p", stop="[", logprobs=0)
        assert text.choices[0].text == TEXT[: -len(PLAN)]
        with client.chat.completions.stream(model=model.id, messages=ASKED) as stream:
            assert stream.get_final_completion().choices[0].message.content == TEXT
        with pytest.raises(openai.BadRequestError) as refused:
            chat.create(model=model.id, messages=ASKED, top_p=0.5)
        assert (refused.value.param, refused.value.code) == ("top_p", "unsupported_parameter")
        with pytest.raises(openai.NotFoundError):
            chat.create(model="gpt", messages=ASKED)
        with pytest.raises(openai.AuthenticationError):
            client.with_options(api_key="wrong").models.list()


def engine_grammar(engine: PlanEngine) -> PlanGrammar:
    assert engine._decoder.grammar is not None
    return engine._decoder.grammar


@pytest.fixture(scope="module")
def engine(tiny_model_dir: Path, world_rows: list[Sample]) -> Iterator[PlanEngine]:
    encoder = ChatEncoder.load(tiny_model_dir)
    grammar = PlanGrammar.compile(planners.LIBRARY, encoder, "latent")
    model = planners.random_model(tiny_model_dir, 1)
    drafter = DraftModel(grammar, IntentCounts())
    decoder = planners.decoder(model, encoder, world_rows[0], grammar, drafter)
    engine = PlanEngine("tiny", decoder, planners.prompter(encoder), queue=9, slots=2)
    yield engine
    engine.close()


def test_context_and_rendered_prompt_and_its_tokens_get_one_plan(
    engine: PlanEngine,
    tiny_model_dir: Path,
    world_rows: list[Sample],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = dataclasses.replace(world_rows[3], raw_labels="", short_term_behavior_seq="")
    prompt = planners.TASK.prompt(row)
    turns = f"<|im_start|>system\n{prompt.system}<|im_end|>\n<|im_start|>user\n{prompt.user}"
    text = turns + "<|im_end|>\n<|im_start|>assistant\n"
    ids = [int(i) for i in planners.TASK.prompt_ids(row, engine.encoder)]
    columns = {key: value for key, value in row.to_dict().items() if value}
    asked = [{"role": "user", "content": json.dumps(columns)}]
    monkeypatch.setattr(engine, "close", lambda: None)

    async def calls(client: Client) -> list[httpx2.Response]:
        wrong = [{"prompt": p} for p in (text[9:], [*ids[:-1], 10**6], ids[5:], ids * 9)]
        answers = [await chat(messages=asked, logprobs=True)(client)]
        answers += [await completion(prompt=p, logprobs=0)(client) for p in (text, ids)]
        answers += [await client.post("/v1/plan", json={"context": columns})]
        return [*answers, *[await completion(**fields)(client) for fields in wrong]]

    talk, written, given, plan, *wrong = ask(engine, calls)  # type: ignore[arg-type]
    said = talk.json()["choices"][0]
    assert {w.json()["choices"][0]["text"] for w in (written, given)} == {plan.json()["text"]}
    assert said["message"]["content"] == plan.json()["text"]
    assert talk.json()["usage"]["completion_tokens"] == plan.json()["usage"]["response_tokens"]
    # A token's log-probability is that among the open edges, by a whole forward pass.
    forward = planners.forward_of(planners.random_model(tiny_model_dir, 1), 400)
    response, grammar = (
        engine.encoder.response(plan.json()["text"]).ids[:-1],
        engine_grammar(engine),
    )
    logits_TxV = forward([*ids, *response])[len(ids) - 1 :]
    state, wanted = grammar.start, []
    for token, logits_V in zip(response, logits_TxV, strict=False):
        edges = [edge.token for edge in grammar.edges(state)]
        logits_E = logits_V[edges].astype(np.float64)
        wanted.append(logits_E[edges.index(token)] - np.logaddexp.reduce(logits_E))
        state = grammar.advance(state, int(token))
    logs = [token["logprob"] for token in said["logprobs"]["content"]]
    assert logs == pytest.approx(wanted, abs=3e-4) and sum(log < 0 for log in logs) > 3
    assert written.json()["choices"][0]["logprobs"]["token_logprobs"] == pytest.approx(logs)
    assert "".join(t["token"] for t in said["logprobs"]["content"]) == said["message"]["content"]
    for answer in wrong:
        assert (answer.status_code, answer.json()["error"]["param"]) == (400, "prompt")
