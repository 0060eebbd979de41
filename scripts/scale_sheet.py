"""Machines, hours and cost for a number of contexts, rows or events: the tables of docs/scale.md.

    python scripts/scale_sheet.py
    python scripts/scale_sheet.py --used 0.3 --price 2.49,1.2,0.08    # share of the peak, $ an hour

Three kinds of figures go in. *Measured* ones are rates of one CPU core, from docs/benchmarks.md.
*Counted* ones are operations: tokens of the paper's prompt and response with the Qwen3 tokenizer,
through the shapes of Qwen3. *Assumed* ones are options: the share of an accelerator's stated peak
that a program reaches (nothing here has run on one), and what an hour costs.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from bench_flops import PEAKS, SHAPES, Work, needed_work

CONTEXTS = (10**5, 10**7, 10**9)
EVENTS = (10**6, 10**9)

# Measured on one core of an AMD EPYC, a processor second (docs/benchmarks.md, docs/triggers.md).
EVENTS_A_SECOND = 28_000  # gplan triggers
ROWS_TOKENIZED = 427  # checked, tokenized and written, 13 stages
REQUESTS_A_SECOND = 353  # gplan synthesize: what one process can ask for
REQUESTS_A_ROW = 1.4  # at the paper's removal rate, with repairs
# Counted with Qwen3's tokenizer: a request with four examples, and its reply (docs/synthesis.md).
TEACHER_TOKENS = (6_200, 230)

# Tokens on average: the public rows with `amap_zh` and Qwen3's tokenizer, explained.
PROMPT, SHARED, RESPONSE, EXPLICIT, LATENT = 1_633, 761, 100, 230, 100
PASSES, NODES = 4.4, 64  # of a latent plan, and tokens that one verifies (docs/benchmarks.md)
ACCELERATORS = {"H100": "H100", "v5e chip": "TPU v5e"}
EPOCHS = 12


@dataclass(frozen=True)
class Assumptions:
    """What is not known here.

    Attributes:
        used: share of an accelerator's stated peak that planning and training reach.
        prices: dollars an hour of an H100, a v5e chip and a CPU core.
        teacher: dollars a million tokens that a teacher reads, and that it writes.
    """

    used: float = 0.4
    prices: tuple[float, float, float] = (3.0, 1.2, 0.05)
    teacher: tuple[float, float] = (0.3, 1.2)


def plan_flops(model: str) -> float:
    """Operations of one latent plan whose system prompt is cached: its prompt, then its passes."""
    verified = PASSES * NODES
    own = PROMPT - SHARED
    tokens = own + verified
    pairs = own * (own + 1) / 2 + own * SHARED + verified * PROMPT
    work = Work(tokens, pairs, verified)
    return work.layer_flops(SHAPES[model]) + work.head_flops(SHAPES[model])


def training_flops(model: str, rows: int) -> float:
    """Operations of ``EPOCHS`` epochs of PICD with the shared prefix once every 64 rows."""
    responses = np.linspace(EXPLICIT, LATENT, EPOCHS)  # blocks turn latent one after another
    batch = 64
    epochs = [
        needed_work(np.full(batch, PROMPT + length), batch * length, SHARED).flops(SHAPES[model])
        for length in responses
    ]
    return sum(epochs) / batch * rows


def plans(given: Assumptions) -> Iterable[list[str]]:
    for model in ("qwen3-1.7b", "qwen3-4b"):
        for (name, device), price in zip(ACCELERATORS.items(), given.prices, strict=False):
            rate = PEAKS[device] * given.used / plan_flops(model)
            hours = [contexts / rate / 3600 for contexts in CONTEXTS]
            yield [model, name, f"{rate:.0f}", *(_hours(h, price) for h in hours)]


def trainings(given: Assumptions) -> Iterable[list[str]]:
    for model in ("qwen3-1.7b", "qwen3-4b"):
        for (name, device), price in zip(ACCELERATORS.items(), given.prices, strict=False):
            rate = PEAKS[device] * given.used
            hours = [training_flops(model, rows) / rate / 3600 for rows in (10_000, 100_000)]
            yield [model, name, *(_hours(h, price) for h in hours)]


def whole_jobs(given: Assumptions, rows: int = 100_000) -> Iterable[list[str]]:
    """What so many rows take on one H100 and on a v5e slice of 16 chips."""
    machines = ((PEAKS["H100"], 1, given.prices[0]), (PEAKS["TPU v5e"], 16, given.prices[1]))
    for model in ("qwen3-1.7b", "qwen3-4b"):
        jobs = {
            f"PICD, {EPOCHS} epochs": training_flops(model, rows),
            "a plan for each": plan_flops(model) * rows,
        }
        for job, flops in jobs.items():
            hours = [flops / (peak * chips * given.used) / 3600 for peak, chips, _ in machines]
            costs = [chips * price for _, chips, price in machines]
            yield [model, job, *map(_hours, hours, costs)]


def cpu_work(given: Assumptions) -> Iterable[list[str]]:
    core = given.prices[2]
    for events in EVENTS:
        yield ["triggers, events", f"{events:,}", _hours(events / EVENTS_A_SECOND / 3600, core)]
    for rows in CONTEXTS[:2]:
        yield ["tokens of rows", f"{rows:,}", _hours(rows / ROWS_TOKENIZED / 3600, core)]
    for rows in CONTEXTS[:2]:
        requests = rows * REQUESTS_A_ROW
        yield [
            "rows from a teacher, our part",
            f"{rows:,}",
            _hours(requests / REQUESTS_A_SECOND / 3600, core),
        ]
        millions = [requests * tokens / 1e6 for tokens in TEACHER_TOKENS]
        cost = sum(count * price for count, price in zip(millions, given.teacher, strict=True))
        told = f"{millions[0]:,.0f} + {millions[1]:,.0f} M tokens, ${cost:,.0f}"
        yield ["rows from a teacher, its part", f"{rows:,}", told]


def _hours(hours: float, price: float) -> str:
    digits = 1 if hours < 10 else 0
    time = f"{hours * 60:.1f} min" if hours < 1 else f"{hours:,.{digits}f} h"
    cost = hours * price
    return f"{time}, " + (f"${cost:,.0f}" if cost >= 10 else f"${cost:.2f}")


def markdown(heads: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    rows = [list(heads), ["---"] * len(heads), *map(list, lines)]
    return "\n".join("| " + " | ".join(row) + " |" for row in rows)


def sheets(given: Assumptions) -> list[str]:
    """The tables, in Markdown."""
    contexts = [f"{count:,} contexts" for count in CONTEXTS]
    return [
        markdown(("planner", "one", "plans/s", *contexts), plans(given)),
        markdown(("planner", "one", "10,000 rows", "100,000 rows"), trainings(given)),
        markdown(("planner", "100,000 rows", "one H100", "v5e-16"), whole_jobs(given)),
        markdown(("one CPU core", "how many", "time"), cpu_work(given)),
    ]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--used", type=float, default=Assumptions.used, help="of the peak")
    parser.add_argument("--price", default="3,1.2,0.05", help="$ an hour: H100, v5e chip, core")
    parser.add_argument("--teacher", default="0.3,1.2", help="$ a million tokens read, written")
    options = parser.parse_args()
    h100, v5e, core = map(float, options.price.split(","))
    read, written = map(float, options.teacher.split(","))
    given = Assumptions(options.used, (h100, v5e, core), (read, written))
    print("\n\n".join(sheets(given)))


if __name__ == "__main__":
    main()
