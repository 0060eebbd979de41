"""What a load run showed: its figures as JSON, as tables for the terminal, and what it ran on."""

from __future__ import annotations

import os
import platform
import subprocess
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import RenderableType
from rich.table import Table
from rich.text import Text

import gplan_jax
from gplan_jax.foundation.streams import cores
from gplan_jax.foundation.tables import NOTHING, Cell, TextTable
from gplan_jax.serving.latency.load_generator import UNAVAILABLE, Exchange

QUANTILES = {"p50": 0.5, "p95": 0.95, "p99": 0.99}
STAGES = ("queue", "prefill", "decode", "total")
# A lag below either of these can't change what the figures say.
LAG_LIMIT_MS, LAG_SHARE = 5.0, 0.1
FEWEST_FOR_P99 = 200  # two answers lie above the 99th percentile
FEWEST_FOR_GROWTH, GROWTH = 40, 2.0

WARNINGS = {
    "lag": "One request in a hundred left so late, or later: the load generator was short of "
    "processor time. Latencies count that, so the server is faster than they say.",
    "few": "So few answers say little about the p99.",
    "growth": "The median latency grew so from the first quarter to the last: the server does not "
    "keep up with this rate, and a longer run would show more.",
}

RunFigures = dict[str, Any]  # what ``summarize`` returns


def spread(values: Sequence[float]) -> dict[str, float] | None:
    """Mean, quantiles (linear between order statistics) and greatest of some values; None of none.

    >>> spread([1.0, 2.0, 3.0])["p50"]
    2.0
    """
    if not len(values):
        return None
    array = np.asarray(values, np.float64)
    quantiles = {name: float(np.quantile(array, share)) for name, share in QUANTILES.items()}
    return {"mean": float(array.mean()), **quantiles, "max": float(array.max())}


def summarize(
    exchanges: Sequence[Exchange], *, duration_s: float, deadline_ms: float | None = None
) -> RunFigures:
    """The figures of a run, its exchanges in the order of their intended times; all times in
    milliseconds unless the name says otherwise. ``deadline_ms`` None: every answer is of use.
    """
    answered = [exchange for exchange in exchanges if exchange.answered]
    failed = [exchange for exchange in exchanges if not exchange.answered]
    within = [e for e in answered if deadline_ms is None or e.latency_ms <= deadline_ms]
    names = dict.fromkeys(name for exchange in answered for name in exchange.usage)
    usage = {
        name: float(np.mean([e.usage[name] for e in answered if name in e.usage])) for name in names
    }
    passed = [exchange.passed for exchange in answered if exchange.passed is not None]
    summary: RunFigures = {
        "requests": len(exchanges),
        "duration_s": duration_s,
        "offered_qps": len(exchanges) / duration_s,
        "answered": len(answered),
        "errors": dict(
            Counter(f"{e.status or ''} {e.problem}".strip() for e in failed).most_common()
        ),
        # Latency counts from the intended time, service from when the request really left.
        "latency_ms": spread([exchange.latency_ms for exchange in answered]),
        "service_ms": spread([exchange.service_ms for exchange in answered]),
        "lag_ms": spread([exchange.lag_ms for exchange in exchanges]),
        "refused_ms": spread([e.service_ms for e in failed if e.status == UNAVAILABLE]),
        "goodput": {
            "deadline_ms": deadline_ms,
            "within": len(within),
            "share": len(within) / len(exchanges) if exchanges else None,
            "qps": len(within) / duration_s,
        },
        "server_ms": {
            stage: spread([e.timings_ms[stage] for e in answered if stage in e.timings_ms])
            for stage in STAGES
        },
        "usage": usage,  # means a plan
        # of prompt tokens; the next one of plans that passed the rule filter
        "cached_share": _ratio(usage.get("cached_tokens"), usage.get("prompt_tokens")),
        "passed_share": sum(passed) / len(passed) if passed else None,
        # from the last intended time to the last end
        "tail_s": max(e.ended_s for e in exchanges) - exchanges[-1].intended_s
        if exchanges
        else None,
    }

    # What limits the figures: kind of warning, a key of ``WARNINGS`` -> this run's figure.
    warnings = {}
    lag, latency = summary["lag_ms"], summary["latency_ms"]
    if lag and lag["p99"] > max(LAG_LIMIT_MS, LAG_SHARE * (latency["p50"] if latency else 0.0)):
        warnings["lag"] = f"{lag['p99']:.0f} ms"
    if 0 < len(answered) < FEWEST_FOR_P99:
        warnings["few"] = f"{len(answered)}"
    if len(answered) >= FEWEST_FOR_GROWTH:
        quarter = len(answered) // 4
        first, last = (
            float(np.median([exchange.latency_ms for exchange in part]))
            for part in (answered[:quarter], answered[-quarter:])
        )
        if last > GROWTH * first:
            warnings["growth"] = f"{first:.0f} to {last:.0f} ms"
    return summary | {"warnings": warnings}


def _ratio(part: float | None, whole: float | None) -> float | None:
    return part / whole if part is not None and whole else None


def latency_table(results: Mapping[str, Mapping[str, RunFigures]], *, title: str = "") -> Table:
    """The paper's table 5 for any models, run at the same rates: mean response time and p95.

    ``results`` holds model -> QPS as text -> ``summarize``.
    """
    rates = list(next(iter(results.values())))
    headings = [*(f"{rate} QPS\nmean, p95" for rate in rates), "passes\na plan", "tokens\na plan"]
    rows: list[Sequence[Cell]] = []
    for name, runs in results.items():
        cells: list[Cell] = [Text(name, style="bold")]
        for rate in rates:
            latency = runs[rate]["latency_ms"] or {}
            cells.append(f"{_duration(latency.get('mean'))}, {_duration(latency.get('p95'))}")
        lowest = runs[rates[0]]
        cells += [_number(lowest["usage"].get(key)) for key in ("passes", "response_tokens")]
        rows.append([*cells, _percent(lowest["passed_share"])])
    return TextTable(["", *headings, "filter\npass"], rows, title=title, plain=True).rich()


def waiting_table(summaries: Mapping[str, RunFigures], *, title: str = "") -> Table:
    """One row a run (name -> ``summarize``): how many requests, how they ended, how they waited."""
    headings = ("sent", "errors", "mean\nms", "p50", "p95", "p99", "good\nQPS", "lag\np99")
    rows: list[Sequence[Cell]] = []
    for name, run in summaries.items():
        latency = run["latency_ms"] or {}
        row: Sequence[Cell] = (
            Text(name, style="bold"),
            str(run["requests"]),
            _percent(_ratio(sum(run["errors"].values()), run["requests"])),
            *(_number(latency.get(part)) for part in ("mean", *QUANTILES)),
            _number(run["goodput"]["qps"]),
            _number((run["lag_ms"] or {}).get("p99")),
        )
        rows.append(row)
    return TextTable(("", *headings), rows, title=title, plain=True).rich()


def server_table(summaries: Mapping[str, RunFigures], *, title: str = "") -> Table:
    """One row a run: where the server spent the time, and what a plan cost it, all means."""
    headings = ("queue\nms", "prefill\nms", "decode\nms", "passes", "drafts\nright")
    rows: list[Sequence[Cell]] = []
    for name, run in summaries.items():
        server, usage = run["server_ms"], run["usage"]
        row: Sequence[Cell] = (
            Text(name, style="bold"),
            *(_number((server[stage] or {}).get("mean")) for stage in STAGES[:3]),
            _number(usage.get("passes")),
            _percent(_ratio(usage.get("accepted_tokens"), usage.get("drafted_tokens"))),
            _percent(run["cached_share"]),
        )
        rows.append(row)
    return TextTable(("", *headings, "prompt\ncached"), rows, title=title, plain=True).rich()


def warning_lines(summaries: Mapping[str, RunFigures]) -> list[RenderableType]:
    """The errors of each run by kind, and each kind of warning with the runs that it concerns."""
    lines: list[RenderableType] = []
    for name, run in summaries.items():
        if run["errors"]:
            kinds = ", ".join(f"{count} x {kind}" for kind, count in run["errors"].items())
            lines.append(Text(f"{name}: not answered: {kinds}", style="red"))
    for kind, meaning in WARNINGS.items():
        concerned = [
            f"{name} ({run['warnings'][kind]})"
            for name, run in summaries.items()
            if kind in run["warnings"]
        ]
        if concerned:
            lines.append(Text(f"{'; '.join(concerned)}: {meaning}", style="yellow"))
    return lines


def _percent(share: float | None) -> str:
    if share is None:
        return NOTHING
    return f"{share:.1%}" if share else "0"


def _duration(milliseconds: float | None) -> str:
    """As the paper writes them: 366 ms, 1.06 s."""
    if milliseconds is None:
        return NOTHING
    if milliseconds >= 1000:
        return f"{milliseconds / 1000:.2f} s"
    return f"{milliseconds:.0f} ms" if milliseconds >= 10 else f"{milliseconds:.1f} ms"


def _number(value: float | None) -> str:
    if value is None:
        return NOTHING
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def machine() -> dict[str, Any]:
    """What a measurement runs on: processor, accelerator, versions, and how busy it was before."""
    cpu = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
        cpu = names[0] if names else cpu
    # The driver is asked for the names of GPUs, since JAX would take their memory.
    accelerator = None
    query = ["nvidia-smi", "--query-gpu=name", "--format=csv,noheader"]
    with suppress(OSError, subprocess.SubprocessError):
        found = subprocess.run(query, capture_output=True, text=True, check=True, timeout=20).stdout
        accelerator = ", ".join(found.split("\n")).strip(", ") or None
    jax_version = None
    with suppress(PackageNotFoundError):
        jax_version = version("jax")
    return {
        "cpu": cpu,
        "cores": cores(),
        "accelerator": accelerator,
        "load_before": round(os.getloadavg()[0], 2),
        "gplan_jax": gplan_jax.__version__,
        "jax": jax_version,
        "python": platform.python_version(),
    }


def describe_machine(ran_on: Mapping[str, Any]) -> str:
    """``machine`` in one line."""
    accelerator = ran_on["accelerator"] or "no GPU"
    return (
        f"Server and load generator on {ran_on['cpu']}, {ran_on['cores']} cores, {accelerator}; "
        f"load average before: {ran_on['load_before']}; gplan-jax {ran_on['gplan_jax']}, "
        f"JAX {ran_on['jax']}, Python {ran_on['python']}."
    )
