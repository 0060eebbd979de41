"""Whole runs: faults and kill -9 leave the same bytes and nothing paid twice; models, judges."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from gplan_jax.chat import BudgetSpent, ServerUnavailable
from gplan_jax.evaluation.judge.chat_judge import ChatJudge, JudgeConfig
from gplan_jax.evaluation.judge.judge_tables import (
    pairs_table,
    scores_table,
    unscored_of,
    warnings_of,
)
from gplan_jax.evaluation.judge.judgement import AxisScore, Judgement, Preference
from gplan_jax.evaluation.judge.judging import compare_plans, judge_plans
from gplan_jax.evaluation.judge.rules import RuleJudge
from gplan_jax.evaluation.judge.sources import PlanToJudge, plans_of_predictions, read_rows
from gplan_jax.foundation import GplanError, faulty_rows, streams
from gplan_jax.foundation.errors import NothingKept
from gplan_jax.foundation.files import read_json, read_jsonl
from gplan_jax.foundation.tables import plain_text
from gplan_jax.gsisr import IntentLibrary, Plan, Sample
from tests.evaluation.judge.conftest import PLANS, JudgeServer, Start, rows, write_case

LIBRARY = IntentLibrary.load()
ROWS = 48
# What changes the text of a reply comes first in both scripts, so that it is the same in both.
CONTENT: list[dict[str, Any]] = [
    {"kind": "wrong_schema", "share": 0.1},
    {"kind": "short", "share": 0.1},
    {"kind": "twice", "share": 0.1},
]
DELIVERY: list[dict[str, Any]] = [
    {"kind": "throttle", "share": 0.3, "retry_after": "0"},
    {"kind": "error", "share": 0.3, "times": 2, "status": 500},
    {"kind": "truncate", "share": 0.2},
    {"kind": "cut", "share": 0.2},
    {"kind": "drop", "share": 0.2},
    {"kind": "hang", "share": 0.05},
]


def candidates(folder: Path, samples: Sequence[Sample], plans: list[Plan] | None = None,
               name: str = "predictions") -> list[PlanToJudge]:  # fmt: skip
    data, predictions = write_case(folder, list(samples), plans, name)
    return plans_of_predictions(name, predictions, read_rows(data, LIBRARY), LIBRARY)


def chat_judge(started: JudgeServer, cache: Path, *overrides: str) -> ChatJudge:
    return ChatJudge(JudgeConfig.load(started.file, overrides), cache, LIBRARY)


def test_faults_change_no_byte_and_nothing_is_paid_twice(
    tmp_path: Path, judge_server: Start
) -> None:
    plans = candidates(tmp_path, rows(ROWS))
    calm = judge_server({"faults": CONTENT})
    stormy = judge_server({"faults": [*CONTENT, *DELIVERY]}, client={"timeout_s": 0.5})
    for name, started in (("calm", calm), ("stormy", stormy)):
        judge_plans(plans, [chat_judge(started, tmp_path / f"{name}.db")], tmp_path / name)
    calmly, stormily = (tmp_path / name / "judgements.jsonl" for name in ("calm", "stormy"))
    assert calmly.read_bytes() == stormily.read_bytes()
    log = stormy.server.log()
    assert len(log["paid"]) == ROWS and set(log["paid"].values()) == {1}
    assert log["statuses"]["429"] > 5 and log["statuses"]["500"] > 5
    result = read_json(tmp_path / "stormy" / "judge.json")
    reasons = result["unscored"]["scripted"]
    assert len(reasons) >= 3 and all(reason.startswith("unusable") for reason in reasons)
    figures = result["sources"]["predictions"]["judges"]["scripted"]
    assert figures["unscored"] == sum(reasons.values())
    assert figures["scored"] + figures["unscored"] == ROWS


def start_command(folder: Path, started: JudgeServer, out: Path) -> subprocess.Popen[str]:
    arguments = ["judge", "--data", folder / "test.csv", "--predictions"]
    arguments += [
        f"predictions={folder / 'predictions.jsonl'}",
        "--judge",
        started.file,
        "--out",
        out,
    ]
    command = [sys.executable, "-m", "gplan_jax.cli.main", *map(str, arguments)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def wait_for(started: JudgeServer, paid: int, run: subprocess.Popen[str]) -> None:
    while len(started.server.log()["paid"]) < paid:
        assert run.poll() is None, run.communicate()
        time.sleep(0.02)


def test_a_run_that_is_killed_and_interrupted_goes_on_where_it_was(
    tmp_path: Path, judge_server: Start
) -> None:
    plans = candidates(tmp_path, rows(ROWS))
    slow = {"faults": CONTENT, "latency_s": 0.1, "latency_spread": 0.5}
    started = judge_server(slow, client={"concurrency": 4})
    out, cache = tmp_path / "out", tmp_path / "out.cache.sqlite"
    for paid, how in ((ROWS // 3, signal.SIGKILL), (ROWS // 2, signal.SIGINT)):
        run = start_command(tmp_path, started, out)
        wait_for(started, paid, run)
        run.send_signal(how)
        _, said = run.communicate(timeout=30)
        assert run.returncode == (-9 if how is signal.SIGKILL else 130) and not out.exists()
    assert f"Every paid reply is in {cache}; run the command again" in said
    again = start_command(tmp_path, started, out)
    shown, said = again.communicate(timeout=60)
    assert again.returncode == 0, said
    assert str(cache) in shown
    undisturbed = judge_server({"faults": CONTENT})
    judge_plans(plans, [chat_judge(undisturbed, tmp_path / "u.db")], tmp_path / "undisturbed")
    same = (tmp_path / "undisturbed" / "judgements.jsonl").read_bytes()
    assert (out / "judgements.jsonl").read_bytes() == same
    billed = started.server.log()["paid"]
    assert len(billed) == ROWS and set(billed.values()) == {1}


def test_a_refused_row_is_unscored_and_the_others_go_on(
    tmp_path: Path, judge_server: Start
) -> None:
    refused = {"kind": "error", "status": 400, "times": None, "match": '"p_7"', "message": "no"}
    filtered = {"kind": "filter", "match": '"p_8"'}
    started = judge_server({"faults": [refused, filtered]})
    plans = candidates(tmp_path, rows(12))
    result = judge_plans(plans, [chat_judge(started, tmp_path / "c.db")], tmp_path / "out")
    records = list(read_jsonl(tmp_path / "out" / "judgements.jsonl"))
    assert [r["row"] for r in records if r["status"] == "unscored"] == [8, 9]
    assert all(r["unscored"].startswith("no reply: ") for r in records[7:9])
    assert result["sources"]["predictions"]["judges"]["scripted"]["scored"] == 10
    assert sum(result["unscored"]["scripted"].values()) == 2
    listed = unscored_of(result)
    assert len(listed) == 2 and all("scripted: 1 unscored, no reply" in line for line in listed)


def test_what_stops_a_run_leaves_no_result_and_says_how_to_go_on(
    tmp_path: Path, judge_server: Start
) -> None:
    plans = candidates(tmp_path, rows(12))
    closed = {"kind": "error", "status": 401, "times": None, "message": "bad key"}
    started = judge_server({"faults": [closed]})
    with pytest.raises(ServerUnavailable):
        judge_plans(plans, [chat_judge(started, tmp_path / "a.db")], tmp_path / "out")
    started = judge_server()
    with pytest.raises(BudgetSpent):
        poor = chat_judge(started, tmp_path / "b.db", "server.token_budget=9000")
        judge_plans(plans, [poor], tmp_path / "out")
    assert not (tmp_path / "out").exists()
    # With more to spend, what was paid for is not asked again.
    judge_plans(plans, [chat_judge(started, tmp_path / "b.db")], tmp_path / "out")
    paid = started.server.log()["paid"]
    assert len(paid) == 12 and set(paid.values()) == {1}


def test_a_model_that_changes_during_a_run_is_flagged(tmp_path: Path, judge_server: Start) -> None:
    plans = candidates(tmp_path, rows(12))
    cache = tmp_path / "c.db"
    names = ("scripted-2026-01-01", "scripted-2026-02-01")
    first, then = (judge_server({"model": name}) for name in names)
    judge_plans(plans[:5], [chat_judge(first, cache)], tmp_path / "part")
    assert warnings_of(read_json(tmp_path / "part" / "judge.json")["judges"]) == []
    result = judge_plans(plans, [chat_judge(then, cache)], tmp_path / "out")
    assert result["judges"]["scripted"]["models_reported"] == dict(zip(names, (5, 7), strict=True))
    assert result["judges"]["scripted"]["model_changed"] is True
    [warning] = warnings_of(result["judges"])
    assert ", ".join(names) in warning


def test_another_model_is_warned_of_recorded_and_not_taken_for_the_right_one(
    tmp_path: Path, judge_server: Start, caplog: pytest.LogCaptureFixture
) -> None:
    plans, cache = candidates(tmp_path, rows(6)), tmp_path / "c.db"
    wrong, right = judge_server({"model": "smol"}), judge_server()
    result = judge_plans(plans, [chat_judge(wrong, cache)], tmp_path / "wrong")
    [warning] = caplog.messages  # Once, not for every row.
    assert "was asked for scripted, and smol answered" in warning
    described = result["judges"]["scripted"]
    assert described["models_reported"] == {"smol": 6} and described["model_differs"] is True
    # Once the server is mended, so are the scores.
    result = judge_plans(plans, [chat_judge(right, cache)], tmp_path / "right")
    described = result["judges"]["scripted"]
    assert described["models_reported"] == {"scripted": 6} and not described["model_differs"]
    assert len(right.server.log()["paid"]) == 6
    # What smol said is there for whoever asks for smol, or calls it so.
    meant = chat_judge(wrong, cache, "server.answers_as=smol")
    assert judge_plans(plans, [meant], tmp_path / "meant")["judges"]["scripted"]["spent"] == {
        "requests": 6,
        "tokens": described["spent"]["tokens"],
        "cost": None,
    }
    assert wrong.server.log()["requests"] == 6 and len(caplog.messages) == 1


@pytest.mark.parametrize("ask", ["score", "compare"])
def test_a_run_in_which_nothing_succeeds_stops_early(
    tmp_path: Path, judge_server: Start, monkeypatch: pytest.MonkeyPatch, ask: str
) -> None:
    monkeypatch.setattr(faulty_rows, "MOST_FAILED_AT_FIRST", 5)
    monkeypatch.setattr(streams, "WINDOW", 1)
    started = judge_server({"faults": [{"kind": "short"}]}, client={"concurrency": 2})
    plans = candidates(tmp_path, rows(60))
    judge = chat_judge(started, tmp_path / "c.db")
    with pytest.raises(NothingKept, match=r"5 rows in a row .* judge scripted .*raise max_tokens"):
        if ask == "score":
            judge_plans(plans, [judge], tmp_path / "out")
        else:
            others = candidates(tmp_path, rows(60), [PLANS[n % 2] for n in range(1, 61)])
            compare_plans(plans, others, [judge], tmp_path / "out")
    assert not (tmp_path / "out").exists() and started.server.log()["requests"] < 30


def test_what_has_no_plan_or_is_filtered_is_not_sent(tmp_path: Path, judge_server: Start) -> None:
    started = judge_server()
    plans: list[Plan] = [PLANS[0], [], [*PLANS[0], *PLANS[0]], PLANS[1]]
    found = candidates(tmp_path, rows(4), plans)
    result = judge_plans(found, [chat_judge(started, tmp_path / "a.db")], tmp_path / "a")
    figures = result["sources"]["predictions"]["judges"]["scripted"]
    assert (figures["scored"], figures["no_plan"], figures["filtered"]) == (3, 1, 0)
    assert result["filter_pass"] == {"predictions": 0.5}
    strict = [chat_judge(started, tmp_path / "a.db")]
    result = judge_plans(found, strict, tmp_path / "b", filtered=True)
    figures = result["sources"]["predictions"]["judges"]["scripted"]
    assert (figures["scored"], figures["no_plan"], figures["filtered"]) == (2, 1, 1)
    records = list(read_jsonl(tmp_path / "b" / "judgements.jsonl"))
    assert [r["status"] for r in records] == ["scored", "no_plan", "filtered", "scored"]
    assert [r["filter_pass"] for r in records] == [True, False, False, True]
    assert len(started.server.log()["paid"]) == 3


def test_judges_stand_beside_each_other(tmp_path: Path, judge_server: Start) -> None:
    found = candidates(tmp_path, rows(12))
    again = judge_server(name="second")
    judges = [RuleJudge(LIBRARY), chat_judge(again, tmp_path / "c.db")]
    result = judge_plans(found, judges, tmp_path / "out", combine="majority")
    assert set(result["alpha"]) == {"flow", "logic", "spatiotemporal"}
    figures = result["sources"]["predictions"]
    assert list(figures["judges"]) == ["rules", "second"] and figures["combined"]["scored"] == 12
    shown = " ".join(plain_text(scores_table(result), width=120).split())
    assert "Krippendorff's alpha" in shown and "all, majority" in shown
    assert "rules is no language model" in shown
    with pytest.raises(GplanError, match="Two judges are called rules"):
        judge_plans(found, [RuleJudge(LIBRARY), RuleJudge(LIBRARY)], tmp_path / "two")
    with pytest.raises(GplanError, match="not empty"):
        judge_plans(found, [RuleJudge(LIBRARY)], tmp_path / "out")


class OtherAxes:
    """A judge by another rubric."""

    name, axes, at_once, caution = "tone", ("tone",), 2, ""
    settings: dict[str, Any] = {}  # noqa: RUF012

    async def judge(self, sample: Sample, plan: Plan) -> Judgement:
        assert sample.raw_labels == ""
        return Judgement({"tone": AxisScore(2, "cold")})

    async def compare(self, sample: Sample, first: Plan, second: Plan) -> Preference:
        return Preference("first", "always")

    def note(self) -> str:
        return ""

    async def close(self) -> None:
        pass


def test_another_rubric_needs_no_change_but_a_table_of_its_own(tmp_path: Path) -> None:
    found = candidates(tmp_path, rows(4))
    result = judge_plans(found, [OtherAxes()], tmp_path / "out")
    assert result["sources"]["predictions"]["judges"]["tone"]["means"]["tone"] == 2.0
    assert "Tone" in plain_text(scores_table(result))
    with pytest.raises(GplanError, match="different axes"):
        judge_plans(found, [OtherAxes(), RuleJudge(LIBRARY)], tmp_path / "two")


def test_pairs_are_asked_in_both_orders_and_equal_ones_not(
    tmp_path: Path, judge_server: Start
) -> None:
    samples = rows(6)
    first = candidates(tmp_path, samples, [PLANS[2], PLANS[0], PLANS[1], [], PLANS[0], PLANS[2]])
    second = candidates(tmp_path, samples, [PLANS[1], PLANS[2], PLANS[1], PLANS[0],
                                            PLANS[0], PLANS[0]], "other")  # fmt: skip
    started = judge_server(responder="by_length")
    judge = chat_judge(started, tmp_path / "c.db")
    result = compare_plans(first, second, [judge], tmp_path / "out")
    line = result["judges"]["scripted"]
    assert [line[k] for k in ("win", "loss", "tie", "identical", "no_plan")] == [2, 1, 0, 2, 1]
    assert line["win_rate"] == pytest.approx(2 / 3) and line["first_share"] == 0.5
    assert len(started.server.log()["paid"]) == 6
    records = list(read_jsonl(tmp_path / "out" / "comparisons.jsonl"))
    assert records[0]["shown_first"]["choice"] == "first"
    assert records[0]["shown_second"]["choice"] == "second"
    assert "shown_first" not in records[2]
    assert "win rate" in plain_text(pairs_table(result), width=120)
    rules = compare_plans(first, second, [RuleJudge(LIBRARY)], tmp_path / "rules")
    assert rules["judges"]["rules"]["first_share"] in (0.5, None)


def test_a_judge_that_likes_the_first_plan_wins_nothing(
    tmp_path: Path, judge_server: Start
) -> None:
    samples = rows(8)
    first = candidates(tmp_path, samples, [PLANS[0]] * 8)
    second = candidates(tmp_path, samples, [PLANS[1]] * 8, "other")
    judge = chat_judge(judge_server(), tmp_path / "c.db")
    line = compare_plans(first, second, [judge], tmp_path / "out")["judges"]["scripted"]
    assert (line["win"], line["loss"], line["tie"]) == (0, 0, 8)
    assert (line["first_share"], line["inconsistent"], line["win_rate"]) == (1.0, 1.0, 0.5)
