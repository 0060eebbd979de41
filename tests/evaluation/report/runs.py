"""Results directories as `gplan baseline` writes them, with answers of planted quality."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gplan_jax.baselines.fitting.arms import ALL_FLOORS
from gplan_jax.evaluation.significance.arm_summary import score_arm, summarize_arms
from gplan_jax.foundation.files import read_jsonl, write_json, write_jsonl
from gplan_jax.gsisr import IntentLibrary, Sample, canonical_plan, facts_of, parse_plan

# name -> (share of rows answered with their label, seeds)
ARMS: Mapping[str, tuple[float, int]] = {
    "sasrec": (0.55, 2),
    "tiger": (0.75, 2),
    "majority_first_intent": (0.0, 1),
    "trigger_table": (0.5, 1),
}
NETWORKS = ("sasrec", "bert4rec", "rearec_erl", "rearec_prl", "p5", "tiger", "tiger_rq")


def write_run(
    folder: Path,
    rows: Sequence[Sample],
    arms: Mapping[str, tuple[float, int]] = ARMS,
    *,
    mode: str = "full",
    folds: int = 2,
    titles: Mapping[str, str] | None = None,
    added: Sequence[str] = (),
    seed: int = 0,
    reference: str | None = None,
) -> Path:
    """Writes a whole results directory of such arms on such rows."""
    draw = random.Random(seed)
    labels = [canonical_plan(parse_plan(row.raw_labels)) for row in rows]
    names = list(arms)
    most = max(seeds for _, seeds in arms.values())
    about: dict[str, Any] = {
        "data": {
            "file": "/somewhere/else/rows.csv",
            "rows": len(rows),
            "ids": len({row.id for row in rows}),
            "sha256": "0123456789abcdef" * 4,
        },
        "mode": mode,
        "folds": folds,
        "seeds": most,
        "trials": 4,
        "arms": names,
        "titles": {name: name.replace("_", " ").capitalize() for name in names}
        | dict(titles or {}),
        "library": "amap",
        "hardware": "2 cores",
        "version": "0.7",
        "command": "baseline all --data /somewhere/else/rows.csv --add a=/somewhere/else/p.jsonl",
        "unfinished": [],
        "floors": [name for name in names if name in ALL_FLOORS],
        "added": list(added),
    }
    write_json(folder / "comparison.json", about)
    predictions = []
    for i, row in enumerate(rows):
        facts = facts_of(row)
        answers = {
            name: {
                kind: [
                    labels[i] if draw.random() < right * scale else draw.choice(labels)
                    for _ in range(seeds)
                ]
                for kind, scale in (("constrained", 1.0), ("free", 0.95))
            }
            for name, (right, seeds) in arms.items()
        }
        predictions.append(
            {
                "row": i + 1,
                "id": row.id,
                "label": labels[i],
                "fold": i % folds,
                "facts": {
                    "order_type": facts.order_type,
                    "hour": facts.hour,
                    "order_distance": facts.order_distance,
                },
                "arms": answers,
            }
        )
    write_jsonl(folder / "predictions.jsonl", predictions)
    write_json(folder / "curves.json", _fits(folder, arms, folds, added, draw))
    summarize(folder, reference=reference)
    return folder


def summarize(folder: Path, *, reference: str | None = None) -> dict[str, Any]:
    """Writes summary.json of the directory's predictions."""
    rows = list(read_jsonl(folder / "predictions.jsonl"))
    labels, library = [row["label"] for row in rows], IntentLibrary.load()
    scores = {}
    for name in rows[0]["arms"]:
        texts = zip(*(row["arms"][name]["constrained"] for row in rows), strict=True)
        scores[name] = score_arm(list(texts), labels, library)
    ids = [row["id"] for row in rows]
    summary = summarize_arms(scores, ids, reference=reference).model_dump()
    write_json(folder / "summary.json", summary)
    return summary


def _fits(
    folder: Path,
    arms: Mapping[str, tuple[float, int]],
    folds: int,
    added: Sequence[str],
    draw: random.Random,
) -> dict[str, list[dict[str, Any]]]:
    """Writes what is kept of each fit, and returns the learning curves."""
    curves: dict[str, list[dict[str, Any]]] = {}
    for name, (right, seeds) in arms.items():
        learns = name in NETWORKS
        for fold in range(folds) if name not in added else ():
            place = folder / "arms" / name / f"fold_{fold}"
            trials = [
                {
                    "overrides": {"dropout": 0.1 * trial} if trial else {},
                    "acc1": right + 0.02 * draw.random(),
                    "nes": right,
                    "validation_loss": 2.0,
                    "seconds": 3.0,
                }
                for trial in range(4 if learns else 1)
            ]
            best = max(range(len(trials)), key=lambda t: trials[t]["acc1"])
            write_json(place / "trials.json", {"trials": trials, "chosen": best})
            for seed in range(seeds):
                fit = {"parameters": 120_000 if learns else 0, "seconds": 3 + draw.random()}
                write_json(place / f"seed_{seed}.json", {"settings": {}, **fit, "curve": []})
                for epoch in range(1, draw.randint(9, 16)) if learns else ():
                    loss = 4.5 * 0.82**epoch + 0.6 + 0.1 * draw.random()
                    points = {"loss": loss, "validation_loss": loss + 0.02 * epoch * epoch / 4}
                    point = {"fold": fold, "seed": seed, "epoch": epoch, **points}
                    curves.setdefault(name, []).append(point)
    return curves
