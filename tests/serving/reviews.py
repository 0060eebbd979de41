"""Review files to serve, and servers around them."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gplan_jax.gsisr import IntentLibrary, Sample, write_samples
from gplan_jax.serving.http.server import listen
from gplan_jax.serving.review.review_app import HOST, ReviewServer, ReviewStore, open_review
from gplan_jax.synthesis.seeds.draw_candidates import write_review_files
from gplan_jax.synthesis.teachers.teacher import RuleTeacher
from gplan_jax.synthesis.world.simulation import simulate_rows

ROWS = 8


def write_review_of(
    folder: Path, change: Callable[[int, Sample], Mapping[str, str]] = lambda i, row: {}
) -> Path:
    """A review file of a few simulated rows, whose columns ``change`` may change."""
    library = IntentLibrary.load()
    rows = [
        dataclasses.replace(row, id=f"u{i}", **change(i, row))
        for i, row in enumerate(simulate_rows(ROWS, seed=2))
    ]
    write_samples(folder / "rows.csv", rows)
    out = folder / "review.csv"
    write_review_files(folder / "rows.csv", out, library, RuleTeacher(library), count=ROWS)
    return out


def store_of(review: Path, reviewer: str = "anna") -> ReviewStore:
    return open_review(review, reviewer, IntentLibrary.load())


@dataclass
class Served:
    """A review server in a thread."""

    server: ReviewServer
    store: ReviewStore
    port: int
    thread: threading.Thread

    @property
    def url(self) -> str:
        return f"http://{HOST}:{self.port}"

    def stop(self) -> None:
        self.server.should_exit = True
        self.thread.join(timeout=20)
        assert not self.thread.is_alive()


@contextmanager
def serving(review: Path, *, reviewer: str = "anna", port: int = 0) -> Iterator[Served]:
    """Serves a review on a free port, or again on one, and stops it."""
    store = store_of(review, reviewer)
    server, listener = ReviewServer(store), listen(HOST, port)
    port = listener.getsockname()[1]
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    served = Served(server, store, port, thread)
    try:
        yield served
    finally:
        served.stop()
