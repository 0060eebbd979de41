from __future__ import annotations

import time

import pytest

from gplan_jax.foundation import progress
from gplan_jax.foundation.progress import ProgressBar, duration_text, pace_text, rate_text, track


class Clock:
    """Seconds that pass only when told."""

    def __init__(self) -> None:
        self.now = 100.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(progress.time, "monotonic", clock.monotonic)
    return clock


@pytest.mark.parametrize(
    ("rate", "text"),
    [
        (1234.4, "1,234/s"),
        (123.4, "123/s"),
        (12.34, "12.3/s"),
        (1.234, "1.23/s"),
        (0.05, "0.050/s"),
    ],
)
def test_a_rate_has_three_digits(rate: float, text: str) -> None:
    assert rate_text(rate) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.4, "0:00"), (59.6, "1:00"), (125, "2:05"), (3723, "1:02:03")]
)
def test_durations(seconds: float, text: str) -> None:
    assert duration_text(seconds) == text


def test_the_pace_says_what_is_left_and_at_the_end_what_it_took() -> None:
    assert pace_text(50, 100, 10.0) == "5.00/s, 0:20 left"
    assert pace_text(150, 0, 30.0) == "5.00/s, in 0:30"
    assert pace_text(50, None, 10.0) == "5.00/s"
    assert pace_text(0, 100, 10.0) == pace_text(5, 100, 0.0) == ""


def test_plain_lines_come_now_and_then_with_rate_time_left_and_note(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    with ProgressBar("rows", 100, start=20) as bar:
        for _ in range(40):
            clock.now += 1.0
            bar.advance("fine")
        clock.now += 0.0
        bar.advance("[done]", steps=40)
    lines = capsys.readouterr().err.splitlines()
    # 15 and 30 seconds after the start, and at the end; the 20 from before are no work of this bar.
    assert lines == [
        "rows: 35/100, 1.00/s, 1:05 left, fine",
        "rows: 50/100, 1.00/s, 0:50 left, fine",
        "rows: 100/100, 2.00/s, in 0:40, [done]",
    ]


def test_a_note_is_asked_for_only_when_a_line_is_shown(
    clock: Clock, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = []

    def note() -> str:
        asked.append(clock.now)
        return f"{len(asked)} asked"

    def items() -> list[int]:
        return list(range(31))

    for _ in track((_tick(clock, item) for item in items()), "work", note=note):
        pass
    lines = capsys.readouterr().err.splitlines()
    assert lines == ["work: 15, 1.00/s, 1 asked", "work: 30, 1.00/s, 2 asked"]
    assert asked == [115.0, 130.0]


def test_the_live_bar_asks_for_the_note_and_shows_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "200")
    assert list(track([1, 2, 3], "live", note=lambda: "0.25 USD [of 10]")) == [1, 2, 3]
    shown = capsys.readouterr().err
    assert "3/3" in shown and "0.25 USD [of 10]" in shown


def test_notes_are_no_markup(clock: Clock, capsys: pytest.CaptureFixture[str]) -> None:
    with ProgressBar("a [red]place[/red]", 1) as bar:
        clock.now += 2.0
        bar.advance("[/] [bold]")
    assert capsys.readouterr().err == "a [red]place[/red]: 1/1, 0.50/s, in 0:02, [/] [bold]\n"


def _tick(clock: Clock, item: int) -> int:
    clock.now += 1.0
    return item


def test_a_first_line_comes_though_nothing_is_done_yet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(progress, "FIRST_LINE_SECONDS", 0.05)
    with ProgressBar("Fits", 60, start=20, note="see workers.log"):
        time.sleep(0.5)
    assert capsys.readouterr().err == "Fits: 20 of 60 so far, see workers.log\n"
