"""Do the latent tokens carry the reasoning? Interventions on them, probes and the logit lens.

A response is opening tag, latents, closing tag and answer. An answer counts as right where each of
its tokens has the highest logit after the right ones before it: then, and only then, greedy
decoding from there gives the whole answer. So one pass an intervention is enough, and nothing but
the latents differs:

    shuffled      the row's latent tokens in a random order
    dropped       no latent token at all
    one token     the first latent token in all their places
    transplanted  keys and values of the latent positions from another row, in every layer; their
                  prompts have one length, so that positions agree

For a block's triplet, a probe is a logistic regression from the state at its last position to a
token of the block's text, fitted on half of the rows and scored on the others, beside the most
frequent token. The logit lens asks whether that token has the highest logit at one of the triplet's
positions, beside the same for another row's text. The state after l layers is that of the model cut
down to l layers, its final norm included.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from gplan_jax.data.encoding import ChatEncoder
from gplan_jax.data.tasks.registry import load_task
from gplan_jax.data.tasks.task import Example, Task
from gplan_jax.evaluation.reproduce.tables import write_tables
from gplan_jax.evaluation.reproduce.task_arms import ARMS, TEST_ROWS, cell_of
from gplan_jax.evaluation.scores.intervals import Clusters, proportion_interval
from gplan_jax.evaluation.scores.learning_curves import load_pyplot
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.errors import load_extra
from gplan_jax.foundation.files import atomic_write, write_json
from gplan_jax.foundation.tables import TextTable
from gplan_jax.models import Qwen3, load_qwen3
from gplan_jax.models.qwen3.model import LayeredContext
from gplan_jax.reasoning import PLAN_SECTION, write_response

RESULT = "latents"
PROBE_TITLES = {
    "probe": "Probe",
    "frequency": "Most frequent",
    "lens": "Logit lens",
    "lens_other": "Another row's text",
}


@dataclass(frozen=True)
class LatentRows:
    """N rows in three parts, each right-padded: what comes before the latents, they, the rest."""

    head_NxP: np.ndarray
    head_lengths_N: np.ndarray
    latents_NxH: np.ndarray
    latent_lengths_N: np.ndarray
    rest_NxR: np.ndarray  # closing tag, answer and end token
    rest_lengths_N: np.ndarray
    answers_NxR: np.ndarray  # bool: which of the rest is the answer
    blocks: tuple[tuple[tuple[str, np.ndarray], ...], ...]  # a row's block names and text ids


def study_task(folder: Path, *, seeds: int, limit: int = TEST_ROWS) -> list[TextTable]:
    """`study_latents` of every PICD and pause model that `reproduce tasks` has left in a folder."""
    cells = [
        cell_of(folder, name, seed)
        for name, arm in ARMS.items()
        if arm.has_latents
        for seed in range(seeds)
    ]
    found = [cell for cell in cells if (cell / "run" / "model").is_dir()]
    if not found:
        raise GplanError(f"{folder} has no model with latent tokens; run gplan reproduce tasks.")
    data = folder / "rows" / "test.jsonl"
    return [
        table
        for cell in found
        for table in study_latents(cell / "run" / "model", data, cell, limit=limit)
    ]


def study_latents(
    model_dir: Path, data: Path, out: Path, *, limit: int, seed: int = 0
) -> list[TextTable]:
    """Writes OUT/latents.json, .md and .png for a model of a text task; the tables it shows.

    GplanError where the model's responses have no latents, or a row has no blocks.
    """
    task, encoder = load_task(model_dir), ChatEncoder.load(model_dir)
    if task.response != "latent":
        raise GplanError(f"{model_dir}: responses of this model hold no latent tokens to study.")
    model = load_qwen3(model_dir, compute_dtype=jnp.float32)
    examples = list(islice(task.read(data, encoder.latents), limit))
    rows = latent_rows(task, encoder, examples)
    right = interventions(model, rows, seed=seed)
    depth = model.config.num_hidden_layers
    layers = [probe_layer(model, rows, layer, encoder) for layer in range(1, depth + 1)]

    clusters = Clusters.of([example.id for example in examples])
    lines = []
    for name, right_N in right.items():
        low, high, _ = proportion_interval(right_N[None].astype(float), clusters)
        lines.append([name, f"{100 * right_N.mean():.1f}", f"{100 * low:.1f}–{100 * high:.1f}"])
    rows_told = f"{out.parent.name}, {out.name}: {len(examples)} rows"
    tables = [
        TextTable(("Latents", "Answers right %", "95% over rows"), lines, caption=f"{rows_told}."),
        TextTable(
            ("Layer", "Block", *PROBE_TITLES.values()),
            [
                [str(layer), block, *(f"{100 * values[key]:.1f}" for key in PROBE_TITLES)]
                for layer, found in enumerate(layers, start=1)
                for block, values in found.items()
            ],
            words=2,
            caption="Share of the tokens of a block's text, %; probes scored on half of the rows.",
        ),
    ]
    out.mkdir(parents=True, exist_ok=True)
    write_tables(out / f"{RESULT}.md", tables)
    answers = {name: float(right_N.mean()) for name, right_N in right.items()}
    write_json(out / f"{RESULT}.json", {"rows": len(examples), "right": answers, "layers": layers})
    draw(answers, layers, out / f"{RESULT}.png")
    return tables


def latent_rows(task: Task, encoder: ChatEncoder, examples: Sequence[Example]) -> LatentRows:
    """The rows as the model reads them once all blocks are latent."""
    latent_ids = set(encoder.latent_ids)
    parts: list[list[np.ndarray]] = [[], [], [], []]
    for example in examples:
        names = [(name, None) for name in example.block_names]
        if not names:
            raise GplanError(f"Row {example.id} has no reasoning block, so no latent token.")
        response = encoder.response(write_response(names, example.answer, encoder.latents))
        found = [i for i, token in enumerate(response.ids.tolist()) if token in latent_ids]
        first, end = found[0], found[-1] + 1
        prompt = task.prompt_ids(example.context, encoder)
        parts[0].append(np.concatenate([prompt, response.ids[:first]]))
        parts[1].append(response.ids[first:end])
        parts[2].append(response.ids[end:])
        parts[3].append(response.sections[end:] == PLAN_SECTION)
    padded = [pad(part) for part in parts]
    lengths = [np.array([len(row) for row in part], np.int32) for part in parts]
    texts = tuple(
        tuple((name, encoder.response(text or "").ids[:-1]) for name, text in example.blocks)
        for example in examples
    )
    return LatentRows(
        padded[0], lengths[0], padded[1], lengths[1], padded[2], lengths[2], padded[3] > 0, texts
    )


def pad(rows: Sequence[np.ndarray]) -> np.ndarray:
    """int32 [N, longest], zeros on the right."""
    padded_NxS = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for line, row in zip(padded_NxS, rows, strict=True):
        line[: len(row)] = row
    return padded_NxS


def interventions(model: Qwen3, rows: LatentRows, *, seed: int) -> dict[str, np.ndarray]:
    """Intervention -> bool [N]: whether the row's answer is right after it."""
    rng = np.random.default_rng(seed)
    shuffled_NxH = rows.latents_NxH.copy()
    for line, length in zip(shuffled_NxH, rows.latent_lengths_N, strict=True):
        line[:length] = rng.permutation(line[:length])
    one_NxH = np.repeat(rows.latents_NxH[:, :1], rows.latents_NxH.shape[1], axis=1)
    none_N = np.zeros_like(rows.latent_lengths_N)
    donors_N = donors(rows, rng)

    @nnx.jit
    def pass_over(model: Qwen3, latents_NxH: Any, lengths_N: Any, donors_N: Any) -> jax.Array:
        head = head_context(model, rows)
        latent = model.branch(latents_NxH, lengths_N, [head], keep=True)[1]
        assert latent is not None
        latent = LayeredContext(latent.key[:, donors_N], latent.value[:, donors_N], lengths_N)
        rest = jnp.asarray(rows.rest_NxR), jnp.asarray(rows.rest_lengths_N)
        states_NxRxD, _ = model.branch(*rest, [head, latent])
        return jnp.argmax(model.logits(states_NxRxD), axis=-1)

    own_N = np.arange(len(donors_N))
    found = {}
    for name, latents_NxH, lengths_N, whose_N in (
        ("as trained", rows.latents_NxH, rows.latent_lengths_N, own_N),
        ("shuffled", shuffled_NxH, rows.latent_lengths_N, own_N),
        ("dropped", rows.latents_NxH, none_N, own_N),
        ("one token", one_NxH, rows.latent_lengths_N, own_N),
        ("transplanted", rows.latents_NxH, rows.latent_lengths_N, donors_N),
    ):
        told_NxR = np.asarray(pass_over(model, latents_NxH, lengths_N, whose_N))
        # The state at token j foretells token j + 1; the closing tag comes before the answer.
        hit_NxR = told_NxR[:, :-1] == rows.rest_NxR[:, 1:]
        found[name] = (hit_NxR | ~rows.answers_NxR[:, 1:]).all(axis=1)
    return found


def head_context(model: Qwen3, rows: LatentRows) -> LayeredContext:
    """Keys and values of what comes before the latents."""
    head = jnp.asarray(rows.head_NxP), jnp.asarray(rows.head_lengths_N)
    context = model.branch(*head, keep=True)[1]
    assert context is not None
    return context


def donors(rows: LatentRows, rng: np.random.Generator) -> np.ndarray:
    """[N]: another row with head and latents of the same length; its own where there is none."""
    donors_N = np.arange(len(rows.head_lengths_N))
    shapes = np.stack([rows.head_lengths_N, rows.latent_lengths_N], axis=1)
    for shape in np.unique(shapes, axis=0):
        alike = rng.permutation(np.flatnonzero((shapes == shape).all(axis=1)))
        donors_N[alike] = np.roll(alike, 1)
    return donors_N


def first_layers(model: Qwen3, count: int) -> Qwen3:
    """The model cut down to its first layers."""
    graphdef, state = nnx.split(model)
    cut = nnx.merge(graphdef, state)
    cut.config = dataclasses.replace(model.config, num_hidden_layers=count)
    block, stacked = nnx.split(cut.layers)
    cut.layers = nnx.merge(block, jax.tree.map(lambda array: array[:count], stacked))
    return cut


def probe_layer(
    model: Qwen3, rows: LatentRows, layer: int, encoder: ChatEncoder
) -> dict[str, dict[str, float]]:
    """Block -> accuracies under PROBE_TITLES, means over the tokens of its text."""
    cut = first_layers(model, layer)
    latents = jnp.asarray(rows.latents_NxH), jnp.asarray(rows.latent_lengths_N)
    states_NxHxD, _ = cut.branch(*latents, [head_context(cut, rows)])
    told_NxH = np.asarray(jnp.argmax(cut.logits(states_NxHxD), axis=-1))
    width, found = encoder.latents.width, {}
    for name in encoder.latents.block_names:
        places = {  # row -> which of its blocks it is
            n: [block for block, _ in blocks].index(name)
            for n, blocks in enumerate(rows.blocks)
            if any(block == name for block, _ in blocks)
        }
        if len(places) < 4:
            continue
        of_block = list(places)
        last_N = [(places[n] + 1) * width - 1 for n in of_block]
        states_NxD = np.asarray(states_NxHxD)[of_block, last_N]
        texts = [rows.blocks[n][places[n]][1] for n in of_block]
        tokens_NxW = np.stack([text[: min(map(len, texts))] for text in texts])
        lens_NxK = np.stack([told_NxH[n, places[n] * width :][:width] for n in of_block])
        values = [token_accuracies(states_NxD, lens_NxK, token_N) for token_N in tokens_NxW.T]
        found[name] = {key: float(np.mean([v[key] for v in values])) for key in values[0]}
    return found


def token_accuracies(
    states_NxD: np.ndarray, lens_NxK: np.ndarray, token_N: np.ndarray
) -> dict[str, float]:
    """How well one token of a block's text can be read from its triplet."""
    linear = load_extra("sklearn.linear_model", "baselines", "probes")
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    half = len(token_N) // 2
    kinds, counts = np.unique(token_N[:half], return_counts=True)
    frequency = float((token_N[half:] == kinds[counts.argmax()]).mean())
    probe = frequency
    if len(kinds) > 1:
        # On states of unit spread the solver converges, whatever the layer's scale.
        regression = make_pipeline(StandardScaler(), linear.LogisticRegression(max_iter=1000))
        regression.fit(states_NxD[:half], token_N[:half])
        probe = regression.score(states_NxD[half:], token_N[half:])
    lens, other = (
        float((lens_NxK == wanted_N[:, None]).any(axis=1).mean())
        for wanted_N in (token_N, np.roll(token_N, 1))
    )
    return {"probe": float(probe), "frequency": frequency, "lens": lens, "lens_other": other}


def draw(answers: dict[str, float], layers: list[dict[str, dict[str, float]]], path: Path) -> None:
    """Bars of right answers by intervention; beside them what probes read, layer by layer."""
    figure, (left, right) = load_pyplot().subplots(1, 2, figsize=(10, 3.6), layout="constrained")
    left.barh(list(answers)[::-1], [100 * value for value in list(answers.values())[::-1]])
    left.set(xlim=(0, 100), xlabel="right answers, %")
    for block in layers[0]:
        values = [100 * layer[block]["probe"] for layer in layers]
        [line] = right.plot(range(1, len(layers) + 1), values, marker="o", label=block)
        chance = 100 * layers[0][block]["frequency"]
        right.axhline(chance, color=line.get_color(), linestyle=":", linewidth=1)
    right.set(
        ylim=(0, 102), xticks=range(1, len(layers) + 1), xlabel="layer",
        ylabel="block's tokens read by a probe, %\n(dotted: most frequent token)",
    )  # fmt: skip
    right.legend()
    with atomic_write(path) as temporary:
        figure.savefig(temporary, format="png", dpi=110)
