"""Passes that drafts save, without a model; prints one JSON line of figures.

    python scripts/bench_drafts.py                                   # simulated rows, a minute
    python scripts/bench_drafts.py --rows ROWS.csv --tokenizer QWEN3_DIRECTORY

Counts are learnt from one part of the rows; the plans of the other part are replayed as if a model
had chosen them, the prefill included: a pass verifies the tree that is drafted, and the first token
that it lacks begins the next chain. A budget of 0 nodes is the chain alone, that is forced runs.
``without_counts`` starts from no plan at all, ``online`` too, but gains every plan once it is done.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from bench_layouts import find_sources

from gplan_jax.foundation import GplanError
from gplan_jax.gsisr import (
    IntentLibrary,
    Plan,
    Sample,
    canonical_plan,
    check_plan,
    parse_plan,
    read_samples,
    split_by_id,
)
from gplan_jax.gsisr.intent_counts import ContextKey, IntentCounts, context_key, intent_texts
from gplan_jax.inference.grammar.drafts import DraftModel
from gplan_jax.inference.grammar.plan_grammar import PlanGrammar, ResponseForm

FORMS: tuple[ResponseForm, ...] = ("plan", "latent")


@dataclass
class Replay:
    """What a response took: passes, tokens drafted and right, seconds of each tree."""

    passes: int
    drafted: int
    accepted: int
    seconds: list[float]


def main() -> None:
    """Parses the command line, replays, prints."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--rows", type=Path, help="labelled rows; else simulated ones")
    add("--simulated", type=int, default=1300, help="how many")
    add("--tokenizer", type=Path, help="directory of tokenizer.json; else a small one")
    add("--held-out", type=float, default=0.2, help="share of the rows whose plans are replayed")
    add("--budgets", default="0,16,32,64,128", help="nodes of a pass")
    options = parser.parse_args()
    try:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(run(options, Path(folder)), ensure_ascii=False))
    except GplanError as error:
        raise SystemExit(f"error: {error}") from None


def run(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The figures by name."""
    path, encoder = find_sources(
        folder,
        rows=options.rows,
        tokenizer=options.tokenizer,
        template="compact_zh",
        simulated=options.simulated,
    )
    library = IntentLibrary.load()
    parts = split_by_id(read_samples(path), options.held_out)
    known, held_out = ([(s, parse_plan(s.raw_labels, library)) for s in part] for part in parts)
    held_out = [(s, p) for s, p in held_out if not check_plan(canonical_plan(p, library), library)]
    counts = IntentCounts.fit(known, library)
    budgets = [int(budget) for budget in options.budgets.split(",")]
    report: dict[str, Any] = {
        "benchmark": "draft_passes",
        "rows": options.rows.name if options.rows else f"{options.simulated} simulated",
        "tokenizer": options.tokenizer.name if options.tokenizer else "made for the rows",
        "known_plans": len(known),
        "replayed_plans": len(held_out),
    }
    for form in FORMS:
        grammar = PlanGrammar.compile(library, encoder, form)
        report[form] = {
            "tokens": float(np.mean([len(tokens_of(grammar, plan)) for _, plan in held_out])),
            "with_counts": {b: figures(grammar, counts, held_out, b) for b in budgets},
            "without_counts": {b: figures(grammar, IntentCounts(), held_out, b) for b in budgets},
            "online": {
                b: figures(grammar, IntentCounts(), held_out, b, online=True) for b in budgets
            },
        }
    return report


def tokens_of(grammar: PlanGrammar, plan: Plan) -> tuple[int, ...]:
    """A whole response in the form of the grammar, without the end token; no rule is checked."""
    written = grammar.pieces.plan([grammar.intents.index(intent) for intent in plan])
    if grammar.latent is None:
        return (*grammar.pieces.start, *written)
    steps = [token for block in grammar.latent.steps[: len(plan)] for token in block]
    return (*grammar.latent.head, *steps, *grammar.latent.close, *written)


def figures(
    grammar: PlanGrammar,
    counts: IntentCounts,
    rows: Sequence[tuple[Sample, Plan]],
    budget: int,
    *,
    online: bool = False,
) -> dict[str, float]:
    """Means over the rows; a tree's time is its thread's, so that other work hardly counts."""
    model, replays = DraftModel(grammar, counts), []
    for sample, plan in rows:
        key = context_key(sample)
        replays.append(replay(model, tokens_of(grammar, plan), key, budget))
        if online:
            counts.add(key, intent_texts(plan, grammar.library))
    return {
        "passes": round(float(np.mean([r.passes for r in replays])), 2),
        "drafted": round(float(np.mean([r.drafted for r in replays])), 1),
        "accepted": round(float(np.mean([r.accepted for r in replays])), 1),
        "tree_ms": round(1000 * float(np.mean([s for r in replays for s in r.seconds])), 3),
    }


def replay(model: DraftModel, tokens: Sequence[int], key: ContextKey, budget: int) -> Replay:
    """Decodes a response that is known, as the engine would, its prefill included."""
    grammar = model.grammar
    states = [grammar.start]
    for token in tokens:
        states.append(grammar.advance(states[-1], token))

    def forced(end: int) -> int:
        return end + len(grammar.forced_run(states[end])[0])

    found = Replay(1, 0, 0, [])
    prefix = grammar.prefix()[0]
    pairs = zip(prefix, tokens, strict=False)
    held = next((i for i, (one, other) in enumerate(pairs) if one != other), len(prefix))
    end = forced(held + 1)
    while not grammar.finished(states[end]):
        chain = tuple(tokens[held:end])
        started = time.thread_time()
        tree = model.tree(states[end], chain, key, budget or len(chain))
        found.seconds.append(time.thread_time() - started)
        found.passes += 1
        found.drafted += len(tree.tokens) - tree.chain
        held += tree.chain
        if held < end:
            continue
        drafted = {pair: i for i, pair in enumerate(zip(tree.parents, tree.tokens, strict=True))}
        node = tree.chain - 1
        while held < len(tokens) and (node, tokens[held]) in drafted:
            node = drafted[node, tokens[held]]
            held += 1
        found.accepted += held - end
        end = len(tokens) if held == len(tokens) else forced(held + 1)
    return found


if __name__ == "__main__":
    main()
