"""The review page in a headless Chromium: keys, editing, faults, lost servers, hostile rows."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from browser import Browser, browser, find_chromium
from reviews import ROWS, Served, serving, store_of, write_review_of

from gplan_jax.gsisr import Sample
from gplan_jax.synthesis.seeds.review_file import Decision, read_review

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium here"),
]

SAVED = "document.getElementById('state').textContent === 'all saved'"
SHOWN = "document.getElementById('review') && !document.getElementById('review').hidden"
KEYS = {"Enter": 13, "Escape": 27, "Tab": 9}


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture
def served(tmp_path: Path) -> Iterator[Served]:
    with serving(write_review_of(tmp_path)) as server:
        yield server


def open_page(page: Browser, server: Served, *, width: int = 1280) -> None:
    page.messages.clear()
    page.open("about:blank", width=width)
    page.open(f"{server.url}/", width=width)
    page.wait_for(SHOWN)


def press(page: Browser, keys: str) -> None:
    """Presses keys one after the other; Enter, Escape and Tab by their names."""
    for key in [keys] if keys in KEYS else keys:
        page.press(key, code=KEYS.get(key, 0), text=key if len(key) == 1 else "")


def text(page: Browser, id_: str) -> str:
    found: Any = page.run(f"document.getElementById({id_!r}).textContent")
    return str(found)


def row(page: Browser) -> int:
    return int(page.run("document.getElementById('row').value"))


def focus(page: Browser) -> str:
    return str(page.run("document.activeElement.id"))


def click(page: Browser, id_: str) -> None:
    page.run(f"document.getElementById({id_!r}).click()")


def choose(page: Browser, id_: str, value: str) -> None:
    page.run(
        f"(() => {{ const s = document.getElementById({id_!r}); s.value = {value!r};"
        " s.dispatchEvent(new Event('change')); })()"
    )


def write(page: Browser, id_: str, value: str) -> None:
    page.run(
        f"(() => {{ const s = document.getElementById({id_!r}); s.value = {json.dumps(value)};"
        " s.dispatchEvent(new Event('input')); })()"
    )


def on_disk(server: Served) -> list[Decision]:
    return read_review(server.store.path, server.store.candidates, server.store.library)


def verdicts(server: Served) -> list[str]:
    return [decision.verdict for decision in on_disk(server)]


def steps(page: Browser) -> list[str]:
    found: Any = page.run(
        "Array.from(document.querySelectorAll('.step .why, .step textarea'))"
        ".map((node) => node.value ?? node.innerText)"
    )
    return list(found)


def test_decisions_by_keys_are_on_the_disk(chromium: Browser, served: Served) -> None:
    open_page(chromium, served)
    assert row(chromium) == 1 and "0 of 8 decided" in text(chromium, "counts")
    press(chromium, "a")
    assert row(chromium) == 2 and text(chromium, "said") == "Row 1 accepted. Row 2."
    press(chromium, "r")
    press(chromium, "jj")
    assert row(chromium) == 5
    press(chromium, "a")
    chromium.wait_for(SAVED)
    assert verdicts(served) == ["accept", "reject", "", "", "accept", "", "", ""]
    assert "3 of 8 decided: 2 accepted, 0 edited, 1 rejected" in text(chromium, "counts")
    press(chromium, "uu")
    assert row(chromium) == 2 and text(chromium, "said") == "Row 2 is undecided again."
    chromium.wait_for(SAVED)
    assert verdicts(served) == ["accept", *[""] * 7]
    assert focus(chromium) == "title" and chromium.messages == []


def test_moving_about_by_keys(chromium: Browser, served: Served) -> None:
    open_page(chromium, served)
    press(chromium, "k")
    assert row(chromium) == 1 and "first" in text(chromium, "said")
    press(chromium, "ajk")
    press(chromium, "k")
    assert row(chromium) == 1
    press(chromium, "n")
    assert row(chromium) == 2
    press(chromium, "g")
    assert focus(chromium) == "row"
    chromium.run("document.getElementById('row').value = '7'")
    press(chromium, "Enter")
    assert row(chromium) == 7 and focus(chromium) == "title"
    press(chromium, "jjj")
    assert row(chromium) == ROWS and "last" in text(chromium, "said")
    chromium.wait_for(SAVED)
    chromium.call("Page.reload")
    chromium.wait_for(SHOWN)
    assert row(chromium) == ROWS  # The address knows the row.


def test_the_filter_shows_what_is_left(chromium: Browser, served: Served) -> None:
    open_page(chromium, served)
    press(chromium, "aar")
    choose(chromium, "filter", "undecided")
    press(chromium, "kkk")
    assert row(chromium) == 4
    choose(chromium, "filter", "reject")
    assert row(chromium) == 3
    choose(chromium, "filter", "edit")
    assert row(chromium) == 3 and text(chromium, "said") == "There are none."
    choose(chromium, "filter", "undecided")
    press(chromium, "aaaaa")
    assert "All that is shown is decided." in text(chromium, "said")
    chromium.wait_for(SAVED)
    assert verdicts(served).count("") == 0


def test_a_plan_is_edited_and_saved_as_edited(chromium: Browser, served: Served) -> None:
    open_page(chromium, served)
    proposal = served.store.candidates[0].proposal
    texts = [proposal.reasoning[f"STEP_{i}"] for i in range(1, len(proposal.plan) + 1)]
    assert steps(chromium) == texts
    press(chromium, "e")
    assert focus(chromium) == "tool-1"
    click(chromium, "down-1")
    assert steps(chromium) == [texts[1], texts[0], *texts[2:]]
    assert focus(chromium) == "down-2"
    click(chromium, "remove-3")
    assert steps(chromium) == [texts[1], texts[0], *texts[3:]]
    click(chromium, "add-step")
    last = len(texts)
    assert focus(chromium) == f"tool-{last}"
    choose(chromium, f"tool-{last}", "tool_7")
    choose(chromium, f"value-{last}-tag", "丽人")
    write(chromium, f"text-STEP_{last}", "因为\n想去")
    press(chromium, "Escape")
    press(chromium, "a")  # What was changed is saved as edited.
    assert text(chromium, "said").startswith("Row 1 edited.")
    chromium.wait_for(SAVED)
    saved = on_disk(served)[0]
    assert saved.verdict == "edit"
    assert saved.draft.plan == [
        proposal.plan[1], proposal.plan[0], *proposal.plan[3:],
        {"工具名称": "tool_7", "tag": "丽人"},
    ]  # fmt: skip
    assert saved.draft.reasoning[f"STEP_{last}"] == "因为 想去"


def test_faults_are_named_under_their_step_while_one_edits(
    chromium: Browser, served: Served
) -> None:
    open_page(chromium, served)
    press(chromium, "e")
    choose(chromium, "tool-1", "tool_1")
    choose(chromium, "value-1-起始位置", "前一位推荐结果")
    write(chromium, "text-STEP_2", "</THOUGHT>")
    chromium.wait_for("document.querySelectorAll('.fault').length >= 2")
    found = chromium.run(
        "Array.from(document.querySelectorAll('.step'))"
        ".map((step) => step.querySelector('.fault')?.innerText ?? '')"
    )
    assert "no earlier intent yields a place" in found[0] and "</THOUGHT>" in found[1]
    assert "faults" in text(chromium, "verdict")
    chromium.wait_for(SAVED)
    # The draft is kept, but it can't be accepted.
    assert on_disk(served)[0].draft.reasoning["STEP_2"] == "</THOUGHT>"
    press(chromium, "Escape")
    press(chromium, "a")
    assert row(chromium) == 1 and "Not taken" in text(chromium, "said")
    assert verdicts(served)[0] == ""
    click(chromium, "restore")
    chromium.wait_for("document.querySelectorAll('.fault').length === 0")
    press(chromium, "a")
    chromium.wait_for(SAVED)
    assert verdicts(served)[0] == "accept"


def test_an_empty_reason_keeps_the_caret_and_is_asked_for(
    chromium: Browser, served: Served
) -> None:
    open_page(chromium, served)
    press(chromium, "e")
    chromium.run("document.getElementById('text-STRATEGY').focus()")
    chromium.run("document.getElementById('text-STRATEGY').select()")
    press(chromium, "x")
    chromium.call("Input.insertText", text="yz")
    chromium.wait_for(SAVED)
    assert focus(chromium) == "text-STRATEGY"
    assert on_disk(served)[0].draft.reasoning["STRATEGY"] == "xyz"
    write(chromium, "text-STRATEGY", "")
    chromium.wait_for("document.querySelectorAll('.block .fault').length === 1")
    assert focus(chromium) == "text-STRATEGY"
    write(chromium, "text-STRATEGY", "新的策略")
    chromium.call(
        "Input.dispatchKeyEvent", type="keyDown", key="Enter", windowsVirtualKeyCode=13, modifiers=2
    )
    chromium.wait_for(f"{SAVED} && document.getElementById('row').value === '2'")
    assert on_disk(served)[0].draft.reasoning["STRATEGY"] == "新的策略"
    assert verdicts(served)[0] == "edit"


def test_letters_in_a_field_are_letters(chromium: Browser, served: Served) -> None:
    open_page(chromium, served)
    press(chromium, "c")
    assert focus(chromium) == "comment"
    press(chromium, "are")
    assert row(chromium) == 1
    chromium.wait_for(SAVED)
    chromium.wait_for("document.getElementById('comment').value === 'are'")
    press(chromium, "e")
    press(chromium, "Escape")
    for key in ("e", "Escape", "e"):  # Nothing is edited; the comment is kept even so.
        press(chromium, key)
    chromium.wait_for(SAVED)
    assert on_disk(served)[0].comment == "aree"
    press(chromium, "r")
    chromium.wait_for(f"{SAVED} && document.getElementById('row').value === '2'")
    assert (verdicts(served)[0], on_disk(served)[0].comment) == ("reject", "aree")


def test_keys_are_listed_and_can_be_turned_off(chromium: Browser, served: Served) -> None:
    open_page(chromium, served)
    press(chromium, "?")
    assert chromium.run("document.getElementById('help').open") and focus(chromium) == "help-close"
    press(chromium, "a")  # Nothing is decided behind the dialog.
    chromium.run("document.getElementById('keys-on').click()")
    click(chromium, "help-close")
    press(chromium, "a")
    assert row(chromium) == 1
    chromium.run("document.getElementById('keys-on').click()")
    press(chromium, "a")
    assert row(chromium) == 2


def test_decisions_made_while_the_server_is_gone_are_sent_when_it_is_back(
    chromium: Browser, tmp_path: Path
) -> None:
    review = write_review_of(tmp_path)
    with serving(review) as served:
        open_page(chromium, served)
        press(chromium, "a")
        chromium.wait_for(SAVED)
        served.stop()
        press(chromium, "ra")
        chromium.wait_for("document.getElementById('state').textContent.includes('not saved yet')")
        assert "2 decisions" in text(chromium, "state")
        port = served.port
    with serving(review, port=port) as again:
        chromium.wait_for(SAVED)
        assert verdicts(again)[:4] == ["accept", "reject", "accept", ""]


def test_decisions_outlive_a_closed_page(chromium: Browser, tmp_path: Path) -> None:
    review = write_review_of(tmp_path)
    with serving(review) as served:
        open_page(chromium, served)
        port = served.port
    press(chromium, "ar")
    chromium.wait_for("document.getElementById('state').textContent.includes('2 decisions')")
    chromium.open("about:blank", width=1280)
    assert [s.decision.verdict for s in store_of(review).all()] == [""] * ROWS
    with serving(review, port=port) as again:
        open_page(chromium, again)
        chromium.wait_for(f"{SAVED} && document.getElementById('row').value === '3'")
        assert verdicts(again)[:3] == ["accept", "reject", ""]


@pytest.mark.parametrize(
    ("button", "verdict"), [("keep-mine", "reject"), ("take-theirs", "accept")]
)
def test_a_conflict_is_settled_by_the_reviewer(
    chromium: Browser, served: Served, button: str, verdict: str
) -> None:
    open_page(chromium, served)
    store = served.store
    proposal = store.candidates[0].proposal
    store.change(Decision(1, proposal, "accept"), store.all()[0].version)
    press(chromium, "r")
    chromium.wait_for("document.getElementById('keep-mine') !== null")
    assert row(chromium) == 1 and "changed elsewhere" in text(chromium, "problem")
    assert verdicts(served)[0] == "accept"
    click(chromium, button)
    chromium.wait_for(SAVED)
    assert verdicts(served)[0] == verdict and text(chromium, "problem") == ""


EVIL = "<img src=x onerror=alert(1)>'\"</dd><script>document.title='owned'</script>"


def hostile(index: int, sample: Sample) -> dict[str, str]:
    return {
        "current_tag": EVIL,
        "current_poi_name": "javascript:alert(1)",
        "trigger_1": f"{EVIL},x",
        "trigger_3": "=HYPERLINK(0)",
        "profile_feat_5": '"><svg onload=alert(1)>',
        "raw_labels": sample.raw_labels.replace("<CONTEXT>", "<CONTEXT>&lt;b&gt; <b>x</b> "),
    }


def test_what_rows_hold_is_text_never_markup(chromium: Browser, tmp_path: Path) -> None:
    with serving(write_review_of(tmp_path, hostile)) as server:
        open_page(chromium, server)
        facts = chromium.run("document.getElementById('facts').innerText")
        assert "<img src=x onerror=alert(1)>" in facts and "<svg onload" in facts
        for key in ("", "e"):
            press(chromium, key)
            tags = "document.querySelectorAll('main img, main svg, main script, main b').length"
            assert chromium.run(tags) == 0
            shown = chromium.run(
                "document.querySelector('.block .why')?.innerText"
                " ?? document.getElementById('text-CONTEXT').value"
            )
            assert "&lt;b&gt; <b>x</b>" in shown
        assert chromium.run("document.title") == "anna · GPlan seeds" and chromium.messages == []


@pytest.mark.parametrize("dark", [False, True])
def test_a_phone_shows_all_without_scrolling_sideways(
    chromium: Browser, tmp_path: Path, dark: bool
) -> None:
    def long_names(index: int, sample: Sample) -> dict[str, str]:
        return {"current_poi_name": "p_" + "9" * 80, "current_tag": "x" * 80}

    with serving(write_review_of(tmp_path, long_names)) as server:
        chromium.open(f"{server.url}/", width=360, dark=dark)
        chromium.wait_for(SHOWN)
        for key in ("", "e"):
            press(chromium, key)
            assert chromium.run("document.documentElement.scrollWidth") <= 360
        # The buttons to decide with are in reach at any time.
        bar = chromium.run("document.getElementById('actions').getBoundingClientRect().toJSON()")
        assert bar["bottom"] == chromium.run("innerHeight") and bar["height"] < 130
        chromium.screenshot(tmp_path / "phone.png")
        assert (tmp_path / "phone.png").stat().st_size > 10_000


def test_every_control_has_a_name(chromium: Browser, served: Served) -> None:
    open_page(chromium, served)
    press(chromium, "e")
    nameless = chromium.run(
        "Array.from(document.querySelectorAll('input, select, textarea, button')).filter((node) =>"
        " !(node.labels?.length || node.ariaLabel || node.textContent.trim())).map((n) => n.id)"
    )
    assert nameless == []
    ids = chromium.run("Array.from(document.querySelectorAll('[id]')).map((node) => node.id)")
    assert len(ids) == len(set(ids))


def test_a_verdict_that_the_server_refuses_comes_back_to_the_reviewer(
    chromium: Browser, served: Served
) -> None:
    open_page(chromium, served)
    press(chromium, "e")
    write(chromium, "text-STEP_1", "<STEP_2>")
    press(chromium, "Escape")
    press(chromium, "a")  # Before the draft was checked.
    chromium.wait_for("document.querySelector('#problem button') !== null")
    assert row(chromium) == 2 and "Row 1 was not taken" in text(chromium, "problem")
    chromium.wait_for(SAVED)
    assert on_disk(served)[0].draft.reasoning["STEP_1"] == "<STEP_2>"
    assert verdicts(served)[0] == ""
    chromium.run("document.querySelector('#problem button').click()")
    assert row(chromium) == 1 and text(chromium, "problem") == ""
    chromium.wait_for("document.querySelectorAll('.step .fault').length === 1")
