"""experiment.yaml: who gets which arm, and how the test is judged; both settled beforehand."""

from __future__ import annotations

import csv
from collections import Counter
from datetime import date
from enum import StrEnum
from pathlib import Path
from typing import Literal, Self

import pydantic
from pydantic import Field

from gplan_jax.foundation.buckets import Experiment
from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.files import atomic_write
from gplan_jax.foundation.progress import track

NO_PART = "(none)"


class Metric(StrEnum):
    """What arms are compared by; users are the clusters of each.

    UV_CTR is users with a click / users exposed, over the whole test: our reading of the paper's,
    which doesn't say over what time. UV_CTR_DAY counts each day of a user: user-days with a click /
    user-days exposed. CTR is clicks / impressions.
    """

    UV_CTR = "uv_ctr"
    UV_CTR_DAY = "uv_ctr_day"
    CTR = "ctr"


class AbTest(Experiment):
    """An experiment and the plan of its analysis."""

    # First and last day of the test, the log's own where not given. Rows before ``start`` are the
    # pre-period: covariates of CUPED, their arm is not looked at.
    start: date | None = None
    end: date | None = None
    metric: Metric = Field(default=Metric.UV_CTR, strict=False)  # what the verdict is on
    # Two-sided level of tests; intervals have level 1 - alpha
    alpha: float = Field(default=0.05, gt=0, lt=0.5)
    power: float = Field(default=0.8, gt=0, lt=1)  # of the minimal detectable effect
    # Whether the verdict is on the adjusted figures where the log has a pre-period.
    cuped: bool = True
    # Over several treatments: ``holm`` (any error at all, under any dependence) or ``fdr`` (share
    # of errors among what holds, Benjamini and Hochberg).
    correction: Literal["holm", "fdr"] = "holm"
    # Below this p-value the sample-ratio check fails and there is no verdict.
    srm_alpha: float = Field(default=0.001, gt=0, lt=0.5)
    planned_days: int | None = Field(default=None, ge=2, le=365)  # how many daily looks spend alpha
    # ``obrien_fleming`` keeps nearly all for the end, ``pocock`` spends early.
    spending: Literal["obrien_fleming", "pocock"] = "obrien_fleming"

    @pydantic.model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.start and self.end and self.end < self.start:
            raise ValueError(f"end {self.end} lies before start {self.start}")
        return self


def assign_file(experiment: Experiment, users: Path, out: Path) -> Counter[str]:
    """Writes user, arm ("" for NO_PART) and user_hash of each line of ``users``; users by arm."""
    if out.exists():
        raise GplanError(f"{out} exists and is never overwritten; name another or remove it.")
    counts: Counter[str] = Counter()
    try:
        with (
            users.open(encoding="utf-8-sig") as lines,
            atomic_write(out) as temporary,
            temporary.open("w", encoding="utf-8", newline="") as target,
        ):
            writer = csv.writer(target)
            writer.writerow(("user", "arm", "user_hash"))
            for row, line in enumerate(track(lines, "Assigning users"), start=1):
                user = line.strip()
                if not user:
                    raise RowError(users, row, None, "the line is empty", "Remove it.")
                arm = experiment.assign(user)
                counts[arm or NO_PART] += 1
                writer.writerow((user, arm or "", experiment.pseudonym(user)))
    except FileNotFoundError:
        raise GplanError(f"{users} does not exist.") from None
    except UnicodeDecodeError as error:
        raise GplanError(f"{users} is not UTF-8 text: {error}.") from None
    return counts
