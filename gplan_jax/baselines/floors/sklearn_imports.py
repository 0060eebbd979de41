"""scikit-learn, imported when a floor needs it, on one thread."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from gplan_jax.foundation.extras import load_extra


def boosted_classifier(**settings: Any) -> Any:
    """A histogram gradient boosting classifier; GplanError without scikit-learn."""
    ensemble = load_extra("sklearn.ensemble", "baselines", "gradient boosting")
    return ensemble.HistGradientBoostingClassifier(**settings)


def neighbour_search(**settings: Any) -> Any:
    """A nearest-neighbours search; GplanError without scikit-learn."""
    neighbors = load_extra("sklearn.neighbors", "baselines", "the nearest neighbours")
    return neighbors.NearestNeighbors(**settings)


@contextmanager
def one_thread() -> Iterator[None]:
    """Keeps OpenMP to one thread: trees on a few hundred rows are no work to share, and threads
    that wait for each other beside a busy neighbour take a hundred times as long. What is limited
    must be loaded by then, so make the estimator first."""
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    with threadpool_limits(limits=1):
        yield
