"""Sequential recommenders on a public item data set; prints one JSON line of figures.

    python scripts/bench_recsys.py --data Video.txt --model sasrec --out runs/recsys/sasrec.json

--data is a file of lines ``user item`` in time order, e.g. Video.txt (Amazon Video Games) of the
public SASRec repositories. Leave-one-out: a user's last item is for test, the one before for
validation (by which the weights are chosen), the rest for training. Reported are HR@10 and NDCG@10

candidates   among 100 items that the user never saw, evenly drawn, and the last one
full         among all items but those of the user's history

for every user with three items or more. Ties count against the model. --minutes bounds training in
minutes of processor time; the figures then say that it was bounded. One core: ``taskset -c 1`` and
``XLA_FLAGS=--xla_cpu_multi_thread_eigen=false``.
"""

from __future__ import annotations

import argparse
import json
import platform
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from recsys_items import (
    CANDIDATES,
    ItemData,
    ItemFitSettings,
    ItemModelSettings,
    fit_items,
    rank_all,
    rank_candidates,
    ranking_metrics,
    ranks,
    read_items,
    unseen_candidates,
)

from gplan_jax.baselines.sequential.arm import SequentialKind
from gplan_jax.baselines.sequential.encoder import EncoderSettings
from gplan_jax.foundation.files import atomic_write
from gplan_jax.foundation.streams import cores


def main() -> None:
    options = arguments()
    data = read_items(options.data)
    users = data.held_out()
    targets = np.array([data.histories[user][-1] for user in users])
    candidates = unseen_candidates(data, users, CANDIDATES, seed=1_000 + options.seed)
    started = time.monotonic()
    figures: dict[str, Any] = {"model": options.model, "seed": options.seed, "data": describe(data)}
    if options.model == "popularity":
        scores = popularity(data)
        figures["candidates"] = ranking_metrics(ranks(scores[targets], scores[candidates]))
        figures["full"] = ranking_metrics(popularity_full(data, users, scores))
    else:
        figures |= fitted_figures(options, data, users, targets, candidates)
    figures["seconds"] = round(time.monotonic() - started, 1)
    figures["on"] = {
        "cpu": platform.processor() or platform.machine(),
        "cores": cores(),
        "jax": version("jax"),
        "flax": version("flax"),
    }
    text = json.dumps(figures)
    if options.out:
        with atomic_write(options.out) as temporary:
            temporary.write_text(text + "\n")
    print(text)


def fitted_figures(
    options: argparse.Namespace,
    data: ItemData,
    users: np.ndarray,
    targets: np.ndarray,
    candidates: np.ndarray,
) -> dict[str, Any]:
    """Fits the model and ranks the test items."""
    encoder = EncoderSettings(
        hidden=options.hidden,
        layers=2,
        heads=1,
        inner=options.hidden,
        dropout=options.dropout,
        pre_norm=options.model != "bert4rec",
        gelu=options.model == "bert4rec",
    )
    model_settings = ItemModelSettings(
        kind=SequentialKind(options.model),
        encoder=encoder,
        loss=options.loss,
        negatives=options.negatives,
    )
    settings = ItemFitSettings(
        epochs=options.epochs,
        minutes=options.minutes,
        learning_rate=options.learning_rate,
        weight_decay=options.weight_decay,
    )
    best = Path(options.out).with_suffix(".npz") if options.out else None
    model, curve = fit_items(data, model_settings, settings, options.seed, best)
    minutes = curve[-1]["seconds"] / 60
    return {
        "candidates": ranking_metrics(rank_candidates(model, data, users, candidates, targets)),
        "full": ranking_metrics(rank_all(model, data, users, targets)),
        "bounded": minutes >= options.minutes,
        "epochs": len(curve),
        "fit_minutes": round(minutes, 1),
        "settings": model_settings.model_dump(mode="json") | settings.model_dump(mode="json"),
        "curve": [{k: round(v, 5) for k, v in row.items()} for row in curve],
    }


def describe(data: ItemData) -> dict[str, int]:
    return {"users": len(data.histories), "items": data.items, "actions": data.actions}


def popularity(data: ItemData) -> np.ndarray:
    """How often each item stands in training, (items + 1,)."""
    training = np.concatenate([data.training(user) for user in range(len(data.histories))])
    return np.bincount(training, minlength=data.items + 1).astype(np.float64)


def popularity_full(data: ItemData, users: np.ndarray, scores: np.ndarray) -> np.ndarray:
    """Rank of each user's last item by popularity among the items that the user had not seen."""
    ordered = np.sort(scores[1:])
    found = np.zeros(len(users), np.int64)
    for place, user in enumerate(users):
        *earlier, target = data.histories[user].tolist()
        before = len(ordered) - np.searchsorted(ordered, scores[target])
        seen = [item for item in {*earlier, target} if scores[item] >= scores[target]]
        found[place] = before - len(seen)
    return found


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--data", required=True, help="file of lines 'user item'")
    parser.add_argument(
        "--model", choices=[*map(str, SequentialKind), "popularity"], default="sasrec"
    )
    parser.add_argument("--epochs", type=int, default=200)
    parser.add_argument("--minutes", type=float, default=1e9, help="bound on training (processor)")
    parser.add_argument("--hidden", type=int, default=50)
    parser.add_argument("--dropout", type=float, default=0.5)
    parser.add_argument("--loss", choices=["softmax", "sampled", "bce"], default="sampled")
    parser.add_argument(
        "--negatives", type=int, default=512, help="drawn for a batch, shared by it"
    )
    parser.add_argument("--learning-rate", type=float, default=2e-3)
    parser.add_argument("--weight-decay", type=float, default=0.0)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", help="JSON file of the figures; the best weights lie beside it")
    return parser.parse_args()


if __name__ == "__main__":
    main()
