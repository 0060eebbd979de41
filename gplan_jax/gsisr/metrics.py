"""What a response is worth: the public evaluator's metrics, stricter ones, and Latent-Valid.

Latent-Valid (paper section 5.1.3) asks whether a response is a well-formed latent prefix and plan.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import strict_json
from gplan_jax.gsisr.library import IntentLibrary
from gplan_jax.gsisr.plans import Plan, parse_plan
from gplan_jax.reasoning import GSISR_LATENTS, LatentVocabulary
from gplan_jax.reasoning.traces import THOUGHT_CLOSE, THOUGHT_OPEN

PARAMETER_SUBSTITUTION_COST = 0.3


@dataclass(frozen=True)
class PlanScore:
    """Scores of one prediction, each between 0 and 1.

    ``acc1``, ``ndcg3`` and ``nes`` are the public evaluator's; ``ndcg3_unique`` gives no credit
    for repeats, ``ndcg3_positional`` only for the right place, ``exact`` is 1 for the label's
    plan itself. ``acc1_tool`` and ``ndcg3_tool`` compare tools and no parameters: so the paper
    scores its baselines, which emit none (section 5.1.1).
    """

    acc1: float
    ndcg3: float
    nes: float
    ndcg3_unique: float
    ndcg3_positional: float
    exact: float
    acc1_tool: float
    ndcg3_tool: float


def score_prediction(
    prediction: str, label: str, library: IntentLibrary | None = None
) -> PlanScore:
    """Scores a text against a label's, reasoning skipped; GplanError for a label without a plan."""
    library = library or IntentLibrary.load()
    predicted, wanted = parse_plan(prediction, library), parse_plan(label, library)
    if not wanted:
        raise GplanError(f"The label holds no plan to score against: {label[:60]!r}.")
    tools, wanted_tools = (
        [{library.tool_key: intent.get(library.tool_key, "")} for intent in plan]
        for plan in (predicted, wanted)
    )
    return PlanScore(
        acc1=float(predicted[:1] == wanted[:1]),
        ndcg3=ndcg(predicted, wanted, 3, library),
        nes=normalized_edit_similarity(predicted, wanted, library),
        ndcg3_unique=ndcg_unique(predicted, wanted, 3, library),
        ndcg3_positional=ndcg_positional(predicted, wanted, 3, library),
        exact=float(predicted == wanted),
        acc1_tool=float(tools[:1] == wanted_tools[:1]),
        ndcg3_tool=ndcg(tools, wanted_tools, 3, library),
    )


def ndcg(prediction: Plan, label: Plan, k: int = 3, library: IntentLibrary | None = None) -> float:
    """NDCG@k as the public evaluator computes it: any intent of the label gains 1 at any place.

    sum_i [p_i in label] / log2(i + 1) over its value for min(k, |label|) hits in front, i from 1.
    Intents are the same when tool and the library's ``relevance_parameters`` agree. An intent that
    the prediction repeats gains each time (the sum is capped at 1, which a label shorter than k
    could exceed); ``ndcg_unique`` mends that.
    """
    library = library or IntentLibrary.load()
    relevant = {library.relevance_key(intent) for intent in label}
    hits = [library.relevance_key(intent) in relevant for intent in prediction[:k]]
    return min(1.0, _discounted(hits) / _ideal(len(label), k))


def ndcg_unique(
    prediction: Plan, label: Plan, k: int = 3, library: IntentLibrary | None = None
) -> float:
    """NDCG@k in which each intent of the label is credited once."""
    library = library or IntentLibrary.load()
    open_credit = Counter(library.relevance_key(intent) for intent in label)
    hits = []
    for intent in prediction[:k]:
        key = library.relevance_key(intent)
        hits.append(open_credit[key] > 0)
        open_credit[key] -= 1
    return _discounted(hits) / _ideal(len(label), k)


def ndcg_positional(
    prediction: Plan, label: Plan, k: int = 3, library: IntentLibrary | None = None
) -> float:
    """NDCG@k in which position i gains only where the label has the same intent at position i."""
    library = library or IntentLibrary.load()
    pairs = zip(prediction[:k], label[:k], strict=False)
    hits = [library.relevance_key(p) == library.relevance_key(q) for p, q in pairs]
    return _discounted(hits) / _ideal(len(label), k)


def normalized_edit_similarity(
    prediction: Plan, label: Plan, library: IntentLibrary | None = None
) -> float:
    """NES = 1 - D / max(|prediction|, |label|), D a weighted edit distance (paper equation 14).

    Insertion, deletion and another tool cost 1, the same tool with other parameters 0.3. Two
    empty plans are equal: 1.
    """
    library = library or IntentLibrary.load()
    longest = max(len(prediction), len(label))
    if longest == 0:
        return 1.0
    row = [float(j) for j in range(len(label) + 1)]
    for i, predicted in enumerate(prediction, start=1):
        previous, row = row, [float(i)]
        for j, wanted in enumerate(label, start=1):
            cost = 0.0
            if predicted != wanted:
                same = predicted.get(library.tool_key) == wanted.get(library.tool_key)
                cost = PARAMETER_SUBSTITUTION_COST if same else 1.0
            row.append(min(previous[j] + 1, row[j - 1] + 1, previous[j - 1] + cost))
    return 1 - row[-1] / longest


def _discounted(hits: Sequence[bool]) -> float:
    return sum(hit / math.log2(rank + 1) for rank, hit in enumerate(hits, start=1))


def _ideal(label_length: int, k: int) -> float:
    return _discounted([True] * min(k, label_length)) or 1.0


_TOKEN = re.compile(r"<(?:THOUGHT_[A-Z0-9_]+|T_[0-9]+)_[a-z]>")


def latent_valid(
    text: str, vocabulary: LatentVocabulary = GSISR_LATENTS, library: IntentLibrary | None = None
) -> bool:
    """Whether ``text`` satisfies all conditions of Latent-Valid; see ``latent_failure``."""
    return latent_failure(text, vocabulary, library) is None


def latent_failure(
    text: str, vocabulary: LatentVocabulary = GSISR_LATENTS, library: IntentLibrary | None = None
) -> str | None:
    """Why ``text`` is not Latent-Valid, as ``code: detail``; None where it is.

    A valid text is a single ``<THOUGHT>`` block (block), one JSON array of intents, read strictly
    (plan), and nothing else (residue). The block's latent tokens follow C, S, T_1 .. T_|Y| (order),
    none of them twice or out of place (repeat, order), without a raw tag such as ``<STEP_1>`` or
    other text among them (residue); they have as many steps as the plan has intents (steps).
    An end token ``<|im_end|>`` is no text.
    """
    if text.count(THOUGHT_OPEN) != 1 or text.count(THOUGHT_CLOSE) != 1:
        blocks = f"{text.count(THOUGHT_OPEN)} opened and {text.count(THOUGHT_CLOSE)} closed"
        return f"block: one {THOUGHT_OPEN} block is wanted, {blocks}"
    before, _, rest = text.partition(THOUGHT_OPEN)
    inner, close, after = rest.partition(THOUGHT_CLOSE)
    if not close:
        return f"block: {THOUGHT_CLOSE} stands before {THOUGHT_OPEN}"
    names = "|".join([*map(re.escape, vocabulary.context_blocks), r"STEP_[0-9]+"])
    if tag := re.search(rf"</?(?:{names})>", text):
        return f"residue: raw tag {tag.group()}"
    if stray := _TOKEN.search(before + after):
        return f"order: {stray.group()} outside the {THOUGHT_OPEN} block"
    if residue := before.strip():
        return f"residue: {residue[:40]!r} before the {THOUGHT_OPEN} block"
    if residue := _TOKEN.sub("", inner).strip():
        return f"residue: {residue[:40]!r} among the latent tokens"
    tokens = _TOKEN.findall(inner)
    # The tokens must be a beginning of the vocabulary's own order.
    for place, token in enumerate(tokens):
        if token in tokens[:place]:
            return f"repeat: {token} occurs twice"
    for token, expected in zip(tokens, vocabulary.tokens, strict=False):
        if token != expected:
            return f"order: {token} where {expected} is due"
    if len(tokens) > len(vocabulary.tokens):
        return f"order: {tokens[len(vocabulary.tokens)]} is beyond the vocabulary"
    # Other metrics read what a plan was meant to be; the steps of this one count what it is.
    try:
        plan = strict_json(after.strip().removesuffix("<|im_end|>"), "The plan")
    except GplanError as error:
        return f"plan: {error}"
    tool_key = (library or IntentLibrary.load()).tool_key
    if not isinstance(plan, list) or not all(isinstance(i, dict) and tool_key in i for i in plan):
        return f"plan: not one JSON array of objects with {tool_key}"
    found, over = divmod(len(tokens), vocabulary.width)
    if over:
        return f"order: the last block has {over} of {vocabulary.width} tokens"
    steps = found - len(vocabulary.context_blocks)
    if steps != len(plan) or steps < 1:
        return f"steps: {steps} latent steps for a plan of {len(plan)} intents"
    return None
