"""Candidates: rows with a proposed plan and reasoning, to be reviewed; their file; what an
expert may change of one, and what is wrong there.

review.candidates.jsonl holds what no expert edits, so no spreadsheet can damage times or ids.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import read_jsonl, write_jsonl
from gplan_jax.gsisr import (
    IntentLibrary,
    Plan,
    Sample,
    canonical_plan,
    check_plan,
    facts_of,
    long_term,
    parse_plan,
    short_term,
)
from gplan_jax.reasoning import (
    GSISR_LATENTS,
    ReasoningTrace,
    parse_trace,
    split_response,
    write_trace,
)
from gplan_jax.reasoning.traces import check_plain
from gplan_jax.synthesis.rules.service_rules import shipped_rules
from gplan_jax.synthesis.teachers.seed_selection import Stratum

CONTEXT_BLOCKS = GSISR_LATENTS.context_blocks
PLAN = "plan"
_LINE_BREAKS = re.compile(r"\s*[\r\n]\s*")
_INTENT = re.compile(r"Intent (\d+)\b")
ARROW = " → "
Environment = tuple[tuple[str, str], ...]
MOST_ENTRIES, LONGEST_VALUE = 5, 40
NONE = "无"
SUFFIX = ".candidates.jsonl"
OWN = "the row"
_KEYS = ("row", "source_row", "origin", "trigger", "place", "facts", "plan", "reasoning", "context")


@dataclass(frozen=True, slots=True)
class Draft:
    """A plan and its reasoning, right or not yet."""

    plan: Plan  # The intents, keys in the library's order.
    # Block name -> text, those without a text left out; it may have more or fewer steps than the
    # plan has intents.
    reasoning: Mapping[str, str] = field(default_factory=dict)

    @classmethod
    def make(cls, plan: Plan, reasoning: Mapping[str, str], library: IntentLibrary) -> Draft:
        """A draft with keys in canonical order, and texts on one line without outer spaces."""
        texts = {name: _LINE_BREAKS.sub(" ", text.strip()) for name, text in reasoning.items()}
        intents = [library.canonical_intent(intent) for intent in plan]
        return cls(intents, {name: text for name, text in texts.items() if text})

    @classmethod
    def of_label(cls, label: str, library: IntentLibrary) -> Draft:
        """Reads a raw label tolerantly: the plan that was meant, and reasoning if it is whole."""
        plan = parse_plan(label, library)
        if not plan:
            raise GplanError("it holds no plan")
        try:
            thought, _ = split_response(label)
            trace = parse_trace(thought) if thought else None
        except GplanError:
            trace = None
        return cls.make(plan, dict(trace.blocks) if trace else {}, library)

    def label(self, library: IntentLibrary) -> str:
        """The raw label; GplanError where ``faults_of`` finds any in the reasoning."""
        names = block_names(len(self.plan))
        trace = ReasoningTrace(tuple((name, self.reasoning.get(name, "")) for name in names))
        return write_trace(trace) + canonical_plan(self.plan, library)


@dataclass(frozen=True, slots=True)
class DraftFault:
    """Why a draft is no seed yet."""

    column: str  # "plan", or the block of the reasoning.
    step: int | None  # The intent or STEP it is about, from 1; None where it is about the whole.
    tier: str  # The filter's tier, or "reasoning".
    code: str  # code, message: as a ``Violation`` has them.
    message: str


def block_names(steps: int) -> list[str]:
    """The blocks of a trace with so many steps."""
    return [*CONTEXT_BLOCKS, *(f"STEP_{i}" for i in range(1, steps + 1))]


def faults_of(draft: Draft, library: IntentLibrary) -> list[DraftFault]:
    """Everything wrong with a draft: the filter's three tiers, then its reasoning; [] for none."""
    faults = []
    for found in check_plan(canonical_plan(draft.plan, library), library):
        # The filter's message begins with the intent that it is about, where it is about one.
        intent = _INTENT.match(found.message)
        step = int(intent[1]) if intent else None
        faults.append(DraftFault(PLAN, step, found.tier, found.code, found.message))
    names = block_names(len(draft.plan))
    for name in (*names, *(name for name in draft.reasoning if name not in names)):
        step = int(name.removeprefix("STEP_")) if name.startswith("STEP_") else None
        text = draft.reasoning.get(name, "")
        if name not in names:
            message = f"{name} has no intent: the plan has {len(draft.plan)}"
            faults.append(DraftFault(name, step, "reasoning", "step_without_intent", message))
        elif not text:
            message = f"{name} is empty; say why"
            faults.append(DraftFault(name, step, "reasoning", "empty_text", message))
        try:
            check_plain(text, name)
        except GplanError as error:
            message = str(error).rstrip(".")
            faults.append(DraftFault(name, step, "reasoning", "markup", message))
    return faults


def plan_words(plan: Plan, library: IntentLibrary) -> str:
    """A plan in words, for example 打车到订单地 → 订单提醒; a broken one as far as it goes."""
    texts = []
    for intent in plan:
        name = intent.get(library.tool_key, "?")
        tool = library.tools.get(name)
        if tool and library.rows is None and all(key in intent for key in tool.parameters):
            texts.append(shipped_rules("amap").words_of(dict(intent)))
        else:
            values = [value for key, value in intent.items() if key != library.tool_key]
            texts.append(" ".join([(tool.meaning if tool else "") or name, *values]))
    return ARROW.join(texts)


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
