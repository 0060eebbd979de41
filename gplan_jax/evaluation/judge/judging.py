"""Judging a set of plans, or comparing two: every judgement in one file, the figures in another.

A run holds no journal: rules cost nothing, and a language model's paid replies are in its cache, so
repeating a run that was stopped continues it and writes the same bytes.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import asdict
from pathlib import Path
from typing import Any, TypeVar

from gplan_jax.chat.ledger import Spending
from gplan_jax.chat.messages import same_model
from gplan_jax.evaluation.judge import aggregate
from gplan_jax.evaluation.judge.judgement import Judge, Judgement, Preference
from gplan_jax.evaluation.judge.sources import PlanToJudge
from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.faulty_rows import Streak
from gplan_jax.foundation.files import atomic_directory, json_text, refuse_existing, write_json
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.foundation.streams import map_ordered

JUDGEMENTS, COMPARISONS, RESULT = "judgements.jsonl", "comparisons.jsonl", "judge.json"
Pair = tuple[PlanToJudge, PlanToJudge]
T = TypeVar("T")
R = TypeVar("R")


def judge_plans(
    plans: Sequence[PlanToJudge],
    judges: Sequence[Judge],
    out: Path,
    *,
    combine: aggregate.Combine = "mean",
    seed: int = 0,
    filtered: bool = False,
    run: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Has every judge score every plan; writes judgements.jsonl and judge.json, returns the latter.

    ``plans`` are of one source after the other, the same rows of each; judges have the same axes
    and are closed when done. ``filtered`` leaves out plans that fail the rule filter, as the paper
    does. What a judge has paid for stays in its cache whatever stops it.
    """
    axes = _axes(judges)
    refuse_existing(out)
    judged: dict[str, list[aggregate.Judged]] = {judge.name: [] for judge in judges}
    spent = {judge.name: Spending() for judge in judges}

    def ask_of(judge: Judge) -> Callable[[PlanToJudge], Awaitable[Judgement | None]]:
        async def ask(plan: PlanToJudge) -> Judgement | None:
            if not plan.plan or (filtered and not plan.filter_pass):
                return None
            return await judge.judge(plan.sample, plan.plan)

        return ask

    with atomic_directory(out) as folder:
        with (folder / JUDGEMENTS).open("w", encoding="utf-8") as file:
            for judge in judges:
                streak = Streak(f"judge {judge.name}")
                answers = _answers(judge, ask_of(judge), plans)
                for plan, answer in zip(plans, answers, strict=True):
                    told = answer or Judgement({})
                    status: aggregate.Status = "scored" if told.unscored is None else "unscored"
                    if answer is None:
                        status = "filtered" if plan.plan else "no_plan"
                    else:
                        streak.add(told.unscored)
                    values, user = None, plan.sample.id
                    if status == "scored":
                        values = tuple(float(told.scores[axis].score) for axis in axes)
                    why = told.unscored or ""
                    row = aggregate.Judged(plan.source, plan.row, user, status, values, why)
                    judged[judge.name].append(row)
                    record = {
                        "source": plan.source,
                        "row": plan.row,
                        "id": user,
                        "judge": judge.name,
                        "status": status,
                        "scores": {
                            axis: {"reason": score.reason, "score": score.score}
                            for axis, score in told.scores.items()
                        },
                        "unscored": told.unscored,
                        "filter_pass": plan.filter_pass,
                        "origin": dict(told.origin),
                    }
                    file.write(json_text(record) + "\n")
                    if origin := told.origin:
                        spent[judge.name].add([origin["key"]], origin)
        result = {
            "rows": len({plan.row for plan in plans}),
            "users": len({plan.sample.id for plan in plans}),
            "axes": list(axes),
            **aggregate.summarize_scores(judged, axes, combine=combine, seed=seed),
            "filter_pass": _filter_pass(plans),
            "judges": _describe(judges, spent),
            "run": {**(run or {}), "combine": combine, "seed": seed, "filtered": filtered},
        }
        write_json(folder / RESULT, result)
    return result


def compare_plans(
    first: Sequence[PlanToJudge],
    second: Sequence[PlanToJudge],
    judges: Sequence[Judge],
    out: Path,
    *,
    combine: aggregate.Combine = "mean",
    seed: int = 0,
    filtered: bool = False,
    run: dict[str, Any] | None = None,
) -> dict[str, Any]:
    """Has every judge compare two sources' plans of the same rows, in both orders.

    Writes comparisons.jsonl and judge.json and returns the latter. Equal plans are not asked for.
    """
    _axes(judges)
    refuse_existing(out)
    pairs = list(zip(first, second, strict=True))
    compared: dict[str, list[aggregate.Compared]] = {judge.name: [] for judge in judges}
    unscored: dict[str, list[str]] = {judge.name: [] for judge in judges}
    spent = {judge.name: Spending() for judge in judges}

    def ask_of(
        judge: Judge,
    ) -> Callable[[Pair], Awaitable[tuple[aggregate.Outcome, Sequence[Preference]]]]:
        async def ask(pair: Pair) -> tuple[aggregate.Outcome, Sequence[Preference]]:
            a, b = pair
            if not (a.plan and b.plan):
                return "no_plan", ()
            if filtered and not (a.filter_pass and b.filter_pass):
                return "filtered", ()
            if a.plan == b.plan:
                return "identical", ()
            forth = await judge.compare(a.sample, a.plan, b.plan)
            back = await judge.compare(a.sample, b.plan, a.plan)
            return aggregate.outcome_of(forth, back), (forth, back)

        return ask

    with atomic_directory(out) as folder:
        with (folder / COMPARISONS).open("w", encoding="utf-8") as file:
            for judge in judges:
                streak = Streak(f"judge {judge.name}")
                answers = _answers(judge, ask_of(judge), pairs)
                for (a, b), (outcome, told) in zip(pairs, answers, strict=True):
                    if told:
                        failed = [p.reason for p in told if p.choice is None]
                        unscored[judge.name] += failed[:1]
                        streak.add(failed[0] if failed else None)
                    choices = (told[0].choice, told[1].choice) if told else (None, None)
                    compared[judge.name].append(aggregate.Compared(a.sample.id, outcome, choices))
                    orders = zip(("shown_first", "shown_second"), told, strict=False)
                    record = {
                        "row": a.row,
                        "id": a.sample.id,
                        "judge": judge.name,
                        "outcome": outcome,
                        **{order: asdict(preference) for order, preference in orders},
                        "filter_pass": [a.filter_pass, b.filter_pass],
                    }
                    file.write(json_text(record) + "\n")
                    for origin in (p.origin for p in told if p.origin):
                        spent[judge.name].add([origin["key"]], origin)
        result = {
            "rows": len(pairs),
            "users": len({a.sample.id for a, _ in pairs}),
            "first": first[0].source,
            "second": second[0].source,
            **aggregate.summarize_pairs(compared, combine=combine, seed=seed),
            "unscored": {name: aggregate.counted_reasons(whys) for name, whys in unscored.items()},
            "filter_pass": _filter_pass([*first, *second]),
            "judged_by": _describe(judges, spent),
            "run": {**(run or {}), "combine": combine, "seed": seed, "filtered": filtered},
        }
        write_json(folder / RESULT, result)
    return result


def _axes(judges: Sequence[Judge]) -> tuple[str, ...]:
    """The axes that all judges share; GplanError where they don't, or two have one name."""
    names = [judge.name for judge in judges]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise GplanError(f"Two judges are called {', '.join(repeated)}; set name in their files.")
    if len({judge.axes for judge in judges}) > 1:
        listed = "; ".join(f"{judge.name}: {', '.join(judge.axes)}" for judge in judges)
        raise GplanError(f"Judges of different axes can't stand in one table ({listed}).")
    return judges[0].axes


def _answers(judge: Judge, ask: Callable[[T], Awaitable[R]], items: Sequence[T]) -> Iterator[R]:
    answers = map_ordered(ask, items, at_once=judge.at_once, close=judge.close)
    with closing(answers), ProgressBar(f"judge {judge.name}", len(items)) as bar:
        for answer in answers:
            yield answer
            bar.advance(judge.note())


def _filter_pass(plans: Sequence[PlanToJudge]) -> dict[str, float]:
    """Source -> share of its rows whose whole answer passes the rule filter."""
    rows = Counter(p.source for p in plans)
    passing = Counter(p.source for p in plans if p.filter_pass)
    return {source: passing[source] / count for source, count in rows.items()}


def _describe(judges: Sequence[Judge], spent: Mapping[str, Spending]) -> dict[str, Any]:
    """What each judge is, what it cost, and the models that its server reported.

    More than one model, or another than the one asked for, is a warning.
    """
    described = {}
    for judge in judges:
        settings, models = judge.settings, spent[judge.name].models
        asked = settings.get("answers_as") or settings.get("model", "")
        described[judge.name] = {
            **settings,
            "caution": judge.caution,
            "models_reported": dict(sorted(models.items())),
            "model_changed": len(models) > 1,
            "model_differs": not all(same_model(asked, model) for model in models),
            "spent": spent[judge.name].to_dict(),
        }
    return described
