"""What the figures of bench_serve.py must be: pure functions of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from gplan_jax.serving.latency.load_generator import Exchange

SUSTAINED_SHARE = 0.99  # of all requests, answered before the deadline
FLAT_MIB, FLAT_SHARE = 16.0, 0.02
AT_ONCE_MS = 100.0  # the median refusal; the slowest wait for the load generator's own turn
SOON_S = 5.0
IN_TIME_SHARE = 0.99  # of the accepted ones
LATE_MS = 500.0  # a generator that lags more did not send what it should have


def sustains(summary: Mapping[str, Any]) -> bool:
    """Whether a rate is sustained: nothing refused, nearly all answered before the deadline."""
    refused = any(name.startswith("503") for name in summary["errors"])
    return not refused and (summary["goodput"]["share"] or 0.0) >= SUSTAINED_SHARE


def flatness(samples: Sequence[tuple[float, float]]) -> dict[str, Any]:
    """How resident memory went: (seconds, MiB) samples -> first, greatest, last and growth in MiB.

    Growth is the median of the last quarter over that of the second one: in the first, buffers grow
    to what the load needs. "flat" up to 16 MiB or 2%, whichever is more.
    """
    values = np.array([value for _, value in samples])
    if len(values) < 4:
        return {"samples": len(values), "growth_mib": None, "flat": None}
    quarter = len(values) // 4
    settled = float(np.median(values[quarter : 2 * quarter]))
    growth = float(np.median(values[-quarter:])) - settled
    return {
        "samples": len(values),
        "first_mib": round(float(values[0]), 1),
        "greatest_mib": round(float(values.max()), 1),
        "last_mib": round(float(values[-1]), 1),
        "growth_mib": round(growth, 1),
        "flat": growth <= max(FLAT_MIB, FLAT_SHARE * settled),
    }


def recovery_seconds(
    exchanges: Sequence[Exchange], *, since_s: float, normal_ms: float
) -> float | None:
    """Seconds from ``since_s`` until the first second in which the server is itself again.

    That is a second of intended times in which all requests were answered and half of them within
    ``normal_ms``; None where there is none.
    """
    seconds: dict[int, list[Exchange]] = {}
    for exchange in exchanges:
        seconds.setdefault(int(exchange.intended_s - since_s), []).append(exchange)
    for second in sorted(seconds):
        group = seconds[second]
        if all(e.answered for e in group) and (
            float(np.median([e.latency_ms for e in group])) <= normal_ms
        ):
            return float(second)
    return None


def verdicts(figures: Mapping[str, Any], *, exit_code: int) -> dict[str, bool]:
    """What the figures show, true where it is as it should be."""
    found = {"stopped_in_order": exit_code == 0}
    if steady := figures.get("steady"):
        found["steady_without_an_error"] = not steady["errors"]
    if overload := figures.get("overload"):
        flood = overload["flood"]
        expired = sum(n for name, n in flood["errors"].items() if name.startswith("504"))
        accepted = flood["answered"] + expired
        in_time = flood["answered"] - overload["late_by_service_time"]
        found |= {
            "overload_was_sent": flood["lag_ms"]["p99"] <= LATE_MS,
            "overload_no_crash": overload["alive"],
            "overload_only_refusals": set(flood["errors"]) <= {"503 overloaded", "504 deadline"},
            "overload_refused_at_once": flood["refused_ms"] is not None
            and flood["refused_ms"]["p50"] <= AT_ONCE_MS,
            "overload_accepted_in_time": accepted > 0 and in_time >= IN_TIME_SHARE * accepted,
            "overload_memory_flat": overload["memory"]["flat"] is not False,
            "overload_back_to_normal": overload["recovery_s"] is not None
            and overload["recovery_s"] <= SOON_S,
        }
    if reload := figures.get("reload"):
        found["reload_without_an_error"] = not reload["errors"]
    if replica := figures.get("replica"):
        engines = len(replica["up"])
        told_s = replica["readyz_after_s"].get(f"{engines - 1} of {engines}")
        found |= {
            "replica_without_an_error": not replica["errors"],
            "replica_was_at_work": replica["held"] > 0,
            "replica_one_is_lost": sum(replica["up"]) == engines - 1,
            "replica_told_soon": told_s is not None and told_s <= SOON_S,
            "replica_server_goes_on": replica["healthz"] == 200,
        }
    if hung := figures.get("hang_up"):
        found |= {
            "hang_up_no_slot_leaked": hung["held_after"] == 0,
            "hang_up_later_answered": not hung["later"]["errors"],
            "hang_up_no_crash": hung["alive"],
        }
    return found
