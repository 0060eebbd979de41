"""`gplan seeds review`: the process around the review page, until Ctrl-C."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from types import FrameType

import uvicorn

from gplan_jax.gsisr import IntentLibrary
from gplan_jax.serving.http.server import listen, quiet_config
from gplan_jax.serving.review.app import create_review_app
from gplan_jax.serving.review.store import ReviewStore, open_review

HOST = "127.0.0.1"


class ReviewServer(uvicorn.Server):
    """Uvicorn that ends on a signal without raising it again; the last answers are sent first."""

    def __init__(self, store: ReviewStore) -> None:
        super().__init__(quiet_config(create_review_app(store)))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Signals: the first ends the server, the second at once."""
        self.force_exit = self.should_exit
        self.should_exit = True


def serve_review(
    review: Path,
    reviewer: str,
    library: IntentLibrary,
    *,
    port: int,
    candidates: Path | None = None,
) -> None:
    """Serves the review page of one reviewer on 127.0.0.1 until Ctrl-C or SIGTERM.

    Raises:
        GplanError: the port is taken, or a file is wrong; see ``open_review``.
    """
    store = open_review(review, reviewer, library, candidates)
    listener = listen(HOST, port)
    url = f"http://{HOST}:{listener.getsockname()[1]}/"
    print(
        f"Review {len(store.candidates):,} candidates as {reviewer}: {url}\n"
        f"  every decision is saved at once in {store.path}\n"
        f"  stop                 Ctrl-C; the same command goes on where you stopped",
        flush=True,
    )
    ReviewServer(store).run(sockets=[listener])
    print(end_message(store, review), flush=True)


def end_message(store: ReviewStore, review: Path) -> str:
    """What was decided, where it is, and what comes next."""
    verdicts = Counter(saved.decision.verdict for saved in store.all())
    decided = len(store.candidates) - verdicts[""]
    counts = ", ".join(f"{verdicts[v]:,} {v}" for v in ("accept", "edit", "reject"))
    return (
        f"Stopped. {decided:,} of {len(store.candidates):,} candidates are decided ({counts}).\n"
        f"  decisions            {store.path}\n"
        f"  go on                gplan seeds review {review} --reviewer {store.reviewer}\n"
        f"  make the seeds       gplan seeds import {store.path} --out seeds.csv"
    )
