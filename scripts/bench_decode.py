"""Ways to decode one plan, side by side in one run; prints one JSON line of figures.

    python scripts/bench_decode.py --out runs/bench_decode           # any machine, small tokenizer
    python scripts/bench_decode.py --out runs/bench_decode --tokenizer QWEN3_DIRECTORY \\
        --torch-python VENV/bin/python

plain        the engine, over the whole vocabulary, one token a pass
constrained  the engine, along the plan grammar, one token a pass
drafted      the engine with forced runs and drafts: the same tokens
transformers ``generate`` on the exported checkpoint, where --torch-python names a Python for it

Each answers the same prompts one at a time, for a Direct-SFT model (form "plan") and a PICD one
(form "latent"), in turns, so a machine whose speed drifts treats them alike. The script trains both
models itself (hidden 256, 4 layers, vocabulary 151,936), which takes two idle cores about ten
minutes each with Qwen3's tokenizer, and keeps them in --out for the next run.
Times are wall times from a context to its answer, the prompt's rendering and encoding included; in
transformers they begin with the token ids. ``--plans`` contexts that training has not seen have
their histories filled up to ``--prompt-tokens``. docs/lab/decoding.md says what each figure means.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import jax
from bench_decode_models import MODES, Recipe, exported, long_contexts, make_models
from bench_flops import SHAPES
from bench_process import JsonProcess

from gplan_jax.data import ChatEncoder
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.files import write_json
from gplan_jax.foundation.progress import ProgressBar
from gplan_jax.foundation.streams import cores
from gplan_jax.gsisr import IntentLibrary, PromptTemplate, Sample, check_plan, read_samples
from gplan_jax.inference.engine.engine import PlanEngine
from gplan_jax.inference.engine.requests import DecodingMode, EngineConfig, PlanRequest
from gplan_jax.synthesis.world.simulation import simulate_rows

PLAIN, CONSTRAINED, DRAFTED, TORCH = "plain", "constrained", "drafted", "transformers"
TEST_SEED = 1_000  # a world of its own
SPARE_ROWS = 200  # whose histories fill up others


@dataclass(frozen=True)
class Answer:
    """A response: its time, text, tokens without the end token, and passes over the weights."""

    seconds: float
    text: str
    tokens: int
    passes: int


Way = Callable[[Sample], Answer]


def main() -> None:
    """Parses the command line, measures, prints."""
    try:
        print(json.dumps(run(parse()), ensure_ascii=False))
    except GplanError as error:
        raise SystemExit(f"error: {error}") from None


def parse() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--out", type=Path, required=True, help="directory of the models; a second run takes them")
    add("--shape", choices=SHAPES, default="small")
    add("--vocab", type=int, default=151_936, help="rows of the embedding")
    add("--tokenizer", type=Path, help="directory of tokenizer.json, e.g. Qwen3's; else a small "
        "one made for the rows")  # fmt: skip
    add("--forms", default=",".join(MODES), help="of the responses: %(default)s")
    add("--template", default="amap_zh")
    add("--train-rows", type=int, default=32, help="simulated rows to train on")
    add("--epochs", type=int, default=30, help="of training; 0 leaves the weights random")
    add("--compute", choices=("float32", "bfloat16"), default="float32")
    add("--batch-size", type=int, default=4)
    add("--rows", type=Path, help="contexts to plan for; else simulated ones with long histories")
    add("--plans", type=int, default=8, help="contexts to plan for")
    add("--prompt-tokens", type=int, default=1659, help="of a simulated context")
    add("--rounds", type=int, default=1, help="how often each context is planned for in each way")
    add("--draft-tokens", type=int, default=64, help="nodes of a drafted pass")
    add("--max-new-tokens", type=int, default=160, help="of the ways without a grammar")
    add("--torch-python", help="a Python with torch and transformers")
    options = parser.parse_args()
    options.forms = options.forms.split(",")
    if unknown := set(options.forms) - set(MODES):
        parser.error(f"--forms knows {', '.join(MODES)}, not {', '.join(sorted(unknown))}")
    return options


def run(options: argparse.Namespace) -> dict[str, Any]:
    """Trains or finds the models and measures; the figures by name."""
    recipe = Recipe(
        shape=options.shape,
        vocabulary=options.vocab,
        tokenizer=options.tokenizer,
        template=options.template,
        rows=options.train_rows,
        epochs=options.epochs,
        batch_size=options.batch_size,
        seed=0,
    )
    # The next run needn't compile again; nothing is timed before it has been called once.
    jax.config.update("jax_compilation_cache_dir", str(options.out.resolve() / "compiled"))
    models, seconds = make_models(options.out, recipe, options.forms)
    some = models[options.forms[0]]
    encoder, task = ChatEncoder.load(some), GsisrTask.load(some)
    samples = contexts(options, encoder, task.template, task.library)
    with ExitStack() as stack:
        ways = {
            (form, name): stack.enter_context(way)
            for form in options.forms
            for name, way in ways_of(models[form], samples, options).items()
        }
        answers = take_turns(ways, samples, options.rounds)
    prompts = [task.prompt_ids(sample, encoder).tolist() for sample in samples]
    figures = {form: figures_of(form, answers, task.library) for form in options.forms}
    report = {
        "benchmark": "decode_one_plan",
        "shape": options.shape,
        "vocabulary": options.vocab,
        "tokenizer": options.tokenizer.name if options.tokenizer else "made for the rows",
        "template": options.template,
        "plans": len(samples),
        "rounds": options.rounds,
        "prompt_tokens": statistics.mean(map(len, prompts)),
        "draft_tokens": options.draft_tokens,
        "compute": options.compute,
        "training": {"rows": recipe.rows, "epochs": recipe.epochs, "seconds": round(seconds, 1)},
        "forms": figures,
        "machine": {
            "device": jax.devices()[0].device_kind,
            "cores": cores(),
            "system": f"{platform.system()} {platform.machine()}",
            "python": platform.python_version(),
            "jax": version("jax"),
        },
    }
    if len(options.forms) > 1:
        report["latent_over_plan"] = {
            name: ratio(answers["latent", name], answers["plan", name])
            for name in figures["plan"]["ways"]
        }
    return report


def contexts(
    options: argparse.Namespace,
    encoder: ChatEncoder,
    template: PromptTemplate,
    library: IntentLibrary,
) -> list[Sample]:
    """What is to be planned for: rows of a file as they are, or simulated ones made long."""
    if options.rows:
        return list(read_samples(options.rows))[: options.plans]
    rows = list(simulate_rows(options.plans + SPARE_ROWS, TEST_SEED))
    return list(
        long_contexts(
            rows, encoder, template, library, count=options.plans, tokens=options.prompt_tokens
        )
    )


def ways_of(model: Path, samples: Sequence[Sample], options: argparse.Namespace) -> dict[str, Any]:
    """Name -> a context that holds a way for as long as it is open."""
    ways = {
        PLAIN: engine(model, "unconstrained", options),
        CONSTRAINED: engine(model, "constrained", options),
        DRAFTED: engine(model, "drafted", options),
    }
    if options.torch_python:
        ways[TORCH] = transformers(model, samples, options.torch_python, options.max_new_tokens)
    return ways


@contextmanager
def engine(model_dir: Path, mode: DecodingMode, options: argparse.Namespace) -> Iterator[Way]:
    """The engine with one slot and no cache of users' histories."""
    config = EngineConfig(
        mode=mode,
        slots=1,
        max_new_tokens=options.max_new_tokens,
        draft_tokens=options.draft_tokens,
        prefix_cache_mib=0,
        compute_dtype=options.compute,
    )
    running = PlanEngine.load(model_dir, config)

    def answer(sample: Sample) -> Answer:
        started = time.perf_counter()
        found = running.submit(PlanRequest(sample)).result()
        seconds = time.perf_counter() - started
        return Answer(seconds, found.text, found.tokens, found.passes)

    try:
        yield answer
    finally:
        running.close()


@contextmanager
def transformers(
    model_dir: Path, samples: Sequence[Sample], python: str, max_new_tokens: int
) -> Iterator[Way]:
    """transformers' ``generate``, greedy, in a process of its own."""
    encoder, task = ChatEncoder.load(model_dir), GsisrTask.load(model_dir)
    prompts = [task.prompt_ids(sample, encoder).tolist() for sample in samples]
    checkpoint = exported(model_dir)
    prompts_file = checkpoint.with_name("prompts.json")
    write_json(prompts_file, prompts)
    process = JsonProcess(
        python, "torch_generate.py", checkpoint, prompts_file, str(max_new_tokens)
    )

    def answer(sample: Sample) -> Answer:
        found = process.ask(samples.index(sample))
        ids = found["tokens"]
        passes = min(len(ids) + 1, max_new_tokens)
        return Answer(found["seconds"], encoder.decode(ids), len(ids), passes)

    try:
        yield answer
    finally:
        process.close()


def take_turns(
    ways: Mapping[tuple[str, str], Way], samples: Sequence[Sample], rounds: int
) -> dict[tuple[str, str], list[Answer]]:
    """Every way's answers, round by round; one answer before that is not counted."""
    for way in ways.values():
        way(samples[0])
    answers: dict[tuple[str, str], list[Answer]] = {name: [] for name in ways}
    with ProgressBar("planning", rounds * len(samples)) as bar:
        for sample in list(samples) * rounds:
            for name, way in ways.items():
                answers[name].append(way(sample))
            bar.advance()
    return answers


def figures_of(
    form: str, answers: Mapping[tuple[str, str], Sequence[Answer]], library: IntentLibrary
) -> dict[str, Any]:
    """The figures of all ways in one form."""
    of = {name: found for (kind, name), found in answers.items() if kind == form}
    texts = {name: [answer.text for answer in found] for name, found in of.items()}
    figures = {
        "ways": {
            name: {
                "ms_per_plan": round(1000 * statistics.median(a.seconds for a in found), 2),
                "tokens": statistics.mean(a.tokens for a in found),
                "passes": statistics.mean(a.passes for a in found),
                "admissible": sum(not check_plan(a.text, library) for a in found) / len(found),
            }
            for name, found in of.items()
        },
        "times_faster": {
            f"{DRAFTED} than {name}": ratio(found, of[DRAFTED])
            for name, found in of.items()
            if name != DRAFTED
        },
        # A grammar admits one way to cut a text into tokens, so equal texts are equal tokens.
        "drafted_equals_constrained": texts[DRAFTED] == texts[CONSTRAINED],
        "plain_equals_constrained": same_share(texts[PLAIN], texts[CONSTRAINED]),
    }
    if TORCH in of:
        figures["transformers_equals_plain"] = same_share(texts[TORCH], texts[PLAIN])
    return figures


def same_share(some: Sequence[str], others: Sequence[str]) -> float:
    """The share of pairs that are equal."""
    return statistics.mean(one == other for one, other in zip(some, others, strict=True))


def ratio(slow: Sequence[Answer], fast: Sequence[Answer]) -> float:
    """Median over the plans of how many times as long the first takes."""
    pairs = zip(slow, fast, strict=True)
    return round(statistics.median(one.seconds / other.seconds for one, other in pairs), 3)


if __name__ == "__main__":
    main()
