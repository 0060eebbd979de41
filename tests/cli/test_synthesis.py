from __future__ import annotations

import csv
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gplan_jax.cli.main import app
from gplan_jax.cli.synthesis import counterfactuals, explain, filter_rows, synthesize
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.errors import NothingKept
from gplan_jax.gsisr import IntentLibrary, read_context_pairs, read_samples, write_samples
from gplan_jax.gsisr.plans import canonical_plan, parse_plan
from gplan_jax.synthesis.world.simulation import simulate_rows
from tests.chat.servers import Server, scripted


@pytest.fixture
def teacher(tmp_path: Path) -> Iterator[tuple[Server, str]]:
    """A rehearsed chat server and the teacher file that names it."""
    with scripted(tmp_path, responder="rehearsal_teacher:reply") as server:
        config = server.config(prompt_price=1.0, completion_price=1.0)
        path = tmp_path / "teacher.yaml"
        path.write_text(json.dumps({"server": config.model_dump(exclude_defaults=True)}))
        yield server, str(path)


def test_synthesize_writes_rows_and_rows_of_other_users(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthesize(service="amap", rows=40, out=tmp_path / "world.jsonl", seed=2, test_fraction=0.25)
    rows = list(read_samples(tmp_path / "world.jsonl"))
    others = list(read_samples(tmp_path / "world_test.jsonl"))
    assert len(rows) + len(others) == 40 and 1 < len(others) < 20
    assert not {row.id for row in rows} & {row.id for row in others}
    said = capsys.readouterr().out
    for name in ("world.jsonl", "world_test.jsonl", "world.removed.jsonl", "world.report.json"):
        assert str(tmp_path / name) in said and (tmp_path / name).is_file()


def test_explain_says_where_the_rows_are_and_which_it_left_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthesize(service="amap", rows=3, out=tmp_path / "in.csv")
    with (tmp_path / "in.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    rows[2][-1] = ""
    with (tmp_path / "in.csv").open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    capsys.readouterr()
    explain(data=tmp_path / "in.csv", out=tmp_path / "out.csv", on_error="skip")
    printed = capsys.readouterr()
    assert f"2 rows with reasoning are in {tmp_path / 'out.csv'}" in printed.out
    assert "1 skipped" in printed.out and "row 2, column raw_labels" in printed.err


def test_explain_stops_at_a_faulty_row_unless_told_to_skip(tmp_path: Path) -> None:
    synthesize(service="amap", rows=2, out=tmp_path / "in.csv")
    text = (tmp_path / "in.csv").read_text(encoding="utf-8").replace("tool_", "tool_9", 1)
    (tmp_path / "in.csv").write_text(text, encoding="utf-8")
    with pytest.raises(GplanError, match="row 1, column raw_labels"):
        explain(data=tmp_path / "in.csv", out=tmp_path / "out.csv")
    assert not (tmp_path / "out.csv").exists()


def test_counterfactuals_writes_pairs_and_says_what_became_of_the_rows(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthesize(service="amap", rows=30, out=tmp_path / "world.csv")
    capsys.readouterr()
    out, same = tmp_path / "pairs.jsonl", tmp_path / "same.jsonl"
    counterfactuals(data=tmp_path / "world.csv", out=out, unchanged=same, per_anchor=3, limit=20)
    said = capsys.readouterr().out
    library = IntentLibrary.load()
    pairs = list(read_context_pairs(out, library))
    equal = list(read_context_pairs(same, library, plans="equal"))
    assert f"{len(pairs)} pairs of 20 rows are in {out}" in said
    assert f"pairs with equal plans  {len(equal)}, in {same}" in said
    assert "other_city" in said and str(tmp_path / "pairs.report.json") in said
    report = json.loads((tmp_path / "pairs.report.json").read_text(encoding="utf-8"))
    assert report["candidates"]["pair"] == len(pairs) > 20
    assert report["candidates"]["equal"] == len(equal)


def test_counterfactuals_takes_a_spec_and_lists_what_it_skips(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    synthesize(service="amap", rows=5, out=tmp_path / "world.jsonl")
    rows = (tmp_path / "world.jsonl").read_text(encoding="utf-8").splitlines()
    broken = {**json.loads(rows[1]), "currenttime": "noon"}
    rows[1] = json.dumps(broken)
    (tmp_path / "world.jsonl").write_text("\n".join(rows), encoding="utf-8")
    spec = tmp_path / "spec.yaml"
    spec.write_text("other_city: {}\n", encoding="utf-8")
    capsys.readouterr()
    counterfactuals(
        data=tmp_path / "world.jsonl", out=tmp_path / "out.jsonl", spec=spec, on_error="skip"
    )
    printed = capsys.readouterr()
    assert "faults skipped          1 (1 rows with an unreadable time" in printed.out
    assert "other_district" not in printed.out
    assert "row 2" in printed.err and "'noon'" in printed.err
    spec.write_text("other_citi: {}\n", encoding="utf-8")
    with pytest.raises(GplanError, match="did you mean other_city"):
        counterfactuals(data=tmp_path / "world.jsonl", out=tmp_path / "out.jsonl", spec=spec)


def test_the_help_of_counterfactuals_shows_an_example() -> None:
    result = CliRunner().invoke(app, ["counterfactuals", "--help"])
    assert result.exit_code == 0
    assert "Example: gplan counterfactuals --data world.csv --out pairs.jsonl" in result.output


def test_synthesize_asks_a_chat_teacher_with_seeds_and_says_what_it_cost(
    tmp_path: Path, teacher: tuple[Server, str], capsys: pytest.CaptureFixture[str]
) -> None:
    server, file = teacher
    write_samples(tmp_path / "seeds.csv", simulate_rows(20, seed=1))
    write_samples(tmp_path / "contexts.csv", simulate_rows(15, seed=2))
    for asked in ("20 asked", "0 asked, 20 cached"):
        synthesize(
            data=tmp_path / "contexts.csv",
            out=tmp_path / "rows.csv",
            limit=12,
            seeds=tmp_path / "seeds.csv",
            teacher=file,
            overrides=["examples=2"],
        )
        said = capsys.readouterr().out
        report = json.loads((tmp_path / "rows.report.json").read_text(encoding="utf-8"))
        assert f"{report['spent']['requests']:,} requests" in said
        assert asked.replace("20", str(report["spent"]["requests"])) in said
        assert "compared with" in said
    assert report["rows"]["read"] == 12 and report["settings"]["teacher"]["examples"] == 2
    assert set(server.log()["paid"].values()) == {1}


def test_explain_and_counterfactuals_ask_a_chat_teacher_once(
    tmp_path: Path, teacher: tuple[Server, str], capsys: pytest.CaptureFixture[str]
) -> None:
    server, file = teacher
    rows = [
        row.with_label(canonical_plan(parse_plan(row.raw_labels)))
        for row in simulate_rows(10, seed=3)
    ]
    write_samples(tmp_path / "rows.csv", rows)
    for asked in ("10 asked", "0 asked, 10 cached"):
        explain(data=tmp_path / "rows.csv", out=tmp_path / "explained.csv", teacher=file)
        assert f"requests of this run  {asked}" in capsys.readouterr().out
    for before, after in zip(rows, read_samples(tmp_path / "explained.csv"), strict=True):
        assert after.raw_labels.endswith("</THOUGHT>" + before.raw_labels)
        assert "<CONTEXT>排演的处境。</CONTEXT>" in after.raw_labels
    pairs: list[bytes] = []
    for again in (False, True):
        counterfactuals(
            data=tmp_path / "rows.csv", out=tmp_path / "pairs.jsonl", teacher=file, on_error="skip"
        )
        assert (" 0 asked, " in capsys.readouterr().out) == again
        pairs.append((tmp_path / "pairs.jsonl").read_bytes())
    assert pairs[0] == pairs[1] and list(
        read_context_pairs(tmp_path / "pairs.jsonl", IntentLibrary.load())
    )
    assert set(server.log()["paid"].values()) == {1}


def test_rows_without_an_explanation_are_left_out_or_end_the_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write_samples(tmp_path / "rows.csv", simulate_rows(6, seed=3))
    wrong = {"kind": "wrong_schema", "share": 0.6}
    with scripted(tmp_path, responder="rehearsal_teacher:reply", faults=[wrong]) as server:
        file = tmp_path / "teacher.yaml"
        values = {"server": server.config().model_dump(exclude_defaults=True), "repair": False}
        file.write_text(json.dumps(values))
        options = {"data": tmp_path / "rows.csv", "teacher": str(file)}
        again = r"rows.csv, row \d: The replies of scripted .* Run the command again, which asks"
        for _ in range(2):  # Each run asks again for what an earlier one was refused.
            asked = server.log()["requests"]
            with pytest.raises(GplanError, match=again):
                explain(out=tmp_path / "out.csv", **options)
            assert server.log()["requests"] > asked
        explain(out=tmp_path / "out.csv", on_error="skip", **options)
    printed = capsys.readouterr()
    left = len(list(read_samples(tmp_path / "out.csv")))
    assert 0 < left < 6 and f"{6 - left} skipped" in printed.out
    assert "hold no trace" in printed.err


@pytest.mark.parametrize(
    ("fault", "said", "listed"),
    [
        ({"kind": "short"}, "truncated, .*raise max_tokens or turn thinking off", "truncated"),
        ({"kind": "error", "status": 400, "times": None, "match": "当前时间",
          "message": "maximum context length is 512"},
         "refused, .*lower max_tokens, show fewer examples, or serve",
         "refused              3; the server would refuse them again"),
    ],
)  # fmt: skip
def test_a_run_that_keeps_nothing_says_what_to_change(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], fault: dict[str, Any], said: str,
    listed: str,
) -> None:  # fmt: skip
    write_samples(tmp_path / "rows.csv", simulate_rows(3, seed=3))
    answers = tmp_path / "answers.py"
    answers.write_text("def reply(body):\n    return 'x' * 40\n")
    with scripted(tmp_path, responder=f"{answers}:reply", faults=[fault]) as server:
        file = tmp_path / "teacher.yaml"
        config = server.config().model_dump(exclude_defaults=True)
        file.write_text(json.dumps({"server": config, "examples": 0}))
        with pytest.raises(NothingKept, match=said):
            synthesize(data=tmp_path / "rows.csv", out=tmp_path / "out.csv", teacher=str(file))
    assert listed in capsys.readouterr().out
    assert len((tmp_path / "out.removed.jsonl").read_text(encoding="utf-8").splitlines()) == 3


def test_filter_says_what_passes_and_where_the_reasons_are(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = list(simulate_rows(4, seed=3))
    rows[2] = rows[2].with_label(rows[2].raw_labels.replace("tool_", "gadget_", 1))
    write_samples(tmp_path / "rows.csv", rows)
    filter_rows(data=tmp_path / "rows.csv", out=tmp_path / "kept.csv")
    said = capsys.readouterr().out
    assert f"3 of 4 rows pass and are in {tmp_path / 'kept.csv'}" in said
    assert str(tmp_path / "kept.removed.jsonl") in said and "unknown_tool" in said


def test_contradictory_options_are_refused(tmp_path: Path) -> None:
    out = tmp_path / "rows.csv"
    with pytest.raises(GplanError, match="either --rows N"):
        synthesize(service="amap", out=out)
    with pytest.raises(GplanError, match="either --rows N"):
        synthesize(service="amap", out=out, rows=3, data=tmp_path / "x.csv")
    with pytest.raises(GplanError, match="--limit takes the first rows of --data"):
        synthesize(service="amap", out=out, rows=3, limit=2)
    with pytest.raises(GplanError, match="test_fraction is 1"):
        synthesize(service="amap", out=out, rows=3, test_fraction=1.5)
    with pytest.raises(GplanError, match="--set changes a teacher file"):
        synthesize(service="amap", out=out, rows=3, overrides=["repair=false"])
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("command", "example"),
    [
        (
            "synthesize",
            "gplan synthesize --service amap --rows 5000 --out world.csv --test-fraction 0.1",
        ),
        ("filter", "gplan filter --data rows.csv --out kept.csv"),
        ("explain", "gplan explain --data gsisr_dev.csv --out explained.csv"),
    ],
)
def test_help_shows_an_example(command: str, example: str) -> None:
    result = CliRunner().invoke(app, [command, "--help"], terminal_width=140)
    told = " ".join(result.output.replace("\\\n", " ").split()).replace("\\ ", "")
    assert result.exit_code == 0 and example in told
