"""What a scripted server answers in a teacher's place, to rehearse a run without a model.

    python scripts/scripted_server.py --responder rehearsal_teacher:reply

Replies have the form that the shipped prompt asks for. Plans are drawn at random, seeded by the
context; a share of them breaks a rule, so that repairs and the filter are rehearsed too.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from typing import Any

from gplan_jax.gsisr import IntentLibrary, Plan
from gplan_jax.synthesis.teachers.reply import PLAN, REASONING, STEPS

FAULTY, STILL_FAULTY = 0.3, 0.5  # Of first replies, and of those that are asked for again.
_GIVEN_PLAN = "\n计划: "


def reply(body: Mapping[str, Any]) -> str:
    """The reply to a chat request: a plan with its reasoning, or the reasoning of a given plan."""
    messages = [message["content"] for message in body["messages"]]
    # A repair shows the faulty reply and then its faults, in a turn that holds no context.
    repaired = body["messages"][-2]["role"] == "assistant" and "当前时间: " not in messages[-1]
    context = messages[-3] if repaired else messages[-1]
    generator = random.Random(context)
    before, given, plan_text = context.rpartition(_GIVEN_PLAN)
    explains = bool(given and before)
    plan = json.loads(plan_text) if explains else _plan(generator, IntentLibrary.load())
    if not explains and generator.random() < FAULTY:
        still = not repaired or generator.random() < STILL_FAULTY
        plan = _broken(generator, plan) if still else plan
    steps = [f"第{i}步，排演{generator.randrange(1000)}。" for i in range(1, len(plan) + 1)]
    answer: dict[str, Any] = {
        REASONING: {"context": "排演的处境。", "strategy": "排演的安排。", STEPS: steps}
    }
    return json.dumps(answer if explains else answer | {PLAN: plan}, ensure_ascii=False)


def _plan(generator: random.Random, library: IntentLibrary) -> Plan:
    """A plan that passes the filter: no tool twice, one of each exclusive group."""
    tools = list(library.tools)
    generator.shuffle(tools)
    for group in library.exclusive_groups:
        spare = [name for name in tools if name in group][1:]
        tools = [name for name in tools if name not in spare]
    bounds = library.plan_length
    plan: Plan = []
    for name in tools[: min(len(tools), generator.randint(bounds.minimum, bounds.maximum))]:
        intent = {library.tool_key: name}
        for key in library.tools[name].parameters:
            values = list(library.parameters[key].values or ["排演"])
            values = [value for value in values if value != library.previous_place]
            intent[key] = generator.choice(values)
        plan.append(intent)
    return plan


def _broken(generator: random.Random, plan: Plan) -> Plan:
    match generator.randrange(4):
        case 0:
            return [*plan[:-1], plan[0]]
        case 1:
            return plan[:1]
        case 2:
            return [{**plan[0], "排演": "多余"}, *plan[1:]]
    return [{key: f"{value}x" for key, value in plan[0].items()}, *plan[1:]]
