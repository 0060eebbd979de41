"""Candidates: rows with a proposed plan and reasoning, to be reviewed; and their file.

review.candidates.jsonl holds what no expert edits, so no spreadsheet can damage times or ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import read_jsonl, write_jsonl
from gplan_jax.gsisr import IntentLibrary, Sample, facts_of, long_term, short_term
from gplan_jax.synthesis.rules.service_rules import shipped_rules
from gplan_jax.synthesis.seeds.draft import Draft
from gplan_jax.synthesis.teachers.seed import Stratum

Environment = tuple[tuple[str, str], ...]
MOST_ENTRIES, LONGEST_VALUE = 5, 40
NONE = "无"
SUFFIX = ".candidates.jsonl"
OWN = "the row"
_KEYS = ("row", "source_row", "origin", "trigger", "place", "facts", "plan", "reasoning", "context")


@dataclass(frozen=True, slots=True)
class SeedCandidate:
    """A row to review."""

    row: int  # Its number in the review, from 1.
    source_row: int  # Its number in the file it was drawn from.
    sample: Sample  # The context; ``raw_labels`` is "".
    stratum: Stratum  # (trigger, place).
    facts: Environment  # The context in words.
    proposal: Draft  # Plan and reasoning before any expert has seen them.
    origin: str  # "the row" for a label that the row had, else the name of the teacher.


def environment(sample: Sample) -> Environment:
    """The facts of a row for an expert, titles and texts: in Chinese words for rows of the public
    set, column by column for others.

    A value takes one line and is cut where it is long: nothing here can pass for another fact.
    """

    def cut(value: str) -> str:
        line = re.sub(r"\s+", " ", value.strip())
        return line if len(line) <= LONGEST_VALUE else line[:LONGEST_VALUE] + "…"

    def join(*parts: str) -> str:
        return " · ".join(part for part in parts if part) or NONE

    if sample.written is not None:
        return tuple((name, cut(text)) for name, text in sample.context().items() if text.strip())
    now = facts_of(sample).now
    rules = shipped_rules("amap")
    weekend = "，周末" if sample.weekendflag == "1" else ""
    holiday = "，节假日" if sample.holidayflag == "1" else ""
    area = cut(sample.current_city + sample.current_district)
    order_area = cut(sample.trigger_2 + sample.trigger_3)
    times = [("下单", sample.trigger_5), ("开始", sample.trigger_6), ("结束", sample.trigger_7)]
    told = [f"{word} {cut(time)[:16]}" for word, time in times if time.strip()]
    home = join(cut(sample.profile_feat_7), cut(sample.profile_feat_6))
    work = join(cut(sample.profile_feat_9), cut(sample.profile_feat_8))
    latest = [
        f"{b.when:%m-%d} {b.when.hour}点 {join(b.locality, cut(b.category), cut(b.place))}"
        for b in short_term(sample.short_term_behavior_seq, now, sample.form)[::-1][:MOST_ENTRIES]
    ]
    habits = [
        f"{join(cut(h.category), cut(h.place))} {h.count}次"
        for h in long_term(sample.long_term_behavior, sample.form)[:MOST_ENTRIES]
    ]
    weekday = "一二三四五六日"[now.weekday()]
    return (
        ("情境", "，".join(cut(phrase) for phrase in rules.context(rules.tell(sample)))),
        ("现在", f"{now:%Y-%m-%d} 周{weekday} {now:%H:%M}{weekend}{holiday}"),
        ("位置", join(area, cut(sample.current_tag), cut(sample.current_poi_name))),
        ("订单", join(cut(sample.trigger_1), order_area, cut(sample.trigger_4), *told)),
        ("常住", f"{cut(sample.profile_feat_5) or NONE}；家：{home}；公司：{work}"),
        ("近期行为", "；".join(latest) or NONE),
        ("长期行为", "；".join(habits) or NONE),
    )


def environment_text(environment: Environment) -> str:
    """The same as one text of several lines."""
    return "\n".join(f"{title}：{text}" for title, text in environment)


def write_candidates(path: Path, candidates: Iterable[SeedCandidate]) -> None:
    """Writes candidates, a JSON object a line; the file appears whole or not at all."""
    write_jsonl(
        path,
        (
            {
                "row": candidate.row,
                "source_row": candidate.source_row,
                "origin": candidate.origin,
                "trigger": candidate.stratum[0],
                "place": candidate.stratum[1],
                "facts": [list(fact) for fact in candidate.facts],
                "plan": candidate.proposal.plan,
                "reasoning": dict(candidate.proposal.reasoning),
                "context": candidate.sample.context(),
            }
            for candidate in candidates
        ),
    )


def read_candidates(path: Path, library: IntentLibrary) -> list[SeedCandidate]:
    """Reads what ``write_candidates`` wrote."""
    found = []
    for line, value in enumerate(read_jsonl(path), start=1):
        try:
            known = [name for name in library.form.columns if name != library.form.label]
            if set(value) != set(_KEYS) or set(value["context"]) != set(known):
                raise GplanError("keys are missing or unknown")
            candidate = SeedCandidate(
                row=int(value["row"]),
                source_row=int(value["source_row"]),
                sample=Sample.from_context(value["context"], library.rows),
                stratum=(value["trigger"], value["place"]),
                facts=tuple((title, text) for title, text in value["facts"]),
                proposal=Draft.make(value["plan"], value["reasoning"], library),
                origin=value["origin"],
            )
            found.append(candidate)
        except (GplanError, TypeError, KeyError, ValueError) as error:
            raise GplanError(
                f"{path}, line {line}: not a candidate ({error}). "
                "Take the file as gplan seeds candidates wrote it."
            ) from None
    if [candidate.row for candidate in found] != list(range(1, len(found) + 1)):
        raise GplanError(
            f"{path}: candidates are missing or out of order; take the file as it was."
        )
    return found


def candidates_of(review: Path) -> Path:
    """The candidates' file of a review file or of a reviewer's copy: review.anna.csv -> review."""
    names = [review.stem, *([review.stem.rpartition(".")[0]] if "." in review.stem else [])]
    paths = [review.with_name(name + SUFFIX) for name in names]
    for path in paths:
        if path.is_file():
            return path
    raise GplanError(
        f"{review} lacks the file with its candidates: neither {' nor '.join(map(str, paths))} is "
        "there. Put it beside the review file, or name it with --candidates."
    )


def load_candidates(
    reviews: list[Path], candidates: Path | None, library: IntentLibrary
) -> tuple[Path, list[SeedCandidate]]:
    """The candidates of one or more review files, and where they are."""
    paths = {(candidates or candidates_of(review)).resolve() for review in reviews}
    if len(paths) > 1:
        listed = ", ".join(sorted(map(str, paths)))
        raise GplanError(f"The review files are of different candidates: {listed}.")
    path = paths.pop()
    return path, read_candidates(path, library)
