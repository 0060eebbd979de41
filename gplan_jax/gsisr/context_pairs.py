"""Context pairs: one user in two contexts, each with the plan that fits it, and their file.

The file is JSONL with two lines a pair, one for each direction: in ``context`` the response
``chosen`` fits and ``rejected``, the response to the other context, doesn't (paper, section 4.2.1).
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.faulty_rows import SKIP_HINT, FaultyRows
from gplan_jax.foundation.files import atomic_write, json_lines, json_text
from gplan_jax.gsisr.facts import ORDER_TIMES, request_time, time_of
from gplan_jax.gsisr.filter import check_plan
from gplan_jax.gsisr.labels import LABEL_COLUMN, RowPlace, parse_label
from gplan_jax.gsisr.library import IntentLibrary
from gplan_jax.gsisr.plans import Plan
from gplan_jax.gsisr.row_form import RowForm, public_form
from gplan_jax.gsisr.samples import COLUMNS, Sample
from gplan_jax.reasoning import GSISR_LATENTS, LatentVocabulary

SPATIOTEMPORAL_COLUMNS = (
    "currenttime",
    "holidayflag",
    "weekendflag",
    "current_poi_name",
    "current_tag",
    "current_city",
    "current_district",
)
CONTEXT_COLUMNS = tuple(column for column in COLUMNS if column != LABEL_COLUMN)
SHARED_COLUMNS = tuple(c for c in CONTEXT_COLUMNS if c not in SPATIOTEMPORAL_COLUMNS)
PASSED = "passed"
SUFFIX = ".jsonl"

Plans = Literal["differ", "equal"]
_DIRECTIONS = ("anchor", "counterfactual")
_KEYS = ("pair", "direction", "context", "chosen", "rejected", "provenance")
_MEND = f"Write the pairs anew with gplan counterfactuals, or {SKIP_HINT}."


@dataclass(frozen=True, slots=True)
class Provenance:
    """Where a pair comes from."""

    # the id of the anchor row and its number in its file, from 1
    anchor: str
    anchor_row: int
    perturbation: str  # what made the second context, by its name in the perturbation spec
    changed: tuple[str, ...]  # the columns in which the contexts differ
    teacher: str  # who answered both contexts
    filter: str  # the verdict of the rule filter on both answers, always "passed"


_PROVENANCE_KEYS = tuple(field.name for field in dataclasses.fields(Provenance))


@dataclass(frozen=True, slots=True)
class ContextPair:
    """One user in two contexts; ``raw_labels`` of each is the teacher's response to it."""

    key: str
    anchor: Sample
    counterfactual: Sample
    provenance: Provenance

    @property
    def contexts(self) -> tuple[Sample, Sample]:
        """The original context, then the changed one."""
        return self.anchor, self.counterfactual


def changed_columns(anchor: Sample, counterfactual: Sample) -> tuple[str, ...]:
    """The columns of their service in which two contexts differ, in its order."""
    other = counterfactual.context()
    return tuple(name for name, text in anchor.context().items() if text != other[name])


def check_shared(anchor: Sample, counterfactual: Sample) -> None:
    """GplanError where a shared column differs (all are named), or no column does."""
    changed = changed_columns(anchor, counterfactual)
    moving = {anchor.form.names[field] for field in SPATIOTEMPORAL_COLUMNS}
    if wrong := [column for column in changed if column not in moving]:
        raise GplanError(
            f"the contexts of a pair share all but time and place, but {', '.join(wrong)} "
            f"{'differs' if len(wrong) == 1 else 'differ'}"
        )
    if not changed:
        raise GplanError("both contexts of a pair are the same: nothing spatiotemporal differs")


PairWriter = Callable[[ContextPair], None]


@contextmanager
def context_pair_writer(path: str | Path) -> Iterator[PairWriter]:
    """Yields what writes both directions of a pair to a file that appears whole or not at all."""
    path = Path(path)
    _check_suffix(path)
    with atomic_write(path) as temporary, temporary.open("w", encoding="utf-8") as file:

        def write(pair: ContextPair) -> None:
            check_shared(*pair.contexts)
            for line in _lines(pair):
                file.write(json_text(line) + "\n")

        yield write


def write_context_pairs(path: str | Path, pairs: Iterable[ContextPair]) -> int:
    """Writes a stream of pairs as ``context_pair_writer`` does and returns their number."""
    count = 0
    with context_pair_writer(path) as write:
        for pair in pairs:
            write(pair)
            count += 1
    return count


def read_context_pairs(
    path: str | Path,
    library: IntentLibrary,
    *,
    vocabulary: LatentVocabulary = GSISR_LATENTS,
    plans: Plans = "differ",
    faulty: FaultyRows | None = None,
) -> Iterator[ContextPair]:
    """Yields the pairs of a file, each checked in full, without holding the file in memory.

    A pair has both its directions on neighbouring lines, shared columns that are identical, the
    columns in ``provenance.changed`` that are not, readable times, responses that parse against
    ``library`` and break no rule of ``check_plan``, and in each direction the other's ``chosen`` as
    its ``rejected``. ``plans`` of "differ" admits pairs with two plans, "equal" those whose
    contexts share one.

    GplanError where the file is missing or not .jsonl (at once), or no pair is left; RowError, by
    line, where a pair is faulty and not left out by ``faulty``.
    """
    path = Path(path)
    _check_suffix(path)
    if not path.is_file():
        raise GplanError(f"{path} does not exist or is not a file.")
    seen: dict[str, int] = {}

    def pair(found: tuple[_Direction, _Direction] | RowError) -> ContextPair:
        """Joins the two lines of a pair, each checked by itself and beside the other."""
        if isinstance(found, RowError):
            raise found
        first, second = found
        by_name = {first.name: first, second.name: second}
        if set(by_name) != set(_DIRECTIONS):
            wanted = " and ".join(_DIRECTIONS)
            problem = f"expected {wanted}, not {first.name} and {second.name}"
            raise _fault(path, first, "direction", problem)
        if first.key in seen:
            raise _fault(path, first, "pair", f"line {seen[first.key]} already has this key")
        seen[first.key] = first.line
        anchor, counterfactual = (by_name[name] for name in _DIRECTIONS)
        try:
            check_shared(anchor.sample, counterfactual.sample)
        except GplanError as error:
            raise _fault(path, first, "context", str(error)) from None
        for own, other in ((anchor, counterfactual), (counterfactual, anchor)):
            if own.rejected != other.sample.raw_labels:
                raise _fault(path, own, "rejected", "it is not what the other direction chose")
            try:
                request_time(own.sample)
                for column in ORDER_TIMES:
                    time_of(own.sample, column)
            except GplanError as error:
                raise _fault(path, own, "context", str(error).rstrip(".")) from None
        origin = anchor.provenance
        if origin != counterfactual.provenance:
            raise _fault(path, first, "provenance", "the two directions disagree")
        changed = changed_columns(anchor.sample, counterfactual.sample)
        if set(origin.changed) != set(changed):
            problem = f"it says that {', '.join(origin.changed)} changed; {', '.join(changed)} did"
            raise _fault(path, first, "provenance", problem)
        if origin.filter != PASSED:
            problem = f"filter is {origin.filter!r}; only pairs that {PASSED} may be used"
            raise _fault(path, first, "provenance", problem)

        # Both responses parse and pass the filter, and their plans are as wanted.
        chosen: list[Plan] = []
        for line in found:
            try:
                place = RowPlace(path, line.line)
                chosen.append(parse_label(line.sample, library, place, vocabulary).plan)
            except RowError as error:
                raise _fault(path, line, "chosen", error.problem) from None
            if broken := check_plan(line.sample.raw_labels, library):
                raise _fault(path, line, "chosen", "; ".join(rule.message for rule in broken))
        if (chosen[0] == chosen[1]) != (plans == "equal"):
            relation = "the same plan" if plans == "differ" else "different plans"
            raise _fault(path, first, "chosen", f"its two contexts have {relation}")
        return ContextPair(first.key, anchor.sample, counterfactual.sample, origin)

    return (faulty or FaultyRows()).sound(path, _joined(path, library.rows), pair)


@dataclass(frozen=True, slots=True)
class _Direction:
    """One line of the file: ``sample`` is its context with the chosen response as its label."""

    line: int
    key: str
    name: str
    sample: Sample
    rejected: str
    provenance: Provenance


def _lines(pair: ContextPair) -> Iterator[dict[str, Any]]:
    origin = {name: getattr(pair.provenance, name) for name in _PROVENANCE_KEYS}
    for name, own, other in zip(_DIRECTIONS, pair.contexts, pair.contexts[::-1], strict=True):
        values = (pair.key, name, own.context(), own.raw_labels, other.raw_labels, origin)
        yield dict(zip(_KEYS, values, strict=True))


def _joined(path: Path, form: RowForm | None) -> Iterator[tuple[_Direction, _Direction] | RowError]:
    """Joins neighbouring lines that share their key; a line without its like is a fault."""
    waiting: _Direction | None = None
    for line in _directions(path, form):
        if waiting and isinstance(line, _Direction) and waiting.key == line.key:
            yield waiting, line
            waiting = None
            continue
        if waiting:
            yield _alone(path, waiting)
        waiting = None
        if isinstance(line, RowError):
            yield line
        else:
            waiting = line
    if waiting:
        yield _alone(path, waiting)


def _alone(path: Path, line: _Direction) -> RowError:
    return _fault(path, line, None, "its other direction is not on a neighbouring line")


def _fault(path: Path, line: _Direction, column: str | None, problem: str) -> RowError:
    return RowError(path, line.line, column, f"pair {line.key}: {problem}", _MEND)


def _directions(path: Path, form: RowForm | None) -> Iterator[_Direction | RowError]:
    for number, value in json_lines(path):
        if isinstance(value, ValueError):
            yield RowError(path, number, None, f"not UTF-8 JSON: {value}", _MEND)
            continue
        try:
            yield _direction(number, value, form)
        except GplanError as error:
            yield RowError(path, number, None, str(error), _MEND)


def _direction(line: int, value: Any, form: RowForm | None) -> _Direction:
    _check_keys("a line", value, _KEYS)
    known = form or public_form()
    _check_keys("context", value["context"], [c for c in known.columns if c != known.label])
    origin = value["provenance"]
    _check_keys("provenance", origin, _PROVENANCE_KEYS)
    texts = {
        **{key: value[key] for key in ("pair", "direction", "chosen", "rejected")},
        **value["context"],
        **{name: origin[name] for name in ("anchor", "perturbation", "teacher", "filter")},
    }
    if wrong := [key for key, text in texts.items() if not isinstance(text, str)]:
        raise GplanError(f"expected text in {', '.join(wrong)}")
    changed, row = origin["changed"], origin["anchor_row"]
    if not (isinstance(changed, list) and all(isinstance(column, str) for column in changed)):
        raise GplanError("provenance.changed must be a list of columns")
    if type(row) is not int:
        raise GplanError(f"provenance.anchor_row must be a whole number, not {row!r}")
    return _Direction(
        line,
        value["pair"],
        value["direction"],
        Sample.from_context(value["context"], form).with_label(value["chosen"]),
        value["rejected"],
        Provenance(**{**origin, "changed": tuple(changed)}),
    )


def _check_keys(what: str, value: Any, known: Iterable[str]) -> None:
    if not isinstance(value, dict):
        raise GplanError(f"{what} must be a JSON object")
    missing = [key for key in known if key not in value]
    unknown = [key for key in value if key not in set(known)]
    faults = [f"lacks {', '.join(missing)}"] if missing else []
    faults += [f"has unknown keys {', '.join(unknown)}"] if unknown else []
    if faults:
        raise GplanError(f"{what} {' and '.join(faults)}")


def _check_suffix(path: Path) -> None:
    if path.suffix != SUFFIX:
        raise GplanError(f"{path}: context pairs are kept in {SUFFIX} files; name one.")
