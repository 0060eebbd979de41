"""What a user made of earlier plans, as the state of the grammar that the next one begins in.

Accepted intents are no decision any more: their tokens are forced, in front of all that the model
decides. Dismissed ones are closed, as if the plan held them already. So nothing is trained, and the
tokens are those of greedy (or drawn, or best) decoding among the plans that are left.
"""

from __future__ import annotations

from gplan_jax.inference.engine.requests import BadOption, PlanRequest
from gplan_jax.inference.grammar.plan_grammar import GrammarState, PlanGrammar


def start_after(grammar: PlanGrammar, request: PlanRequest) -> GrammarState:
    """The state in front of the plans that go on from a request's feedback.

    BadOption names the intent at fault, or the list.
    """
    rules, numbers = grammar.rules, dict[str, list[int]]()
    for name in ("shown", "accepted", "dismissed"):
        numbers[name] = []
        for place, intent in enumerate(getattr(request, name)):
            number, path = grammar.numbers.get(frozenset(intent.items())), f"{name}.{place}"
            if number is None:
                library = grammar.library.name
                raise BadOption(path, f"is no intent of the library {library}; see GET /v1/model.")
            if number in numbers[name]:
                raise BadOption(path, f"is in {name} already.")
            if number not in numbers["shown"] and name != "shown" and request.shown:
                raise BadOption(path, "is not among the intents of shown.")
            numbers[name].append(number)
    accepted, dismissed = numbers["accepted"], numbers["dismissed"]

    if len(accepted) > rules.maximum:
        raise BadOption("accepted", f"holds more than the {rules.maximum} intents of a plan.")
    closed, has_place = 0, False
    for place, number in enumerate(accepted):
        path = f"accepted.{place}"
        if number in dismissed:
            raise BadOption(path, f"is dismissed too, by dismissed.{dismissed.index(number)}.")
        if closed >> number & 1:
            raise BadOption(path, "can't follow: an intent before it excludes it.")
        if not (has_place or rules.free >> number & 1):
            raise BadOption(path, "needs the place of an intent before it, and none yields one.")
        closed |= rules.closes[number]
        has_place = has_place or bool(rules.yields >> number & 1)

    out = sum(1 << number for number in dismissed)
    left = (rules.all if has_place else rules.free) & ~(closed | out)
    reach = len(accepted) + rules.within_reach(left)
    if reach < rules.minimum:
        least = f"too few for every plan to reach {rules.minimum} intents; dismiss fewer."
        raise BadOption("dismissed", f"leaves {reach} of the library's intents, {least}")
    # Where a length is announced beforehand, it must be within reach.
    most = min(rules.maximum, reach) if grammar.latent else rules.maximum
    return grammar.start._replace(closed=out, most=most, ahead=tuple(accepted))
