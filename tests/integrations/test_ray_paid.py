"""Synthesis and judging with Ray here: the bytes of one process, and no answer is paid twice."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from gplan_jax.chat.cache import SHARDS, merge_shards, totals_of
from gplan_jax.cli.main import app
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import read_jsonl, write_jsonl
from gplan_jax.gsisr import read_samples, write_samples
from gplan_jax.synthesis.world.simulation import simulate_rows
from tests.chat.servers import Server, scripted
from tests.integrations.ray_workers import killed

ray = pytest.importorskip("ray", reason="the extra ray is not installed")
pytest.importorskip("ray.data", reason="the extra ray is not installed")

from gplan_jax.integrations.ray import JudgeBatch, SynthesizeBatch  # noqa: E402

# Clusters take longer than all other tests of the factory.
pytestmark = pytest.mark.slow

ROWS = 60
PRICES = {"prompt_price": 1.0, "completion_price": 2.0, "concurrency": 4, "currency": "EUR"}
Start = Callable[..., tuple[Server, Path]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Contexts, of which the last repeat the first under other ids."""
    path = tmp_path_factory.mktemp("contexts") / "contexts.csv"
    rows = list(simulate_rows(ROWS - 5, seed=8))
    again = [type(row)(**row.to_dict() | {"id": f"again {n}"}) for n, row in enumerate(rows[:5])]
    write_samples(path, [*rows, *again])
    return path


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Starts a rehearsal's server; returns it and the file of a teacher or judge."""
    with ExitStack() as stack:

        def started(name: str, responder: str | None, **script: Any) -> tuple[Server, Path]:
            opened = scripted(
                tmp_path, responder=responder, name=f"{name}-script", latency_s=0.15, **script
            )
            server = stack.enter_context(opened)
            config = server.config(**PRICES).model_dump(mode="json", exclude_defaults=True)
            (tmp_path / f"{name}.yaml").write_text(json.dumps({"server": config}), encoding="utf-8")
            return server, tmp_path / f"{name}.yaml"

        yield started


TEACHER = "rehearsal_teacher:reply"


def run(*arguments: object, code: int = 0) -> str:
    result = CliRunner().invoke(app, [str(argument) for argument in arguments])
    if code:
        assert isinstance(result.exception, GplanError), result.output
        return str(result.exception)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def totals(cache: Path) -> tuple[float, ...]:
    return tuple(round(value, 9) for value in totals_of(cache, "EUR"))


def contents(folder: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in folder.iterdir() if "cache" not in p.name}


def test_synthesis_with_workers_that_die_is_that_of_one_process(
    start: Start, data: Path, tmp_path: Path
) -> None:
    calm, teacher = start("calm", TEACHER)
    rough, other = start("rough", TEACHER)
    options = ("synthesize", "--data", data, "--test-fraction", 0.3)
    run(*options, "--out", tmp_path / "one" / "rows.csv", "--teacher", teacher)
    engine = ("--engine", "ray", "--workers", 2)
    out = tmp_path / "ray" / "rows.csv"
    with killed("ChatClient", when=lambda: sum(rough.log()["sent"].values()) > 10, times=2):
        run(*options, *engine, "--out", out, "--teacher", other)
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")
    log = rough.log()
    assert calm.log()["paid"] == log["paid"] and set(log["paid"].values()) == {1}
    # What was on the wire of an actor that died is sent again, and nothing else.
    again = sum(count - 1 for count in log["asked"].values())
    assert 0 < again <= 2 * 4 * 2
    cache = out.with_name("rows.cache.sqlite")
    assert sorted(path.name for path in out.parent.iterdir() if "cache" in path.name) == [
        cache.name
    ]
    assert totals(cache) == totals(tmp_path / "one" / cache.name)
    # Again, whoever does it: nothing is asked.
    for more in (engine, ()):
        run(*options, *more, "--out", out, "--teacher", other)
    assert rough.log()["requests"] == log["requests"]
    assert contents(tmp_path / "ray") == contents(tmp_path / "one")


def test_a_budget_is_the_sum_of_the_workers(start: Start, data: Path, tmp_path: Path) -> None:
    """Rows without an answer, which the server filters, are the same too."""
    _, teacher = start("teacher", TEACHER, faults=[{"kind": "filter", "share": 0.05}])
    one, out = tmp_path / "one" / "rows.csv", tmp_path / "ray" / "rows.csv"
    options = (
        "synthesize",
        "--data",
        data,
        "--teacher",
        teacher,
        "--engine",
        "ray",
        "--workers",
        3,
    )
    run(*options, "--out", one, "--engine=local")
    assert any(row["tier"] == "answer" for row in read_jsonl(one.with_suffix(".removed.jsonl")))
    cost = totals_of(one.with_name("rows.cache.sqlite"), "EUR").cost
    limit = ("--set", f"server.budget={cost / 2}")
    spent = 0.0
    for _ in range(2):
        assert "The budget is spent" in run(*options, "--out", out, *limit, code=2)
        before, spent = spent, totals_of(out.with_name("rows.cache.sqlite"), "EUR").cost
        assert before <= spent <= cost / 2
    assert spent > cost / 8
    run(*options, "--out", out)
    assert contents(out.parent) == contents(one.parent)


def test_judging_is_that_of_one_process(start: Start, data: Path, tmp_path: Path) -> None:
    _, judge = start("judge", None)
    rows = list(read_samples(data))
    for number in (1, 2):
        texts = [row.raw_labels for row in (*rows[number - 1 :], *rows[: number - 1])]
        lines = [{"id": row.id, "text": text} for row, text in zip(rows, texts, strict=True)]
        write_jsonl(tmp_path / f"p{number}.jsonl", lines)
    first = ("--predictions", tmp_path / "p1.jsonl", "--data", data, "--judge", judge)
    kinds = {"scores": ("--labels",), "pairs": ("--against", tmp_path / "p2.jsonl")}
    for kind, more in kinds.items():
        for engine in ("local", "ray"):
            workers = ("--engine", engine, "--workers", 2)
            out = tmp_path / f"{kind}-{engine}"
            run("judge", *first, *more, "--out", out, "--filtered", "--judge", "rules", *workers)
        # The labels are the predictions too, and are paid for once.
        one, ray = (totals(tmp_path / f"{kind}-{e}.cache.sqlite") for e in ("local", "ray"))
        assert one == ray and one[0] > 20
        assert contents(tmp_path / f"{kind}-ray") == contents(tmp_path / f"{kind}-local")


def test_faults_of_workers_are_named(
    start: Start, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, teacher = start("teacher", TEACHER)
    out = ("synthesize", "--out", tmp_path / "rows.csv", "--engine", "ray", "--data", data)
    nowhere = ("--set", "server.base_url=http://127.0.0.1:9/v1", "--set", "server.attempts=1")
    said = run(*out, "--teacher", teacher, *nowhere, code=2)
    cache = (tmp_path / "rows.cache.sqlite").resolve()
    assert "answers no more requests" in said and f"every answer so far is in {cache}." in said
    assert not (tmp_path / "rows.csv").exists()


def test_batches_of_a_dataset(start: Start, data: Path, tmp_path: Path) -> None:
    """An actor of Ray's own pool that dies has paid for nothing in vain, either."""
    server, teacher = start("teacher", TEACHER)
    judging, judge = start("judge", None)
    rows = list(read_samples(data))[:-5]  # Those that repeat others might be two actors'.
    arguments = ("--data", data, "--limit", len(rows), "--teacher", teacher)
    run("synthesize", *arguments, "--out", tmp_path / "one.csv")
    kept = {o["row"]: o for o in read_jsonl(tmp_path / "one.origin.jsonl")}
    removed = {r["row"]: r for r in read_jsonl(tmp_path / "one.removed.jsonl")}
    cache = tmp_path / "cache.sqlite"
    contexts = [row.with_label("").to_dict() | {"n": n} for n, row in enumerate(rows, start=1)]
    before = server.log()["requests"]
    ray.init(log_to_driver=False, include_dashboard=False, num_cpus=3)
    try:
        dataset = ray.data.from_items(contexts).map_batches(
            SynthesizeBatch,
            fn_constructor_kwargs={"teacher": str(teacher), "cache": str(cache), "workers": 2},
            concurrency=2,
            batch_size=10,
        )
        with killed("MapWorker", when=lambda: server.log()["requests"] > before + 20):
            found = sorted(dataset.take_all(), key=lambda row: row["n"])
        plans = [row | {"plan": row["raw_labels"].rpartition("</THOUGHT>")[2]} for row in found]
        scored = ray.data.from_items(plans).map_batches(
            JudgeBatch,
            fn_constructor_kwargs={"judge": str(judge), "cache": str(tmp_path / "judged.sqlite")},
            concurrency=1,
            batch_size=20,
        )
        scores = sorted(scored.take_all(), key=lambda row: row["n"])
    finally:
        ray.shutdown()
    merge_shards(cache)
    assert not cache.with_name(f"{cache.name}{SHARDS}").exists()
    assert totals(cache) == totals(tmp_path / "one.cache.sqlite")
    for row in found:
        if row["n"] in kept:
            assert row["removed"] == "" and row["raw_labels"].startswith("<THOUGHT>")
            assert kept[row["n"]].items() >= json.loads(row["origin"]).items()
        elif removed[row["n"]]["tier"] != "duplicate":
            assert row["raw_labels"] == ""
            assert row["removed"].startswith(f"{removed[row['n']]['tier']}/")
    for row in scores:
        none = row["raw_labels"] == ""
        assert row["unscored"] == ("no plan" if none else "")
        assert bool(json.loads(row["scores"])) != none
    assert judging.log()["requests"] > 0
