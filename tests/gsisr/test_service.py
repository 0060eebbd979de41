"""Services: what loads, what is refused and where, and how a command knows which one is meant."""

from __future__ import annotations

import csv
import dataclasses
import json
import shutil
from pathlib import Path

import pytest
import yaml

from gplan_jax.cli.service import init_service
from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import (
    COLUMNS,
    IntentLibrary,
    PromptTemplate,
    Sample,
    Service,
    facts_of,
    read_samples,
    write_samples,
)
from gplan_jax.gsisr.facts import Habit, long_term, long_term_text, short_term, short_term_entry
from gplan_jax.gsisr.row_form import public_form
from gplan_jax.gsisr.service import check_rows, known_service, record_path, record_service
from gplan_jax.synthesis.pairs.perturbations import load_spec
from gplan_jax.synthesis.rules.service_rules import ServiceRules


@pytest.fixture
def town(tmp_path: Path) -> Path:
    """What `gplan service init` writes."""
    init_service(tmp_path / "town")
    return tmp_path / "town"


def change(file: Path, old: str, new: str) -> None:
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, 1), encoding="utf-8")


def test_amap_is_the_public_set(shared: Path) -> None:
    service = Service.load("amap")
    assert tuple(service.form.columns) == COLUMNS and service.library.rows is None
    assert service.library == IntentLibrary.load()
    assert service.template().user == PromptTemplate.load("amap_zh").user
    assert service.template("compact").user == PromptTemplate.load("compact_zh").user
    found, how = known_service(data=shared / "gsisr/gsisr_dev.csv")
    assert (found.name, how) == ("amap", "by its columns")


@pytest.mark.parametrize("name", ["city_guide", "town"])
def test_a_service_of_ones_own_reads_rows_by_its_own_columns(
    name: str, town: Path, tmp_path: Path
) -> None:
    service = Service.load(town if name == "town" else name)
    columns = {n: c.example for n, c in service.form.columns.items() if c.example}
    path = tmp_path / "rows.jsonl"
    path.write_text(json.dumps(columns), encoding="utf-8")
    [sample] = read_samples(path, form=service.library.rows)
    assert sample.to_dict()["weather"] == "rain"  # a column without a role
    assert sample.currenttime == "2026-05-04 18:16:00"
    assert facts_of(sample).hour == 18 and not facts_of(sample).weekend
    write_samples(tmp_path / "again.csv", [sample])
    [again] = read_samples(tmp_path / "again.csv", form=service.library.rows)
    assert again == sample
    user = service.template().render(sample, service.library).user
    assert "rain" in user and not any("\u4e00" <= c <= "\u9fff" for c in user)


def test_histories_are_written_and_read_in_the_words_of_the_service(town: Path) -> None:
    form = Service.load(town).form
    facts = facts_of(Sample.from_context({"user": "u", "time": "2026-05-04 18:16"}, form))
    text = short_term_entry(facts.now, "viewed", "", "cafe", "Copper Kettle", form)
    assert text == "2026-05-04 18:16 viewed cafe at Copper Kettle"
    [read] = short_term(text, facts.now, form)
    assert (read.when, read.actions, read.place) == (facts.now, ("viewed",), "Copper Kettle")
    habits = [Habit("cafe", "Copper Kettle", ("visited",), 12)]
    assert list(long_term(long_term_text(habits, form), form)) == habits


@pytest.mark.parametrize(
    ("file", "old", "new", "said"),
    [
        (
            "rules.yaml",
            "remind: {tool: reminder}",
            "remind: {tool: remider}",
            "line 31: intents.remind: .remider. is not a tool",
        ),
        ("rules.yaml", "{is: wet, when: {weather", "{is: wet, when: {wether", "meant weather"),
        ("rules.yaml", "open: {ride_home: 60", "open: {rid_home: 60", "line 35: .*meant ride_home"),
        ("rules.yaml", "{part: [noon, evening]}, add", "{part: [noon, nite]}, add", "never nite"),
        ("rules.yaml", "tickets + eat: 30", "tickets + tickets: 30", "repeats intent"),
        ("rules.yaml", "of: {3: 60", "of: {9: 60", "9 is no length of a plan: 2 to 5"),
        ("perturbations.yaml", "other_city: {}", "holiday_flag: {}", "line 5: holiday_flag needs"),
        ("prompts/plan/user.j2", "row.weather", "row.wether", r"user\.j2, line 4.*meant weather"),
        ("prompts/plan/user.j2", "facts.phase", "facts.phases", "no facts.phases"),
        ("library.yaml", "parameters: [to], yields", "parameters: [too], yields", "too is not def"),
        ("service.yaml", "prompt: plan ", "prompt: plann ", "no prompt plann"),
        ("service.yaml", "role: category", "role: categry", "categry is none; known are id"),
        ("service.yaml", "{role: order_end", "{role: order_start", "two columns have the role"),
        ("service.yaml", "name: my", "name: My", "name"),
    ],
)
def test_parts_that_disagree_are_named_by_file_and_line(
    town: Path, file: str, old: str, new: str, said: str
) -> None:
    if file == "service.yaml":
        old, new = (text.replace("my", "town") if "name" in text else text for text in (old, new))
        new = new.replace("town", "Town") if old.startswith("name") else new
    change(town / file, old, new)
    with pytest.raises(GplanError, match=said) as error:
        service = Service.load(town)
        ServiceRules(service.library)
        load_spec(library=service.library)
    assert file.rpartition("/")[2] in str(error.value)


def test_a_service_is_known_by_name_record_or_columns_and_never_by_silence(
    town: Path, tmp_path: Path
) -> None:
    rows = tmp_path / "rows.csv"
    rows.write_text("who,when\n1,2026-05-04\n", encoding="utf-8")
    with pytest.raises(GplanError, match=r"not known which service .*rows\.csv.*--service"):
        known_service(data=rows)
    record_service(Service.load(town).library, rows)
    found, how = known_service(data=rows)
    assert (found.name, how) == ("town", "recorded in rows.service.json")
    with pytest.raises(GplanError, match=r"different services: amap .*; town "):
        known_service("amap", data=rows)
    change(town / "service.yaml", "about: a service", "about: another service")
    assert known_service(data=rows)[1].endswith("it has changed since")
    shutil.rmtree(town)
    with pytest.raises(GplanError, match=r"rows\.service\.json records a service that can't"):
        known_service(data=rows)
    record_path(rows).unlink()
    write_samples(rows, [Sample.from_context({"id": "1", "currenttime": "x"})])
    assert known_service(data=rows)[0].name == "amap"


def test_columns_that_are_left_out_are_empty_and_unknown_ones_are_refused(
    town: Path, tmp_path: Path
) -> None:
    form, path = Service.load(town).form, tmp_path / "rows.csv"
    path.write_text("user,time\nu1,2026-05-04T18:16\n", encoding="utf-8")
    [sample] = read_samples(path, form=form)
    assert (sample.id, sample.currenttime, sample.current_city) == ("u1", "2026-05-04 18:16:00", "")
    path.write_text("user,time,wether\nu1,2026-05-04T18:16,rain\n", encoding="utf-8")
    with pytest.raises(GplanError, match=r"wether \(meant weather\?\)"):
        list(read_samples(path, form=form))
    ignoring = form.model_copy(update={"others": "ignore"})
    assert [row.id for row in read_samples(path, form=ignoring)] == ["u1"]


def test_check_says_of_each_column_what_is_missing_or_odd(town: Path, tmp_path: Path) -> None:
    path = tmp_path / "rows.csv"
    lines = [
        ["user", "time", "place_type", "recent", "plan", "extra"],
        ["u1", "2026-05-04 18:16", "station", "", '[{"tool":"weather"},{"tool":"tickets"}]', "x"],
        ["u2", "yesterday", "moon", "something else", "[]", ""],
    ]
    with path.open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(lines)
    reports, rows = check_rows(path, Service.load(town).library)
    said = {report.column: report.said() for report in reports}
    assert rows == 2
    assert said["time"] == "no time as YYYY-MM-DD HH:MM:SS (1)"
    assert said["place_type"] == "of no kind in rows.kinds (1)"
    assert said["recent"] == "not as rows.recent.entry (1)"
    assert said["plan"] == "too_short (1)"
    assert said["weather"] == "missing: taken as empty"
    assert said["extra"] == "not in service.yaml: refused"
    assert said["user"] == ""


def test_a_saved_library_keeps_the_rows_of_its_service(town: Path, tmp_path: Path) -> None:
    library = Service.load(town).library
    library.save(tmp_path / "library.yaml")
    again = IntentLibrary.load(tmp_path / "library.yaml")
    assert again == library and again.form.columns == library.form.columns
    assert "rows" not in yaml.safe_load((town / "library.yaml").read_text(encoding="utf-8"))


def test_a_row_without_a_column_for_the_weekend_knows_it(town: Path) -> None:
    form = Service.load(town).form
    saturday = Sample.from_context({"user": "u", "time": "2026-05-02 09:00"}, form)
    assert facts_of(saturday).weekend and "weekend" not in saturday.to_dict()
    assert dataclasses.replace(saturday).written is form and public_form() is not form
