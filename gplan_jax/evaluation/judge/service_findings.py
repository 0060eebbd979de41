"""What the rule judge finds for a service with a rules.yaml."""

from __future__ import annotations

from itertools import combinations

from gplan_jax.evaluation.judge.case import admitted
from gplan_jax.evaluation.judge.judgement import Findings
from gplan_jax.gsisr import Plan, Sample, canonical_plan, check_plan
from gplan_jax.synthesis.rules.service_rules import ServiceRules

EXTENDING = 2  # Later intents that must have a reason for them to extend the first one.


def judge_by_service(sample: Sample, plan: Plan, rules: ServiceRules) -> tuple[Findings, ...]:
    """Findings on flow, logic and fit to time and place of a plan in the context of ``sample``.

    Flow: does it begin as an opening of this context, and does a fact support the rest? Logic: the
    filter's logic, the order of stages, links. Fit: what the rules have ``against`` an intent, and
    the facts that speak for it. The row's label is not looked at.
    """
    library, told = rules.library, rules.tell(sample)
    known = [intent for intent in plan if admitted(intent, library)]
    broken = [str(i.get(library.tool_key, "no tool")) for i in plan if i not in known]
    if not known:
        failures = ["no intent can be carried out"] if plan else []
        return (Findings(failures=failures),) * 3
    links = [rules.link(intent, known[:n]) for n, intent in enumerate(known)]
    reasons = [rules.reasons(intent, told) for intent in known]
    words = [rules.words_of(intent) for intent in known]

    flow_for, flow_against = [], []
    if known[0] in [opening[0] for opening, _ in rules.openings(told)]:
        flow_for.append(f"it begins as this context calls for: {words[0]}")
    elif not reasons[0]:
        flow_against.append(f"missed anchor: nothing in the context asks for {words[0]} first")
    drift = [words[n] for n in range(1, len(known)) if not (reasons[n] or links[n])]
    if len(drift) > 1 and 2 * len(drift) >= len(known) - 1:
        flow_against.append(f"topic drift: nothing in the context asks for {', '.join(drift)}")
    elif not drift and len(known) > EXTENDING:
        flow_for.append("a fact supports every later intent")

    violations = check_plan(canonical_plan(plan, library), library)
    logic_against = [v.message for v in violations if v.tier == "logic"]
    stages = [(s, words[n]) for n, i in enumerate(known) if (s := rules.stage(i)) is not None]
    logic_against += [
        f"stage inversion: {one} stands before {other}"
        for (before, one), (after, other) in combinations(stages, 2)
        if before > after
    ][:1]
    logic_for = list(filter(None, links))[:1]
    if len({stage for stage, _ in stages}) > 1:
        logic_for.append("clean progression of stages")

    fit_against = [f"{tool} can't be carried out as written" for tool in broken]
    for n, intent in enumerate(known):
        fit_against += [f"{words[n]}: {why}" for why in rules.objections(intent, told)]
    fit_for = dict.fromkeys(found[0] for found in reasons if found)
    sides = ((flow_for, flow_against), (logic_for, logic_against), (list(fit_for), fit_against))
    return tuple(Findings(good, bad, 2 * len(bad) > len(plan)) for good, bad in sides)
