"""The page in a headless Chromium: nothing refused, nothing fetched, nothing cut off."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gplan_jax.evaluation.comparison.results import ComparisonResults
from gplan_jax.evaluation.report.page import write_report
from gplan_jax.gsisr import IntentLibrary

sys.path.insert(0, str(Path(__file__).parents[2] / "serving"))

from browser import Browser, browser, find_chromium

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_chromium() is None, reason="there is no Chromium here"),
]


@pytest.fixture(scope="module")
def chromium(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Browser]:
    with browser(tmp_path_factory.mktemp("profile")) as page:
        yield page


@pytest.fixture(scope="module")
def url(
    tmp_path_factory: pytest.TempPathFactory, results: ComparisonResults, library: IntentLibrary
) -> str:
    return write_report([results], tmp_path_factory.mktemp("out") / "r.html", library).as_uri()


@pytest.mark.parametrize(("width", "dark"), [(1280, False), (360, True)])
def test_it_opens_without_a_word_and_fits(
    chromium: Browser, url: str, width: int, dark: bool
) -> None:
    chromium.messages.clear()
    chromium.open(url, width=width, dark=dark)
    assert chromium.messages == []
    assert chromium.run("document.documentElement.scrollWidth") <= width
    fetched = chromium.run("performance.getEntriesByType('resource').map((entry) => entry.name)")
    assert [name for name in fetched if not name.startswith("data:")] == []


def test_words_are_told_apart_from_their_ground_in_both_schemes(
    chromium: Browser, url: str
) -> None:
    for dark in (False, True):
        chromium.open(url, width=1280, dark=dark)
        colours = chromium.run(
            "['color', 'backgroundColor'].map((key) => getComputedStyle(document.body)[key])"
        )
        light = [sum(int(part) for part in c[4:-1].split(",")) / 3 for c in colours]
        assert abs(light[0] - light[1]) > 150 and (light[0] > light[1]) == dark
