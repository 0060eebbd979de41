"""Reviews become seeds: what experts accepted or edited, checked in full, in the public schema."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import write_json
from gplan_jax.gsisr import IntentLibrary, RowPlace, write_samples
from gplan_jax.gsisr.sample_files import check_suffix
from gplan_jax.synthesis.seeds.candidates import Candidate
from gplan_jax.synthesis.seeds.review_file import Decision, raise_faults
from gplan_jax.synthesis.seeds.verdicts import (
    KEPT,
    load_candidates,
    read_reviews,
    verdict_faults,
)
from gplan_jax.synthesis.teachers.seed import Seed, Stratum, read_seed

Undecided = Literal["error", "skip"]
OnDisagreement = Literal["error", "first", "reject"]
MOST_LISTED = 20


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A candidate that reviewers made different things of.

    Attributes:
        about: "verdict" where one rejected it, "plan" where the plans differ, else "reasoning".
        decisions: name of the review file -> decision, in the order given.
    """

    row: int
    about: Literal["verdict", "plan", "reasoning"]
    decisions: Mapping[str, Decision]


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of the candidates.

    Attributes:
        candidates: their number.
        verdicts: verdict that counted -> candidates; "disagreed" for those rejected by the rule.
        undecided: candidates that nobody has decided.
        disagreements: where the reviewers differ, whatever the rule made of it.
        strata: stratum -> (seeds, candidates).
    """

    candidates: int
    verdicts: Mapping[str, int]
    undecided: int
    disagreements: Sequence[Disagreement]
    strata: Mapping[Stratum, tuple[int, int]]

    @property
    def seeds(self) -> int:
        """Rows in the seed file."""
        return sum(self.verdicts.get(verdict, 0) for verdict in KEPT)


def report_path(out: str | Path) -> Path:
    """Where the counts of a seed file are kept: seeds.csv -> seeds.report.json."""
    return Path(out).with_suffix(".report.json")


def import_reviews(
    reviews: Sequence[Path],
    out: Path,
    library: IntentLibrary,
    *,
    candidates_path: Path | None = None,
    undecided: Undecided = "error",
    on_disagreement: OnDisagreement = "error",
) -> ImportReport:
    """Writes the seed file of one or more reviews of the same candidates, and its report beside it.

    Contexts come from the candidates' file, so no review can have changed them. Reviewers agree on
    a candidate where all who decided it reject it, or leave the same plan with the same reasoning.

    Args:
        undecided: "skip" leaves out what nobody has decided, "error" lists it.
        on_disagreement: "error" lists the candidates, "first" takes the decision of the review
            named first, "reject" leaves the candidate out.

    Raises:
        GplanError: a file can't be read; all faults of a file, each with row and column;
            undecided candidates or disagreements that no rule settles; or no seed is left.
    """
    files = list(reviews)
    _check_out(out, files)
    source, candidates = load_candidates(files, candidates_path, library)
    _check_out(out, [source])
    read = dict(zip(map(str, files), read_reviews(files, candidates, library), strict=True))
    by_row = {c.row: c for c in candidates}
    for name, decisions in read.items():
        faults = [verdict_faults(name, by_row[row], d, library) for row, d in decisions.items()]
        raise_faults(name, [fault for of_row in faults for fault in of_row])
    decided = {c.row: {n: read[n][c.row] for n in read if c.row in read[n]} for c in candidates}
    open_rows = [row for row, decisions in decided.items() if not decisions]
    if open_rows and undecided == "error":
        raise GplanError(
            f"{len(open_rows)} of {len(candidates)} candidates are undecided: "
            f"{_listed(open_rows)}. Decide them, or leave them out with --undecided skip."
        )
    disagreements = [found for row in decided if (found := _disagreement(row, decided[row]))]
    if disagreements and on_disagreement == "error":
        raise GplanError(_refusal(disagreements))
    disagreed = {d.row for d in disagreements if on_disagreement == "reject"}
    chosen = {row: next(iter(found.values())) for row, found in decided.items() if found}
    kept = [
        (by_row[row], decision)
        for row, decision in chosen.items()
        if decision.verdict in KEPT and row not in disagreed
    ]
    if not kept:
        raise GplanError(f"No candidate was accepted or edited in {', '.join(read)}.")
    seeds = [_seed(candidate, decision, library) for candidate, decision in kept]
    write_samples(out, (seed.sample for seed in seeds))
    verdicts = Counter(
        "disagreed" if row in disagreed else str(d.verdict) for row, d in chosen.items()
    )
    report = ImportReport(
        len(candidates), verdicts, len(open_rows), disagreements, _strata(candidates, seeds)
    )
    settings = {"undecided": undecided, "on_disagreement": on_disagreement}
    _write_report(out, report, settings, [*read], [(c, decided[c.row]) for c, _ in kept])
    return report


def _seed(candidate: Candidate, decision: Decision, library: IntentLibrary) -> Seed:
    sample = candidate.sample.with_label(decision.draft.label(library))
    return read_seed(sample, library, RowPlace("the review", candidate.row))


def _disagreement(row: int, decisions: Mapping[str, Decision]) -> Disagreement | None:
    kept = [d for d in decisions.values() if d.verdict in KEPT]
    if 0 < len(kept) < len(decisions):
        return Disagreement(row, "verdict", decisions)
    if any(d.draft.plan != kept[0].draft.plan for d in kept):
        return Disagreement(row, "plan", decisions)
    if any(d.draft.reasoning != kept[0].draft.reasoning for d in kept):
        return Disagreement(row, "reasoning", decisions)
    return None


def _refusal(disagreements: Sequence[Disagreement]) -> str:
    lines = [
        f"row {d.row}, {d.about}: "
        + ", ".join(
            f"{Path(name).name} {decision.verdict}" for name, decision in d.decisions.items()
        )
        for d in disagreements[:MOST_LISTED]
    ]
    if len(disagreements) > MOST_LISTED:
        lines.append(f"... and {len(disagreements) - MOST_LISTED} more")
    return (
        f"The reviewers differ on {len(disagreements)} candidates:\n  "
        + "\n  ".join(lines)
        + "\nSettle them in the reviews, or name a rule: --on-disagreement first or reject."
    )


def _check_out(out: Path, sources: Sequence[Path]) -> None:
    check_suffix(out)
    for path in (out, report_path(out)):
        if path.resolve() in [source.resolve() for source in sources]:
            raise GplanError(f"{path} is also a source; name another output.")


def _strata(
    candidates: Sequence[Candidate], seeds: Sequence[Seed]
) -> dict[Stratum, tuple[int, int]]:
    there, kept = Counter(c.stratum for c in candidates), Counter(seed.stratum for seed in seeds)
    return {stratum: (kept[stratum], there[stratum]) for stratum in sorted(there)}


def _write_report(
    out: Path,
    report: ImportReport,
    settings: Mapping[str, str],
    reviews: Sequence[str],
    kept: Sequence[tuple[Candidate, Mapping[str, Decision]]],
) -> None:
    rows: list[dict[str, Any]] = [
        {
            "row": candidate.row,
            "source_row": candidate.source_row,
            "proposed_by": candidate.origin,
            "verdicts": {name: decision.verdict for name, decision in decisions.items()},
            "reviewers": [decision.reviewer for decision in decisions.values()],
        }
        for candidate, decisions in kept
    ]
    value = {
        "reviews": list(reviews),
        "settings": dict(settings),
        "candidates": report.candidates,
        "seeds": report.seeds,
        "verdicts": dict(report.verdicts),
        "undecided": report.undecided,
        "disagreements": [{"row": d.row, "about": d.about} for d in report.disagreements],
        "strata": [
            {"trigger": trigger, "place": place, "seeds": seeds, "candidates": candidates}
            for (trigger, place), (seeds, candidates) in report.strata.items()
        ],
        "rows": rows,
    }
    write_json(report_path(out), value)


def _listed(rows: Sequence[int]) -> str:
    more = f" and {len(rows) - MOST_LISTED} more" if len(rows) > MOST_LISTED else ""
    return f"rows {', '.join(map(str, rows[:MOST_LISTED]))}{more}"
