"""Reviews become seeds: what experts accepted or edited, checked in full, in the public schema."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import report_path, write_json
from gplan_jax.foundation.row_files import check_suffix
from gplan_jax.gsisr import IntentLibrary, RowPlace, write_samples
from gplan_jax.gsisr.service import record_service
from gplan_jax.synthesis.seeds.review_file import (
    KEPT,
    Decision,
    differing_parts,
    raise_faults,
    read_reviews,
    verdict_faults,
)
from gplan_jax.synthesis.seeds.seed_candidates import load_candidates
from gplan_jax.synthesis.teachers.seed_selection import Stratum, read_seed

MOST_LISTED = 20


@dataclass(frozen=True, slots=True)
class Disagreement:
    """A candidate that reviewers made different things of."""

    row: int
    # "verdict" where one rejected it, "plan" where the plans differ, else "reasoning".
    about: Literal["verdict", "plan", "reasoning"]
    decisions: Mapping[str, Decision]  # Name of the review file -> decision, in the order given.


@dataclass(frozen=True, slots=True)
class ImportReport:
    """What became of the candidates."""

    candidates: int
    # Verdict that counted -> candidates; "disagreed" for those rejected by the rule.
    verdicts: Mapping[str, int]
    undecided: int  # Candidates that nobody has decided.
    # Where the reviewers differ, whatever the rule made of it.
    disagreements: Sequence[Disagreement]
    strata: Mapping[Stratum, tuple[int, int]]  # Stratum -> (seeds, candidates).

    @property
    def seeds(self) -> int:
        return sum(self.verdicts.get(verdict, 0) for verdict in KEPT)


def import_reviews(
    reviews: Sequence[Path],
    out: Path,
    library: IntentLibrary,
    *,
    candidates_path: Path | None = None,
    undecided: Literal["error", "skip"] = "error",
    on_disagreement: Literal["error", "first", "reject"] = "error",
) -> ImportReport:
    """Writes the seed file of reviews of the same candidates, and its report beside it.

    Contexts come from the candidates' file, so no review can have changed them. Reviewers agree on
    a candidate where all who decided it reject it, or leave the same plan with the same reasoning;
    else "first" takes the review named first, "reject" leaves it out, "error" lists all such.
    """
    files = list(reviews)
    _check_out(out, files)
    source, candidates = load_candidates(files, candidates_path, library)
    _check_out(out, [source])
    by_row = {candidate.row: candidate for candidate in candidates}
    read = dict(zip(map(str, files), read_reviews(files, candidates, library), strict=True))
    for name, review in read.items():
        faults = [verdict_faults(name, by_row[row], d, library) for row, d in review.items()]
        raise_faults(name, [fault for of_row in faults for fault in of_row])

    # Row -> name of the review -> decision.
    decided = {row: {name: read[name][row] for name in read if row in read[name]} for row in by_row}
    open_rows = [row for row, decisions in decided.items() if not decisions]
    if open_rows and undecided == "error":
        listed = ", ".join(map(str, open_rows[:MOST_LISTED]))
        more = len(open_rows) - MOST_LISTED
        raise GplanError(
            f"{len(open_rows)} of {len(candidates)} candidates are undecided: rows {listed}"
            f"{f' and {more} more' if more > 0 else ''}. "
            "Decide them, or leave them out with --undecided skip."
        )

    disagreements = []
    for row, decisions in decided.items():
        kept_by = sum(decision.verdict in KEPT for decision in decisions.values())
        if 0 < kept_by < len(decisions):
            disagreements.append(Disagreement(row, "verdict", decisions))
        elif differing := differing_parts(decisions.values()):
            disagreements.append(Disagreement(row, differing[0], decisions))
    if disagreements and on_disagreement == "error":
        lines = []
        for found in disagreements[:MOST_LISTED]:
            verdicts = [f"{Path(name).name} {d.verdict}" for name, d in found.decisions.items()]
            lines.append(f"row {found.row}, {found.about}: {', '.join(verdicts)}")
        if len(disagreements) > MOST_LISTED:
            lines.append(f"... and {len(disagreements) - MOST_LISTED} more")
        raise GplanError(
            f"The reviewers differ on {len(disagreements)} candidates:\n  "
            + "\n  ".join(lines)
            + "\nSettle them in the reviews, or name a rule: --on-disagreement first or reject."
        )

    # The seeds: what the first reviewer who decided it has kept.
    disagreed = {found.row for found in disagreements if on_disagreement == "reject"}
    chosen = {
        row: next(iter(decisions.values())) for row, decisions in decided.items() if decisions
    }
    kept = [row for row, d in chosen.items() if d.verdict in KEPT and row not in disagreed]
    if not kept:
        raise GplanError(f"No candidate was accepted or edited in {', '.join(read)}.")
    seeds = []
    for row in kept:
        sample = by_row[row].sample.with_label(chosen[row].draft.label(library))
        seeds.append(read_seed(sample, library, RowPlace("the review", row)))
    write_samples(out, (seed.sample for seed in seeds))
    record_service(library, out)

    seeds_of = Counter(seed.stratum for seed in seeds)
    candidates_of = Counter(candidate.stratum for candidate in candidates)
    report = ImportReport(
        candidates=len(candidates),
        verdicts=Counter(
            "disagreed" if row in disagreed else str(d.verdict) for row, d in chosen.items()
        ),
        undecided=len(open_rows),
        disagreements=disagreements,
        strata={s: (seeds_of[s], candidates_of[s]) for s in sorted(candidates_of)},
    )
    value = {
        "reviews": [*read],
        "settings": {"undecided": undecided, "on_disagreement": on_disagreement},
        "candidates": report.candidates,
        "seeds": report.seeds,
        "verdicts": dict(report.verdicts),
        "undecided": report.undecided,
        "disagreements": [{"row": d.row, "about": d.about} for d in disagreements],
        "strata": [
            {"trigger": trigger, "place": place, "seeds": taken, "candidates": there}
            for (trigger, place), (taken, there) in report.strata.items()
        ],
        "rows": [
            {
                "row": row,
                "source_row": by_row[row].source_row,
                "proposed_by": by_row[row].origin,
                "verdicts": {name: d.verdict for name, d in decided[row].items()},
                "reviewers": [d.reviewer for d in decided[row].values()],
            }
            for row in kept
        ],
    }
    write_json(report_path(out), value)
    return report


def _check_out(out: Path, sources: Sequence[Path]) -> None:
    check_suffix(out)
    for path in (out, report_path(out)):
        if path.resolve() in [source.resolve() for source in sources]:
            raise GplanError(f"{path} is also a source; name another output.")
