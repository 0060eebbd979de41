"""From files of predictions to scores: arms of one comparison, or separate evaluations."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from gplan_jax.evaluation.scores.offline import FLOOR_MEASURES, read_prediction, score_text
from gplan_jax.evaluation.significance.summary import ArmScores
from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.foundation.files import read_jsonl
from gplan_jax.gsisr import IntentLibrary

MODES = ("constrained", "free")


def score_arm(
    texts_SxN: Sequence[Sequence[str]], labels: Sequence[str], library: IntentLibrary
) -> ArmScores:
    """Scores one arm's plan texts, a line a seed, against the rows' labels.

    Returns:
        Acc@1, NDCG@3 in its three forms, NES, exact match and the rule filter, each [S, N]. A text
        without a plan scores 0.

    Raises:
        GplanError: a line of texts is not as long as the labels, or a label holds no plan.
    """
    seen: dict[tuple[str, str], list[float]] = {}
    values_SxNxM = np.zeros((len(texts_SxN), len(labels), len(FLOOR_MEASURES)))
    for seed, texts in enumerate(texts_SxN):
        if len(texts) != len(labels):
            raise GplanError(
                f"Seed {seed} has {len(texts)} answers for {len(labels)} rows; each row needs one."
            )
        for row, pair in enumerate(zip(texts, labels, strict=True)):
            if pair not in seen:
                values = score_text(*pair, library).values
                seen[pair] = [values[measure] for measure in FLOOR_MEASURES]
            values_SxNxM[seed, row] = seen[pair]
    return ArmScores({m: values_SxNxM[:, :, k] for k, m in enumerate(FLOOR_MEASURES)})


def read_run(
    path: str | Path, library: IntentLibrary, *, mode: str = "constrained"
) -> tuple[dict[str, ArmScores], list[str]]:
    """Scores every arm of the predictions.jsonl that ``gplan baseline`` wrote; also the rows' ids.

    Args:
        path: the file; its rows hold "id", "label" and "arms": {arm: {mode: [text a seed]}}.
        library: the intent library of the rule filter.
        mode: ``constrained`` or ``free``.

    Raises:
        GplanError: the file is missing or empty, or its rows have other arms or seeds.
        RowError: a row lacks one of these, or its label holds no plan.
    """
    if mode not in MODES:
        raise GplanError(f"mode is {mode}; it is one of {', '.join(MODES)}.")
    mend = (
        'Each row has "id", "label" and "arms": {name: {"constrained": [text, ...], "free": ...}}.'
    )
    ids, labels = [], []
    texts: dict[str, list[list[str]]] = {}
    for number, row in enumerate(read_jsonl(path), start=1):
        try:
            identity, label = str(row["id"]), str(row["label"])
            found = {str(name): list(arm[mode]) for name, arm in row["arms"].items()}
        except (KeyError, TypeError, AttributeError) as error:
            raise RowError(path, number, None, f"lacks {error}", mend) from None
        if number > 1 and {n: len(t) for n, t in found.items()} != {
            n: len(lines[0]) for n, lines in texts.items()
        }:
            raise RowError(path, number, "arms", "has other arms or seeds than row 1", mend)
        ids.append(identity)
        labels.append(label)
        for name, answers in found.items():
            texts.setdefault(name, []).append(answers)
    if not ids:
        raise GplanError(f"{path} holds no predictions.")
    arms = {
        name: score_arm([list(line) for line in zip(*rows, strict=True)], labels, library)
        for name, rows in texts.items()
    }
    return arms, ids


def read_evaluations(
    paths: Mapping[str, str | Path], library: IntentLibrary
) -> tuple[dict[str, ArmScores], list[str]]:
    """Scores predictions.jsonl files of several evaluations of the same rows, one seed each.

    Args:
        paths: name of the arm -> its file, as `gplan evaluate` writes it.
        library: the intent library of the rule filter.

    Raises:
        GplanError: no files, a file is missing or empty, or two are over different rows.
        RowError: a row lacks a text, its label holds no plan, or it is another row than the first
            file's at this place.
    """
    arms: dict[str, ArmScores] = {}
    expected: list[tuple[str, str]] = []
    for name, path in paths.items():
        rows = enumerate(read_jsonl(path), start=1)
        predictions = [read_prediction(path, number, row, library) for number, row in rows]
        pairs = [(p.prompt_id, p.label) for p in predictions]
        expected = expected or pairs
        if len(pairs) != len(expected) or not pairs:
            raise GplanError(
                f"{path} has {len(pairs)} rows and {next(iter(paths.values()))} {len(expected)}; "
                "arms are compared over the same rows."
            )
        for number, (pair, wanted) in enumerate(zip(pairs, expected, strict=True), start=1):
            if pair != wanted:
                problem = f"has another id or label than {next(iter(paths.values()))} has there"
                mend = "Arms are compared over the same rows in the same order."
                raise RowError(path, number, "id", problem, mend)
        arms[name] = score_arm(
            [[p.text for p in predictions]], [p.label for p in predictions], library
        )
    if not arms:
        raise GplanError("There is nothing to compare: name a predictions.jsonl at least.")
    return arms, [identity for identity, _ in expected]
