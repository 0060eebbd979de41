"""The page: its figures are the summary's, it asks for nothing, and nothing private is in it."""

from __future__ import annotations

import re
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path

import pytest

from gplan_jax.evaluation.comparison.results import ComparisonResults, read_results
from gplan_jax.evaluation.report.page import PAPER, render_report, write_report
from gplan_jax.evaluation.report.page_tables import figure, verdict
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import read_json, write_json
from gplan_jax.gsisr import IntentLibrary, Sample
from gplan_jax.synthesis.world.simulation import simulate_rows
from tests.evaluation.report.runs import NETWORKS, write_run

VOID = {"meta", "link", "br", "img", "input", "hr"}
LOADING = {"src", "srcset", "data", "poster", "action", "background", "xlink:href"}


class Page(HTMLParser):
    """Open and closed elements, attributes, and the cells of each arm's line."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: Counter[str] = Counter()
        self.attributes: list[tuple[str, str, str]] = []
        self.lines: dict[str, list[str]] = {}
        self.arms: list[str] = []
        self.words: list[str] = []
        self._arm = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] += 1
        self.attributes += [(tag, key, value or "") for key, value in attrs]
        if tag not in VOID:
            self.open.append(tag)
        if tag == "tr":
            self._arm = dict(attrs).get("data-arm") or ""
            if self._arm:
                self.arms.append(self._arm)
        if tag == "td" and self._arm:
            self.lines.setdefault(self._arm, []).append("")
        elif self._arm and "td" in self.open:
            self.lines[self._arm][-1] += " "

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"{tag} closes nothing"

    def handle_data(self, data: str) -> None:
        self.words.append(data)
        if self._arm and "td" in self.open:
            self.lines[self._arm][-1] += data


@pytest.fixture(scope="module")
def text(results: ComparisonResults, library: IntentLibrary) -> str:
    return render_report([results], library)


@pytest.fixture(scope="module")
def page(text: str) -> Page:
    return Page(text)


def test_every_arm_stands_once_with_the_summarys_figures(
    page: Page, results: ComparisonResults
) -> None:
    assert sorted(page.arms) == sorted(results.arms)
    for arm in results.arms:
        cells = [cell.split() for cell in page.lines[arm]]
        for cell, measure in zip(cells, ("acc1", "ndcg3", "nes"), strict=False):
            stated = results.summary.arms[arm][measure]
            assert cell[0] == figure(measure, stated.mean)
            ends = f"{figure(measure, stated.low)}–{figure(measure, stated.high)}"
            assert ends in cell
            if stated.seed_sd is not None:
                assert cell[-1] == figure(measure, stated.seed_sd)


def test_the_page_is_well_formed_and_its_ids_are_unique(page: Page) -> None:
    assert not page.open
    ids = [value for _, key, value in page.attributes if key == "id"]
    assert len(ids) == len(set(ids))
    targets = {v[1:] for _, key, v in page.attributes if key == "href" and v.startswith("#")}
    assert targets <= set(ids)
    named = [v.split() for _, key, v in page.attributes if key == "aria-labelledby"]
    assert {one for names in named for one in names} <= set(ids)


def test_the_page_asks_for_nothing(page: Page, text: str) -> None:
    assert not page.tags["script"] and not page.tags["iframe"] and not page.tags["img"]
    assert not any(key in LOADING or key.startswith("on") for _, key, _ in page.attributes)
    assert {value for _, key, value in page.attributes if key == "href" and value[0] != "#"} == {
        "data:,"
    }
    assert set(re.findall(r"https?://[^\s<\",]+", text)) == {PAPER}
    assert "@import" not in text and "url(" not in text


def test_tables_have_captions_and_scopes_and_drawings_words(page: Page) -> None:
    assert page.tags["table"] == page.tags["caption"] > 4
    scoped = sum(tag == "th" and key == "scope" for tag, key, _ in page.attributes)
    assert scoped == page.tags["th"]
    drawings = [pair for tag, *pair in page.attributes if tag == "svg"].count(["role", "img"])
    assert page.tags["desc"] == drawings > 8


def test_no_row_and_no_id_is_in_the_page(text: str, results: ComparisonResults) -> None:
    for row in results.rows:
        assert row.id not in text and row.label not in text
    assert "/somewhere/else" not in text
    assert "gplan baseline all --data rows.csv --add a=p.jsonl" in text


def test_names_with_markup_are_escaped(
    tmp_path: Path, world_rows: list[Sample], library: IntentLibrary
) -> None:
    title = '<b onclick="x()">&'
    run = write_run(tmp_path / "run", world_rows, titles={"tiger": title})
    found = Page(text := render_report([read_results(run, "<i>run</i>")], library))
    assert "<b onclick" not in text and "<i>run" not in text
    assert not found.open and title in "".join(found.words)


def test_runs_stand_side_by_side(
    tmp_path: Path, world_rows: list[Sample], results: ComparisonResults, library: IntentLibrary
) -> None:
    arms = {"sasrec": (0.3, 1), "bert4rec": (0.2, 1), "trigger_table": (0.5, 1)}
    run = write_run(tmp_path / "history", world_rows, arms, mode="history")
    found = Page(render_report([results, read_results(run, "history")], library))
    assert Counter(found.arms) == Counter([*results.arms, *arms])
    ids = {value for _, key, value in found.attributes if key == "id"}
    assert {"runs", "r1-results", "r2-results", "runs-acc1-title"} <= ids
    assert "r1-metrics" in ids and "r2-metrics" not in ids  # the same rows: once is enough


@pytest.mark.slow
def test_fifteen_arms_on_703_rows_stay_small(tmp_path: Path, library: IntentLibrary) -> None:
    floors = ("majority_first_intent", "popularity_list", "trigger_table", "context_table")
    names = [*NETWORKS, *(f"arm_{i}" for i in range(4)), *floors]
    arms = {name: (0.4 + 0.02 * i, 1) for i, name in enumerate(names)}
    run = write_run(tmp_path / "run", list(simulate_rows(703, seed=3)), arms, folds=5)
    path = write_report([read_results(run)], tmp_path / "report.html", library)
    assert path.stat().st_size < 2_000_000


def test_the_verdict_names_who_beats_the_best_floor(results: ComparisonResults, page: Page) -> None:
    sentences = verdict(results)
    shown = "".join(page.words)
    assert all(sentence in shown for sentence in sentences)
    reference = results.summary.reference
    assert reference == "trigger_table"
    floor = figure("acc1", results.summary.arms[reference]["acc1"].mean)
    assert f"the best floor, Trigger table (Acc@1 {floor}%)" in sentences[0]
    assert "40 rows" in sentences[-1] and "can’t decide" in sentences[-1]


def comparison(first: str, second: str, difference: float, holds: bool) -> dict[str, object]:
    return {
        "first": first, "second": second, "measure": "acc1", "difference": difference,
        "low": difference - 0.02, "high": difference + 0.03, "p": 0.01, "p_holm": 0.02,
        "holds": holds, "method": "permutation", "clusters": 40, "detectable": abs(difference) / 2,
    }  # fmt: skip


@pytest.mark.parametrize(
    ("first", "second", "beginning"),
    [
        ((0.1, True), (0.2, True), "Every arm beats the best floor"),
        ((0.1, False), (0.2, True), "1 of 2 arms beat the best floor"),
        ((0.1, False), (-0.2, True), "No arm beats the best floor"),
    ],
)
def test_verdicts_of_planted_comparisons(
    run_folder: Path, first: tuple[float, bool], second: tuple[float, bool], beginning: str
) -> None:
    summary = read_json(run_folder / "summary.json")
    difference, holds = second
    summary["comparisons"] = [
        comparison("majority_first_intent", "trigger_table", -0.9, True),  # of floors: not counted
        comparison("sasrec", "trigger_table", *first),
        comparison("trigger_table", "tiger", -difference, holds),  # stated the other way round
    ]
    write_json(run_folder / "summary.json", summary)
    [sentence, limits] = verdict(read_results(run_folder))
    assert "typically ±2.5 points, and one must be of about 7.5 points" in limits
    assert sentence.startswith(beginning)
    assert f"Tiger ({figure('acc1', difference, signed=True)})" in sentence
    assert ("Not to be told apart from it: Sasrec (+10.0)" in sentence) == (not first[1])
    assert ("Worse than it: Tiger (−20.0)" in sentence) == (difference < 0)


def test_unfinished_arms_are_named(run_folder: Path) -> None:
    about = read_json(run_folder / "comparison.json")
    write_json(run_folder / "comparison.json", {**about, "unfinished": ["p5", "tiger_rq"]})
    assert verdict(read_results(run_folder))[-1] == "Not finished, so not shown: p5, tiger_rq."


def test_floors_alone_on_one_fold(
    tmp_path: Path, world_rows: list[Sample], library: IntentLibrary
) -> None:
    arms = {"majority_first_intent": (0.0, 1), "trigger_table": (0.9, 1)}
    results = read_results(write_run(tmp_path / "run", world_rows, arms, folds=1))
    assert re.match(r"There is nothing but floors.* best floor is Trigger", verdict(results)[0])
    found = Page(render_report([results], library))
    assert "r1-metrics" not in {value for _, key, value in found.attributes if key == "id"}
    assert "No arm of this run learns epoch by epoch." in "".join(found.words)


def test_an_earlier_report_is_replaced_and_nothing_else(
    tmp_path: Path, results: ComparisonResults, library: IntentLibrary, text: str
) -> None:
    path = tmp_path / "report.html"
    path.write_text(f"{text}earlier", encoding="utf-8")
    write_report([results], path, library)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert path.read_text(encoding="utf-8") == text
    other = tmp_path / "notes.html"
    other.write_text("<p>mine</p>")
    with pytest.raises(GplanError, match=r"is no report of gplan's"):
        write_report([results], other, library)
    assert other.read_text() == "<p>mine</p>"
    with pytest.raises(GplanError, match=r"is a directory; name a file such as"):
        write_report([results], tmp_path, library)


def test_plans_of_another_library_are_refused(
    results: ComparisonResults, library: IntentLibrary
) -> None:
    other = library.model_copy(update={"name": "other"})
    with pytest.raises(GplanError, match=r"of the library amap, not of other; .*--service"):
        render_report([results], other)
    with pytest.raises(GplanError, match=r"name a run"):
        render_report([], library)
