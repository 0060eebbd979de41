"""Whether a verdict fits what the reviewer left; the review page and the import check by this."""

from __future__ import annotations

from pathlib import Path

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.gsisr import IntentLibrary
from gplan_jax.synthesis.seeds.candidates import Candidate, candidates_of, read_candidates
from gplan_jax.synthesis.seeds.draft import PLAN, Draft, faults_of
from gplan_jax.synthesis.seeds.review_file import Decision, read_review

KEPT = ("accept", "edit")
_MEND = "Mend it, or reject the candidate."
_UNCHANGED = "Change what is wrong, or write accept."
_CHANGED = "Write edit, or put the text back."


def changed_columns(draft: Draft, proposal: Draft) -> list[str]:
    """What a reviewer changed: the plan and blocks of the reasoning, in the order of the columns.

    >>> changed_columns(Draft([], {"CONTEXT": "a"}), Draft([], {"CONTEXT": "b"}))
    ['CONTEXT']
    """
    names = dict.fromkeys([*proposal.reasoning, *draft.reasoning])
    texts = [n for n in names if draft.reasoning.get(n) != proposal.reasoning.get(n)]
    return [*([PLAN] if draft.plan != proposal.plan else []), *texts]


def verdict_faults(
    path: Path | str, candidate: Candidate, decision: Decision, library: IntentLibrary
) -> list[RowError]:
    """Everything that keeps a decision from becoming a seed; [] for one that is no seed anyway.

    "accept" keeps the proposal to the letter, "edit" changes it; what either leaves passes the
    filter, has one STEP an intent and no tag in any text.
    """
    if decision.verdict not in KEPT:
        return []
    found: list[tuple[str, str, str]] = []
    changed = changed_columns(decision.draft, candidate.proposal)
    if decision.verdict == "accept":
        problem = "this was changed, but the verdict is accept"
        found += [(column, problem, _CHANGED) for column in changed]
    elif not changed:
        found.append(("verdict", "the verdict is edit, but nothing was changed", _UNCHANGED))
    faults = faults_of(decision.draft, library)
    found += [(fault.column, fault.message, _MEND) for fault in faults]
    return [RowError(path, decision.row, column, *rest) for column, *rest in found]


def load_candidates(
    reviews: list[Path], candidates: Path | None, library: IntentLibrary
) -> tuple[Path, list[Candidate]]:
    """The candidates of one or more review files, and where they are.

    Args:
        candidates: their file; where None, the one beside each review.

    Raises:
        GplanError: there is none, or the reviews are of different candidates.
    """
    paths = {(candidates or candidates_of(review)).resolve() for review in reviews}
    if len(paths) > 1:
        listed = ", ".join(sorted(map(str, paths)))
        raise GplanError(f"The review files are of different candidates: {listed}.")
    path = paths.pop()
    return path, read_candidates(path, library)


def read_reviews(
    reviews: list[Path], candidates: list[Candidate], library: IntentLibrary
) -> list[dict[int, Decision]]:
    """Each review's decisions by row without the undecided; GplanError as ``read_review`` says."""
    if len({review.resolve() for review in reviews}) < len(reviews):
        raise GplanError("A review file is named twice.")
    read = [read_review(review, candidates, library) for review in reviews]
    return [{d.row: d for d in decisions if d.verdict} for decisions in read]
