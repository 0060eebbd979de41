"""One row, by the columns of the public GSISR set, and a split that keeps a user's together.

Files of samples are CSV, JSONL and Parquet of any length: read and written one row at a time.
"""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import Any

from gplan_jax.foundation.buckets import bucket
from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.foundation.files import atomic_write, json_text
from gplan_jax.foundation.row_files import Row, check_suffix, import_parquet, read_rows
from gplan_jax.gsisr.row_form import FIELDS, Group, RowForm, public_form


@dataclass(frozen=True, slots=True)
class Sample:
    """A row under the column names of the public CSV; every value is text, absent ones are "".

    A row of another service stands under the same names, by the roles of its columns (``RowForm``).

    ``profile_feat_5`` is the home city; ``profile_feat_6/7`` and ``8/9`` are place id and
    city+district of the two habitual places, home and work; ``trigger_1`` is the order type,
    ``trigger_2/3/4`` its city, district and place, ``trigger_5`` when it was made and
    ``trigger_6/7`` its start and end. ``raw_labels`` holds the plan, after its reasoning where
    the row has any, and is "" in a row to plan for.
    """

    id: str
    profile_feat_1: str
    profile_feat_2: str
    profile_feat_3: str
    profile_feat_4: str
    profile_feat_5: str
    profile_feat_6: str
    profile_feat_7: str
    profile_feat_8: str
    profile_feat_9: str
    profile_feat_10: str
    profile_feat_11: str
    profile_feat_12: str
    profile_feat_13: str
    profile_feat_14: str
    short_term_behavior_seq: str
    long_term_behavior: str
    currenttime: str
    holidayflag: str
    weekendflag: str
    current_poi_name: str
    current_tag: str
    current_city: str
    current_district: str
    trigger_1: str
    trigger_2: str
    trigger_3: str
    trigger_4: str
    trigger_5: str
    trigger_6: str
    trigger_7: str
    raw_labels: str
    # what the columns without a role hold, in the order of ``form.extras``
    extra: tuple[str, ...] = ()
    # how its file is written; None for the public set
    written: RowForm | None = field(default=None, compare=False, repr=False)

    @property
    def form(self) -> RowForm:
        """How its file is written."""
        return self.written or public_form()

    def to_dict(self) -> dict[str, str]:
        """Column name -> value, in the order of its service's columns."""
        form = self.form
        others = dict(zip(form.extras, self.extra, strict=True))
        return {
            name: others[name] if name in others else getattr(self, form.fields[name])
            for name in form.columns
        }

    def context(self) -> dict[str, str]:
        """As ``to_dict``, without the label."""
        return {name: text for name, text in self.to_dict().items() if name != self.form.label}

    def texts_of(self, groups: Collection[Group]) -> tuple[str, ...]:
        """The texts of the columns of these groups (``RowForm.groups``), in their order."""
        own = self.form.groups
        return tuple(text for name, text in self.context().items() if own[name] in groups)

    def with_label(self, raw_labels: str) -> Sample:
        return dataclasses.replace(self, raw_labels=raw_labels)

    def with_texts(self, texts: Mapping[str, Any]) -> Sample:
        """The same row with other texts in some of COLUMNS."""
        return dataclasses.replace(self, **texts)

    @classmethod
    def from_context(cls, context: Mapping[str, str], form: RowForm | None = None) -> Sample:
        """A sample from known columns of a service, the public set's where ``form`` is None.

        Others are ""; GplanError where a column is none of the service.
        """
        known = form or public_form()
        if unknown := sorted(set(context) - set(known.columns)):
            raise GplanError(
                f"Unknown columns: {', '.join(unknown)}. Known ones: {', '.join(known.columns)}."
            )
        texts, extra = known.read(context)
        fields: dict[str, Any] = {**texts, "extra": extra, "written": form}
        return cls(**fields)


COLUMNS = FIELDS


def split_by_id(
    samples: Iterable[Sample], test_fraction: float, seed: int = 0
) -> tuple[list[Sample], list[Sample]]:
    """Splits into (train, test) by a salted hash of ``id``, so that no id is in both parts.

    The side of a row depends on its id and ``seed`` alone, so a part stays what it was when rows
    are added; its size is ``test_fraction`` (strictly between 0 and 1, else GplanError) on average.
    """
    if not 0 < test_fraction < 1:
        raise GplanError(f"test_fraction is {test_fraction}; it lies between 0 and 1.")
    parts: tuple[list[Sample], list[Sample]] = ([], [])
    for sample in samples:
        parts[bucket(str(seed), sample.id) < test_fraction].append(sample)
    return parts


def read_samples(
    path: str | Path, *, form: RowForm | None = None, faulty: FaultyRows | None = None
) -> Iterator[Sample]:
    """Yields the samples of a .csv, .jsonl or .parquet file without holding it in memory.

    The columns are those of ``form``, of the public set where None, in any order; one that lacks is
    empty unless it is required. GplanError at once where the file is missing or of another kind; on
    reading where columns are missing or unknown (all named), or no row is left. RowError where a
    row is faulty and not left out by ``faulty``.
    """
    return (sample for _, sample in read_numbered_samples(path, form=form, faulty=faulty))


def read_numbered_samples(
    path: str | Path,
    *,
    form: RowForm | None = None,
    faulty: FaultyRows | None = None,
    limit: int | None = None,
    skip: int = 0,
) -> Iterator[tuple[int, Sample]]:
    """As ``read_samples``, each sample after its row number in the file, counted from 1.

    Only the first ``limit`` rows are looked at, faulty ones among them, and the first ``skip`` of
    these are passed over.
    """
    path, known = Path(path), form or public_form()
    rows = islice(
        read_rows(
            path,
            tuple(known.columns),
            only=known.others == "error",
            optional=[name for name in known.columns if name not in known.required],
        ),
        skip,
        limit,
    )

    def sample(numbered: Row) -> tuple[int, Sample]:
        number, row = numbered
        if isinstance(row, RowError):
            raise row
        return number, Sample.from_context(row, form)

    return (faulty or FaultyRows()).sound(path, rows, sample)


SampleWriter = Callable[[Sample], object]
_PARQUET_BATCH = 1024


def write_samples(path: str | Path, samples: Iterable[Sample]) -> int:
    """Writes samples in the kind of file that the suffix names and returns their number.

    ``samples`` is consumed as a stream; an earlier file stays as it was when that fails. The
    columns are those of the first sample's service. GplanError where the suffix is not .csv, .jsonl
    or .parquet.
    """
    count, stream = 0, iter(samples)
    check_suffix(Path(path))
    first = next(stream, None)
    with sample_writer(path, first.written if first else None) as write:
        for sample in chain([first] if first else [], stream):
            write(sample)
            count += 1
    return count


@contextmanager
def sample_writer(path: str | Path, form: RowForm | None = None) -> Iterator[SampleWriter]:
    """Yields what writes one sample; the file changes only when the block ends well."""
    path, columns = Path(path), tuple((form or public_form()).columns)
    check_suffix(path)
    kinds = {".csv": _csv_writer, ".jsonl": _jsonl_writer, ".parquet": _parquet_writer}
    with atomic_write(path) as temporary, kinds[path.suffix](temporary, columns) as write:
        yield write


@contextmanager
def _csv_writer(path: Path, columns: Sequence[str]) -> Iterator[SampleWriter]:
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\r\n")
        writer.writerow(columns)
        yield lambda sample: writer.writerow(sample.to_dict().values())


@contextmanager
def _jsonl_writer(path: Path, _: Sequence[str]) -> Iterator[SampleWriter]:
    with path.open("w", encoding="utf-8") as file:
        yield lambda sample: file.write(json_text(sample.to_dict()) + "\n")


@contextmanager
def _parquet_writer(path: Path, columns: Sequence[str]) -> Iterator[SampleWriter]:
    parquet = import_parquet()
    import pyarrow

    schema = pyarrow.schema([(column, pyarrow.string()) for column in columns])
    waiting: list[dict[str, str]] = []

    with parquet.ParquetWriter(path, schema) as writer:

        def flush() -> None:
            writer.write_table(pyarrow.Table.from_pylist(waiting, schema=schema))
            waiting.clear()

        def write(sample: Sample) -> None:
            waiting.append(sample.to_dict())
            if len(waiting) == _PARQUET_BATCH:
                flush()

        yield write
        if waiting:
            flush()
