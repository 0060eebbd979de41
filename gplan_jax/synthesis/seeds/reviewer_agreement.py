"""How far two reviewers agree: Cohen's kappa (Cohen 1960), and where they differ.

    kappa = (p_o - p_e) / (1 - p_e),    p_o = share of equal answers,
                                        p_e = sum over categories c of p_first(c) p_second(c)

None where p_e = 1: both gave one and the same answer throughout.
"""

from __future__ import annotations

from collections.abc import Hashable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from rich.table import Table

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.tables import TextTable
from gplan_jax.gsisr import IntentLibrary, canonical_plan
from gplan_jax.synthesis.seeds.review_file import KEPT, VERDICTS, Decision, differing_parts
from gplan_jax.synthesis.seeds.seed_candidates import SeedCandidate, plan_words

RESAMPLES = 1000
MOST_ROWS = 20
ABSENT = "-"
DECIDED: tuple[str, ...] = tuple(verdict for verdict in VERDICTS if verdict)


@dataclass(frozen=True, slots=True)
class Measure:
    """Agreement on one question."""

    name: str
    count: int  # Rows it was asked of.
    agreed: float | None  # Share of equal answers, p_o; None without rows.
    kappa: float | None  # Cohen's kappa; None where it is undefined.
    # 95% percentile bootstrap interval of kappa over the rows; None with it, or where hardly any
    # resample defines it.
    interval: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class ReviewDifference:
    """A row on which two reviewers differ; ``about`` lists verdict, plan and reasoning."""

    row: int
    id: str
    about: str
    verdicts: tuple[str, str]
    plans: tuple[str, str]
    comments: tuple[str, str]


@dataclass(frozen=True, slots=True)
class Agreement:
    """The agreement of two reviews."""

    both: int  # both, only_first, only_second: rows decided by both, and by one of them alone.
    only_first: int
    only_second: int
    # On the verdict; on keeping it; on the first intent and the whole plan of rows that both kept.
    measures: tuple[Measure, ...]
    confusion: Mapping[str, Mapping[str, int]]  # [first's verdict][second's verdict] -> rows.
    # Rows on which they differ in verdict, plan or reasoning.
    differences: tuple[ReviewDifference, ...]


def agreement_of(
    first: Mapping[int, Decision],
    second: Mapping[int, Decision],
    candidates: Sequence[SeedCandidate],
    library: IntentLibrary,
    *,
    seed: int = 0,
) -> Agreement:
    """Compares two reviewers' decisions by row, as ``read_reviews`` gives them."""
    rows = sorted(first.keys() & second.keys())
    if not rows:
        raise GplanError("The two reviews have no decided row in common: nothing can be compared.")
    pairs = [(first[row], second[row]) for row in rows]
    kept = [(a, b) for a, b in pairs if a.verdict in KEPT and b.verdict in KEPT]

    def measured(name: str, answers: list[tuple[Hashable, Hashable]]) -> Measure:
        return measure(name, [a for a, _ in answers], [b for _, b in answers], seed=seed)

    def intents(decision: Decision, count: int | None) -> str:
        return canonical_plan(decision.draft.plan[:count], library)

    measures = (
        measured("verdict", [(a.verdict, b.verdict) for a, b in pairs]),
        measured("kept or rejected", [(a.verdict in KEPT, b.verdict in KEPT) for a, b in pairs]),
        measured("first intent of kept", [(intents(a, 1), intents(b, 1)) for a, b in kept]),
        measured("plan of kept", [(intents(a, None), intents(b, None)) for a, b in kept]),
    )
    cells: list[tuple[str, str]] = [(a.verdict, b.verdict) for a, b in pairs]
    confusion = {v: {w: cells.count((v, w)) for w in DECIDED} for v in DECIDED}
    ids = {candidate.row: candidate.sample.id for candidate in candidates}
    differences = []
    for a, b in pairs:
        differing = ["verdict"] if a.verdict != b.verdict else []
        differing += differing_parts((a, b))
        if differing:
            difference = ReviewDifference(
                row=a.row,
                id=ids[a.row],
                about=", ".join(differing),
                verdicts=(a.verdict, b.verdict),
                plans=(plan_words(a.draft.plan, library), plan_words(b.draft.plan, library)),
                comments=(a.comment, b.comment),
            )
            differences.append(difference)
    return Agreement(
        both=len(rows),
        only_first=len(first) - len(rows),
        only_second=len(second) - len(rows),
        measures=measures,
        confusion=confusion,
        differences=tuple(differences),
    )


def measure(
    name: str, first: Sequence[Hashable], second: Sequence[Hashable], *, seed: int = 0
) -> Measure:
    """Raw agreement, kappa and its bootstrap interval of two lists of answers to one question.

    Resamples whose kappa is undefined are left out; None where fewer than half remain.
    """
    if not first:
        return Measure(name, 0, None, None, None)
    number = {answer: i for i, answer in enumerate(dict.fromkeys([*first, *second]))}
    codes_2xN = np.array([[number[a] for a in answers] for answers in (first, second)])
    agreed = float(np.mean(codes_2xN[0] == codes_2xN[1]))
    value = kappa(codes_2xN, len(number))
    generator = np.random.default_rng(seed)
    count = len(first)
    drawn = (generator.integers(0, count, count) for _ in range(RESAMPLES))
    values = [v for rows in drawn if (v := kappa(codes_2xN[:, rows], len(number))) is not None]
    if value is None or len(values) < RESAMPLES / 2:
        return Measure(name, count, agreed, value, None)
    low, high = np.percentile(values, [2.5, 97.5])
    return Measure(name, count, agreed, value, (float(low), float(high)))


def kappa(codes_2xN: np.ndarray, categories: int) -> float | None:
    """Cohen's kappa of two rows of category numbers below ``categories``; None where p_e is 1.

    >>> kappa(np.array([[0, 0, 1, 1], [0, 1, 1, 1]]), 2)
    0.5
    """
    shares_2xC = np.stack([np.bincount(c, minlength=categories) for c in codes_2xN])
    shares_2xC = shares_2xC / codes_2xN.shape[1]
    expected = float(shares_2xC[0] @ shares_2xC[1])
    if expected > 1 - 1e-12:
        return None
    observed = float(np.mean(codes_2xN[0] == codes_2xN[1]))
    return (observed - expected) / (1 - expected)


def agreement_tables(agreement: Agreement, first: str, second: str) -> Iterator[Table]:
    """The measures, the confusion of verdicts, and the first rows on which reviewers differ."""
    rows = []
    for m in agreement.measures:
        agreed = ABSENT if m.agreed is None else f"{m.agreed:.1%}"
        kappa = "undefined" if m.kappa is None else f"{m.kappa:.3f}"
        interval = ABSENT if m.interval is None else "{:.3f} to {:.3f}".format(*m.interval)
        rows.append((m.name, f"{m.count:,}", agreed, kappa, interval))
    headings = ("question", "rows", "agreed", "Cohen's kappa", "95% interval")
    yield TextTable(headings, rows, title="Agreement").rich()
    confusion = [
        (verdict, *(f"{agreement.confusion[verdict][other]:,}" for other in DECIDED))
        for verdict in DECIDED
    ]
    yield TextTable((f"{first}, then {second}", *DECIDED), confusion, title="Verdicts").rich()
    if not (count := len(agreement.differences)):
        return
    differing = []
    for d in agreement.differences[:MOST_ROWS]:
        cells = zip(d.verdicts, d.plans, strict=True)
        told = (f"{verdict}\n{plan}" if "plan" in d.about else verdict for verdict, plan in cells)
        differing.append((str(d.row), d.about, *told))
    title = f"{count:,} rows they differ on"
    title += f", the first {MOST_ROWS}" if count > MOST_ROWS else ""
    yield TextTable(("row", "differs in", first, second), differing, words=4, title=title).rich()
