from __future__ import annotations

import asyncio
import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.chat import ChatConfig, ChatReply, ChatRequest, RequestFailed, request_key
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import IntentLibrary, Plan, RowPlace, Sample, parse_plan
from gplan_jax.synthesis.rules.service_rules import ServiceRules
from gplan_jax.synthesis.teachers.chat_teacher import ChatTeacher, TeacherConfig
from gplan_jax.synthesis.teachers.load import load_teacher, note_of, settings_of
from gplan_jax.synthesis.teachers.reply import answer_schema, write_reply
from gplan_jax.synthesis.teachers.seed_selection import SeedPool, read_seed
from gplan_jax.synthesis.teachers.teacher import RuleTeacher, Teacher
from gplan_jax.synthesis.world.simulation import simulate_rows

LIBRARY = IntentLibrary.load()
RULES = ServiceRules(LIBRARY)
ROWS = list(simulate_rows(40, seed=6))
CONFIG = TeacherConfig(server=ChatConfig(base_url="http://127.0.0.1:9/v1", model="big"), examples=3)


class FakeClient:
    """Answers by a function of the request; no socket."""

    reply: Callable[[ChatRequest], tuple[str, str]]
    asked: list[ChatRequest]
    kept: set[str]  # The keys of answers of earlier runs.

    def __init__(self, config: ChatConfig, cache: Path) -> None:
        self._config = config

    async def ask(self, request: ChatRequest) -> ChatReply:
        FakeClient.asked.append(request)
        text, reason = FakeClient.reply(request)
        key = request_key(self._config, request)
        cached = key in FakeClient.kept
        return ChatReply(text, reason, key, "big-0725", 100, 10, cached, 1, "json_schema", 0.25)

    async def close(self) -> None:
        pass


Replies = Callable[[ChatRequest], tuple[str, str]]


@pytest.fixture
def make_teacher(tmp_path: Path) -> Callable[..., ChatTeacher]:
    """A teacher behind a fake client."""

    def teacher_for(reply: Replies, seeds: SeedPool | None = None, **changes: Any) -> ChatTeacher:
        FakeClient.reply, FakeClient.asked, FakeClient.kept = staticmethod(reply), [], set()
        config = CONFIG.model_copy(update=changes)
        connect: Any = FakeClient
        return ChatTeacher(config, tmp_path / "cache.sqlite", LIBRARY, seeds, connect)

    return teacher_for


def _good(sample: Sample) -> str:
    plan = parse_plan(RULES.label(sample))
    return write_reply(RULES.trace(sample, plan), plan)


def test_a_good_reply_is_one_request_and_its_canonical_label(
    make_teacher: Callable[..., ChatTeacher],
) -> None:
    teacher = make_teacher(lambda request: (_good(ROWS[0]), "stop"))
    answer = asyncio.run(teacher.answer(ROWS[0]))
    [request] = FakeClient.asked
    assert (answer.text, answer.faults) == (RULES.label(ROWS[0]), ())
    assert answer.origin == {
        "model": "big-0725", "requests": [request_key(CONFIG.server, request)],
        "prompt_tokens": 100, "completion_tokens": 10, "cost": 0.25,
        "structured": "json_schema", "repaired": False,
    }  # fmt: skip
    assert request.schema == answer_schema(LIBRARY) and len(request.messages) == 2


@pytest.mark.parametrize(
    ("first", "reason", "told"),
    [
        ("Sure! Here it is", "stop", "not valid JSON"),
        ("<think>hm</think>[", "stop", "not valid JSON"),
        (_good(ROWS[0]).replace("tool_", "gadget_"), "stop", "is not a tool"),
    ],
)
def test_a_faulty_reply_is_shown_to_the_model_once_with_what_is_wrong(
    make_teacher: Callable[..., ChatTeacher], first: str, reason: str, told: str
) -> None:
    def reply(request: ChatRequest) -> tuple[str, str]:
        return (_good(ROWS[0]), "stop") if len(request.messages) > 2 else (first, reason)

    answer = asyncio.run(make_teacher(reply).answer(ROWS[0]))
    once, again = FakeClient.asked
    assert (answer.text, answer.faults) == (RULES.label(ROWS[0]), ())
    assert answer.origin["repaired"] and len(set(answer.origin["requests"])) == 2
    assert (answer.origin["prompt_tokens"], answer.origin["cost"]) == (200, 0.5)
    assert again.messages[:2] == once.messages and told in again.messages[3].content
    assert [message.role for message in again.messages[2:]] == ["assistant", "user"]
    assert again.messages[2].content in (first, "[")  # Without its thoughts.


@pytest.mark.parametrize(
    ("text", "reason", "code", "mend"),
    [
        ("{", "length", "truncated", "raise max_tokens or turn thinking off"),
        ("<think>well", "length", "truncated", "among its thoughts: raise max_tokens"),
        ("", "stop", "no_text", "its text is nowhere: raise max_tokens"),
        ("<reasoning_content>x</reasoning_content>", "stop", "no_text",
         "stands in reasoning_content: raise max_tokens or turn thinking off"),
        ("<tool_calls>[]</tool_calls>", "tool_calls", "no_text",
         "stands in tool_calls: serve the model without its tool-call parser"),
    ],
)  # fmt: skip
def test_what_the_same_limit_would_cut_again_is_not_repaired(
    make_teacher: Callable[..., ChatTeacher], text: str, reason: str, code: str, mend: str
) -> None:
    teacher = make_teacher(lambda request: (text, reason))
    [fault] = asyncio.run(teacher.answer(ROWS[0])).faults
    assert fault.code == code and mend in fault.message
    with pytest.raises(RequestFailed, match=mend) as failed:
        asyncio.run(teacher.explain(ROWS[0], [{"工具名称": "tool_9"}]))
    assert failed.value.mend == "Change that and run again"
    assert len(FakeClient.asked) == 2


def test_replies_without_a_trace_of_an_earlier_run_are_asked_for_again(
    make_teacher: Callable[..., ChatTeacher],
) -> None:
    plan: Plan = [{"工具名称": "tool_9"}]
    trace = RULES.trace(ROWS[0], plan)
    teacher = make_teacher(
        lambda request: (write_reply(trace, None) if request.draw == 2 else "no", "stop")
    )
    for draws in ([0, 0], [0, 0, 1, 1]):  # With a repair each.
        FakeClient.asked = []
        with pytest.raises(RequestFailed) as failed:
            asyncio.run(teacher.explain(ROWS[0], plan))
        assert failed.value.mend == "Run the command again, which asks again"
        assert [request.draw for request in FakeClient.asked] == draws
        FakeClient.kept |= {request_key(CONFIG.server, request) for request in FakeClient.asked}
    assert asyncio.run(teacher.explain(ROWS[0], plan)) == trace


def test_there_is_no_third_request_and_none_but_one_without_repair(
    make_teacher: Callable[..., ChatTeacher],
) -> None:
    def reply(request: ChatRequest) -> tuple[str, str]:
        return (f"prose {len(request.messages)}", "stop")

    answer = asyncio.run(make_teacher(reply).answer(ROWS[0]))
    assert len(FakeClient.asked) == 2 and answer.text == "prose 4"
    assert [fault.code for fault in answer.faults] == ["not_json"]
    answer = asyncio.run(make_teacher(reply, repair=False).answer(ROWS[0]))
    assert len(FakeClient.asked) == 1 and answer.text == "prose 2" and answer.faults


def test_a_plan_that_breaks_a_rule_twice_is_left_to_the_filter(
    make_teacher: Callable[..., ChatTeacher],
) -> None:
    wrong = _good(ROWS[0]).replace("tool_", "gadget_")
    answer = asyncio.run(make_teacher(lambda request: (wrong, "stop")).answer(ROWS[0]))
    assert answer.text == RULES.label(ROWS[0]).replace("tool_", "gadget_") and not answer.faults


def test_rows_of_a_stratum_share_all_of_the_prompt_but_the_context(
    make_teacher: Callable[..., ChatTeacher],
) -> None:
    seeds = [read_seed(row, LIBRARY, RowPlace("s.csv", i)) for i, row in enumerate(ROWS[:30])]
    teacher = make_teacher(lambda request: (_good(ROWS[0]), "stop"), SeedPool(seeds))
    by_stratum: dict[tuple[str, str], set[tuple[Any, ...]]] = {}
    for row in simulate_rows(30, seed=9):
        fresh = dataclasses.replace(row, id=f"new {row.id}")
        asyncio.run(teacher.answer(fresh))
        messages = FakeClient.asked[-1].messages
        assert [m.role for m in messages] == ["system", *["user", "assistant"] * 3, "user"]
        stratum = read_seed(fresh, LIBRARY, RowPlace("s.csv", 0)).stratum
        by_stratum.setdefault(stratum, set()).add(messages[:-1])
    assert len(by_stratum) > 1 and all(len(prefixes) == 1 for prefixes in by_stratum.values())


def test_an_explanation_keeps_the_plan_it_was_given(
    make_teacher: Callable[..., ChatTeacher],
) -> None:
    plan: Plan = [{"工具名称": "tool_9"}, {"工具名称": "tool_8"}]
    trace = RULES.trace(ROWS[0], plan)
    teacher = make_teacher(lambda request: (write_reply(trace, None), "stop"))
    assert asyncio.run(teacher.explain(ROWS[0], plan)) == trace
    [request] = FakeClient.asked
    assert request.schema is not None
    steps = request.schema["properties"]["reasoning"]["properties"]["steps"]
    assert (steps["minItems"], steps["maxItems"]) == (2, 2)
    with pytest.raises(GplanError, match="empty plan"):
        asyncio.run(teacher.explain(ROWS[0], []))
    teacher = make_teacher(lambda request: (write_reply(trace, plan), "stop"))
    with pytest.raises(GplanError, match=f"big to row {ROWS[0].id} hold no trace: .*unknown key"):
        asyncio.run(teacher.explain(ROWS[0], plan))
    assert len(FakeClient.asked) == 2


def test_a_request_without_an_answer_is_the_rows_own_trouble(
    make_teacher: Callable[..., ChatTeacher],
) -> None:
    def refuse(request: ChatRequest) -> tuple[str, str]:
        raise RequestFailed("refused")

    with pytest.raises(RequestFailed):
        asyncio.run(make_teacher(refuse).answer(ROWS[0]))


def test_which_teacher_a_name_means(tmp_path: Path) -> None:
    cache = tmp_path / "cache.sqlite"
    assert isinstance(load_teacher("rules", [], cache, LIBRARY), RuleTeacher)
    assert not cache.exists()
    with pytest.raises(GplanError, match="--set changes a teacher file"):
        load_teacher("rules", ["repair=false"], cache, LIBRARY)
    file = tmp_path / "teacher.yaml"
    file.write_text("server: {base_url: 'http://127.0.0.1:9/v1', model: big}\n", encoding="utf-8")
    overrides = ["repair=false", "server.temperature=0.5", "server.concurrency=7"]
    teacher: Teacher = load_teacher(str(file), overrides, cache, LIBRARY)
    assert (teacher.name, teacher.at_once) == ("big", 7)
    settings = settings_of(teacher)
    assert settings["repair"] is False and settings["server"]["temperature"] == 0.5
    assert "base_url" not in json.dumps(settings) and "answer.j2" in settings["prompt"]
    assert settings_of(RuleTeacher(LIBRARY)) == {"name": "rules"}
    assert note_of(teacher).startswith("0 asked") and note_of(RuleTeacher(LIBRARY)) == ""
    with pytest.raises(GplanError, match="did you mean repair"):
        load_teacher(str(file), ["repare=true"], cache, LIBRARY)
    asyncio.run(teacher.close())


@pytest.mark.parametrize(("examples", "warned"), [(4, True), (0, False)])
def test_a_model_without_examples_is_a_warning_unless_it_is_meant(
    examples: int, warned: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "teacher.yaml"
    file.write_text("server: {base_url: 'http://127.0.0.1:9/v1', model: big}\n", encoding="utf-8")
    cache = tmp_path / "cache.sqlite"
    teacher = load_teacher(str(file), [f"examples={examples}"], cache, LIBRARY)
    asyncio.run(teacher.close())
    assert ("big is asked without examples" in caplog.text) == warned


@pytest.mark.parametrize("name", ["teacher_vllm", "teacher_hosted"])
def test_the_shipped_teacher_files_are_complete(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEACHER_API_KEY", "secret")
    file = Path(__file__).parents[3] / "configs" / f"{name}.yaml"
    teacher = load_teacher(str(file), [], tmp_path / "cache.sqlite", LIBRARY)
    assert isinstance(teacher, ChatTeacher) and teacher.at_once >= 32
    assert "secret" not in json.dumps(teacher.settings)
    asyncio.run(teacher.close())
