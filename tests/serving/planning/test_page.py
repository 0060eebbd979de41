"""The page in a headless Chromium: plans side by side, feedback, errors, keyboard, phones, key."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from apps import Running, running
from browser import Browser, browser, find_chromium
from fake_engine import FakeEngine
from pydantic import SecretStr

from gplan_jax.foundation.errors import GplanError
from gplan_jax.inference.engine.requests import BadOption, Overloaded, PlanRequest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium here"),
]

CARS, ORDER, WEATHER, REVIEW = (
    '{"工具名称":"tool_1","起始位置":"当前位置","终点位置":"家"}',
    '{"工具名称":"tool_8"}',
    '{"工具名称":"tool_9"}',
    '{"工具名称":"tool_10"}',
)
FIRST, SECOND = (ORDER, WEATHER, REVIEW), (WEATHER, CARS, ORDER)
READY = "!document.getElementById('submit').disabled && !document.querySelector('[aria-busy=true]')"
DONE = f"({READY}) && !document.getElementById('plans').hidden"


def by_time(request: PlanRequest) -> str:
    """One plan for the examples' own times, another for those that the page makes of them."""
    times.setdefault(request.sample.id, request.sample.currenttime)
    plan = FIRST if request.sample.currenttime == times[request.sample.id] else SECOND
    return f"[{','.join(plan)}]"


times: dict[str, str] = {}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def served() -> Iterator[tuple[Running, FakeEngine]]:
    times.clear()
    engine = FakeEngine(respond=by_time, slots=1)
    with running(engine, examples=3) as server:
        yield server, engine


def texts(page: Browser, selector: str) -> list[str]:
    found: Any = page.run(
        f"Array.from(document.querySelectorAll({selector!r})).map((node) => node.innerText)"
    )
    return found


def open_page(page: Browser, server: Running, *, width: int = 1280) -> None:
    page.messages.clear()
    page.open(f"{server.url}/", width=width)
    page.wait_for(READY)


def plan_both(page: Browser) -> None:
    page.run("document.getElementById('submit').click()")
    page.wait_for(DONE)


def test_two_plans_stand_side_by_side_with_what_changed(
    chromium: Browser, served: tuple[Running, FakeEngine]
) -> None:
    open_page(chromium, served[0])
    plan_both(chromium)
    assert texts(chromium, "#plan-first .meaning") == ["订单提醒", "查天气", "写评价"]
    assert texts(chromium, "#plan-second .meaning") == ["查天气", "打车", "订单提醒"]
    # Weather and the order's reminder have changed places; the other two are in one plan only.
    assert sorted(texts(chromium, "#plan-first .badge")) == ["left out", "moved"]
    assert sorted(texts(chromium, "#plan-second .badge")) == ["added", "moved"]
    assert texts(chromium, "#plan-second dl.parameters")[0].split() == [
        "起始位置", "当前位置", "终点位置", "家",
    ]  # fmt: skip
    assert texts(chromium, "#plan-first .costs dd")[1:] == ["5", "40", "20 of 30"]
    assert texts(chromium, "#plan-first .verdicts li") == [
        "✗ latent prefix not valid",
        "✓ passes the rules",
    ]
    assert texts(chromium, ".plan h2") == ["As it is", "4 hours later"]
    assert chromium.messages == []


def around(request: PlanRequest) -> str:
    """What was accepted, then the first plan without what was dismissed, with a word on each."""
    rest = [i for i in map(json.loads, FIRST) if i not in (*request.accepted, *request.dismissed)]
    plan = [*request.accepted, *rest]
    steps = "".join(f"<STEP_{n}>because {n}</STEP_{n}>" for n in range(1, len(plan) + 1))
    return f"<THOUGHT>{steps}</THOUGHT>{json.dumps(plan, ensure_ascii=False)}"


def press(page: Browser, name: str) -> None:
    """Presses the first plan's button of that name, as a keyboard does."""
    button = f"document.querySelector('#plan-first [aria-label={json.dumps(name)}]')"
    page.run(f"{button}.focus()")
    page.press("Enter", code=13, text="\r")
    page.wait_for(DONE)


def test_the_plan_is_made_anew_around_cards_kept_and_waved_away(chromium: Browser) -> None:
    engine = FakeEngine(respond=around)
    with running(engine, examples=1) as server:
        open_page(chromium, server)  # and the example is planned at once
        assert texts(chromium, "#plan-first .meaning") == ["订单提醒", "查天气", "写评价"]
        assert texts(chromium, "#plan-first .reason")[1] == "Why: because 2"
        press(chromium, "Keep: 写评价")
        assert texts(chromium, "#plan-first .meaning") == ["写评价", "订单提醒", "查天气"]
        focused = "[document.activeElement.ariaLabel, document.activeElement.ariaPressed]"
        assert chromium.run(focused) == ["Keep: 写评价", "true"]
        press(chromium, "Wave away: 订单提醒")
        assert texts(chromium, "#plan-first .meaning") == ["写评价", "查天气"]
        assert len(texts(chromium, "#plan-second .meaning")) == 3  # the other moment has its own
        chromium.run("document.querySelector('#plan-first .others summary').click()")
        chromium.wait_for("document.querySelectorAll('.best li').length === 3")
        assert texts(chromium, ".best strong")[:2] == ["50%", "25%"]
        assert engine.requests[-1].best == 3 and len(engine.requests[-1].dismissed) == 1
        press(chromium, "Let it return: 订单提醒")
        press(chromium, "Keep: 写评价")
        assert texts(chromium, "#plan-first .meaning") == ["订单提醒", "查天气", "写评价"]

        def refuse(request: PlanRequest) -> None:
            raise BadOption("accepted.0", "can't stand first.")

        engine.refuse = refuse
        press(chromium, "Keep: 查天气")
        assert "can't stand first" in texts(chromium, "#plan-first .problem")[0]
        assert len(texts(chromium, "#plan-first .card")) == 3
        assert chromium.messages == [m for m in chromium.messages if "422" in m]


def test_the_user_is_told_in_words_and_codes_stay_in_the_form(chromium: Browser) -> None:
    words = {"act_4": "searched", "act_7": "looked"}
    with running(FakeEngine(), examples=1, labels=words) as server:
        open_page(chromium, server)
        (told,) = texts(chromium, "#portrait")
        assert "searched" in told and "home" in told and " times" in told
        assert not re.search(r"act_|pf_|p_\d", told)


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("<THOUGHT><STEP_1>so</STEP_1><STEP_2>and so</STEP_2></THOUGHT>[]", "and so"),
        ("<THOUGHT><T_1_a><T_2_a></THOUGHT>[]", "latent"),
        ("<THOUGHT><T_1_a></THOUGHT>[]", None),
        ("[]", None),
    ],
)
def test_the_reason_of_a_card(
    chromium: Browser, served: tuple[Running, FakeEngine], text: str, reason: str | None
) -> None:
    open_page(chromium, served[0])
    assert chromium.run(f"import('/page/app.js').then((m) => m.reasonOf({text!r}, 2))") == reason


@pytest.mark.parametrize(
    ("first", "second", "marks"),
    [
        ("abc", "abc", ("same same same", "same same same")),
        ("", "ab", ("", "added added")),
        ("ab", "", ("removed removed", "")),
        ("abc", "cab", ("same same moved", "moved same same")),
        ("abcd", "acxd", ("same removed same same", "same same added same")),
        ("aab", "aba", ("same moved same", "same same moved")),
    ],
)
def test_marks_of_two_plans(
    chromium: Browser,
    served: tuple[Running, FakeEngine],
    first: str,
    second: str,
    marks: tuple[str, str],
) -> None:
    open_page(chromium, served[0])
    script = f"import('/page/app.js').then((m) => m.compare([...{first!r}], [...{second!r}]))"
    found = chromium.run(script)
    assert [sorted(marks_of) for marks_of in found] == [sorted(m.split()) for m in marks]


def test_a_phone_shows_all_without_scrolling_sideways(
    chromium: Browser, served: tuple[Running, FakeEngine]
) -> None:
    open_page(chromium, served[0], width=360)
    chromium.run("document.querySelectorAll('details').forEach((node) => (node.open = true))")
    plan_both(chromium)
    assert chromium.run("document.documentElement.scrollWidth") <= 360
    tops = chromium.run(
        "['first', 'second'].map((s) => document.getElementById('plan-' + s).offsetTop)"
    )
    assert tops[0] < tops[1]


def test_the_keyboard_is_enough(chromium: Browser, served: tuple[Running, FakeEngine]) -> None:
    open_page(chromium, served[0])
    seen = []
    for _ in range(20):
        chromium.press("Tab", code=9)
        focused = "document.activeElement"
        seen.append(chromium.run(f"{focused}.id || {focused}.value || {focused}.tagName"))
        if seen[-1] == "later":
            chromium.press("ArrowRight", code=39)
        if seen[-1] == "submit":
            break
    assert "example" in seen and "SUMMARY" in seen
    chromium.press("Enter", code=13, text="\r")
    chromium.wait_for(DONE)
    times_shown = texts(chromium, ".when")
    assert times_shown[0][:7] == times_shown[1][:7] and times_shown[0][10:] == times_shown[1][10:]
    assert times_shown[0][:10] != times_shown[1][:10]  # "A day later" was chosen by arrow key.


def test_a_wrong_column_is_marked_where_it_stands(
    chromium: Browser, served: tuple[Running, FakeEngine]
) -> None:
    server, engine = served

    def refuse(request: PlanRequest) -> None:
        if not request.sample.currenttime:
            raise GplanError("currenttime is empty; write the time of the request in it.")

    engine.refuse = refuse
    open_page(chromium, server)
    chromium.run("document.getElementById('first-currenttime').value = ''")
    plan_both(chromium)
    assert texts(chromium, "#first-currenttime-fault") == [
        "currenttime is empty; write the time of the request in it."
    ]
    assert chromium.run("document.activeElement.id") == "first-currenttime"
    assert len(texts(chromium, "#plan-second .card")) == 3


def test_a_busy_server_is_said_so_and_can_be_tried_again(
    chromium: Browser, served: tuple[Running, FakeEngine]
) -> None:
    server, engine = served

    def refuse(request: PlanRequest) -> None:
        raise Overloaded("full", retry_after_s=2)

    engine.refuse = refuse
    open_page(chromium, server)
    plan_both(chromium)
    assert "busy just now. It asks to wait 2 s." in texts(chromium, "#plan-first .problem")[0]
    engine.refuse = lambda request: None
    chromium.run("document.querySelector('#plan-first .problem button').click()")
    chromium.wait_for("document.querySelectorAll('.card').length === 6")


def test_a_missed_deadline_is_explained(chromium: Browser) -> None:
    with running(FakeEngine(delay_s=30), deadline_ms=30, examples=1) as server:
        open_page(chromium, server)
        plan_both(chromium)
        assert "not ready in time" in texts(chromium, "#plan-first .problem")[0]


def test_the_page_waits_for_the_model(chromium: Browser) -> None:
    engine = FakeEngine(ready=False)
    with running(engine, examples=1) as server:
        chromium.open(f"{server.url}/", width=1280)
        chromium.wait_for("document.getElementById('state').textContent.includes('being loaded')")
        assert not chromium.run(READY)
        engine.ready = True
        chromium.wait_for(READY)


def test_the_page_asks_for_the_key_of_a_server_that_has_one(chromium: Browser) -> None:
    with running(FakeEngine(), api_key=SecretStr("k3y"), examples=1) as server:
        chromium.open(f"{server.url}/", width=1280)
        chromium.wait_for("!document.getElementById('key-section').hidden")
        chromium.run("document.getElementById('key').value = 'k3y'")
        chromium.run("document.getElementById('use-key').click()")
        chromium.wait_for(READY)
        plan_both(chromium)
        assert len(texts(chromium, ".card")) == 6


def test_what_a_model_writes_is_text_never_markup(chromium: Browser) -> None:
    evil = '[{"工具名称":"<img src=x onerror=alert(1)>","tag":"<b>x</b>"}]'
    with running(FakeEngine(respond=lambda _: evil), examples=1) as server:
        open_page(chromium, server)
        plan_both(chromium)
        assert texts(chromium, "#plan-first .meaning") == ["<img src=x onerror=alert(1)>"]
        assert chromium.run("document.querySelectorAll('.plan img, .plan b').length") == 0
        assert "✗ breaks" in texts(chromium, "#plan-first .verdicts")[0]


def test_the_description_page_lists_every_operation(
    chromium: Browser, served: tuple[Running, FakeEngine], tmp_path: Path
) -> None:
    chromium.messages.clear()
    chromium.open(f"{served[0].url}/docs", width=360)
    chromium.wait_for("document.querySelectorAll('#schemas table').length > 5")
    assert {"/v1/plan", "/v1/plans", "/metrics"} <= set(texts(chromium, ".operation h2 code"))
    assert chromium.run("document.documentElement.scrollWidth") <= 360
    assert chromium.messages == []
    chromium.screenshot(tmp_path / "docs.png")
    assert (tmp_path / "docs.png").stat().st_size > 10_000
