"""Rows, checkpoint and briefly trained models for bench_decode.py; what is there is kept."""

from __future__ import annotations

import dataclasses
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import numpy as np
from bench_flops import SHAPES
from safetensors.numpy import load_file, save_file
from tokenizers import Tokenizer

from gplan_jax.data import ChatEncoder
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.config import parse_config
from gplan_jax.foundation.files import atomic_directory, read_json, write_json
from gplan_jax.gsisr import (
    IntentLibrary,
    PromptTemplate,
    Sample,
    read_samples,
    training_texts,
    write_samples,
)
from gplan_jax.models import convert_checkpoint
from gplan_jax.models.checkpoints.convert import export_checkpoint
from gplan_jax.models.checkpoints.tiny import END_OF_TEXT, TURN_END, write_tiny_checkpoint
from gplan_jax.reasoning import GSISR_LATENTS
from gplan_jax.synthesis.world.simulation import simulate_rows
from gplan_jax.training.loop.loop import train
from gplan_jax.training.steps.train_config import TrainConfig

MODES = {"plan": "direct_sft", "latent": "picd"}
EMBEDDING = "model.embed_tokens.weight"
INITIAL_STD = 0.02
MAX_LENGTH = 2048
BETWEEN = ", "
SECONDS = "seconds.json"


@dataclasses.dataclass(frozen=True)
class Recipe:
    """What the models are made of and trained on.

    Attributes:
        shape: a name of bench_flops.SHAPES; ``vocabulary`` rows replace its own.
        tokenizer: a directory with tokenizer.json; None makes a small one.
        rows: training rows; simulated ones with ``seed``.
        epochs: of both models; more than the blocks of a trace, so that PICD ends fully latent. 0
            leaves the weights random: the grammar still makes plans of them, in as long passes.
    """

    shape: str
    vocabulary: int
    tokenizer: Path | None
    template: str
    rows: int
    epochs: int
    batch_size: int
    seed: int

    def to_dict(self) -> dict[str, object]:
        """Plain values for a JSON file."""
        return dataclasses.asdict(self) | {"tokenizer": str(self.tokenizer or "")}


def make_models(
    folder: Path, recipe: Recipe, forms: Sequence[str]
) -> tuple[dict[str, Path], float]:
    """Trains a model for each form of responses, or finds it as an earlier run has left it.

    A run that was stopped goes on.

    Returns:
        Form of the responses -> model directory, and the seconds that all training took so far.

    Raises:
        GplanError: ``folder`` holds models of another recipe.
    """
    folder.mkdir(parents=True, exist_ok=True)
    noted = folder / "recipe.json"
    if noted.is_file() and read_json(noted) != recipe.to_dict():
        raise GplanError(f"{folder} holds models of another recipe ({noted}); name another --out.")
    write_json(noted, recipe.to_dict())
    rows = folder / "train.csv"
    if not rows.is_file():
        write_samples(rows, simulate_rows(recipe.rows, recipe.seed))
    checkpoint = folder / "checkpoint"
    if not checkpoint.is_dir():
        hugging_face = folder / "checkpoint_hf"
        shutil.rmtree(hugging_face, ignore_errors=True)
        write_checkpoint(hugging_face, rows, recipe)
        convert_checkpoint(
            hugging_face,
            checkpoint,
            new_tokens=GSISR_LATENTS.tokens,
            metadata={"latents": GSISR_LATENTS.to_dict()},
        )
    models, seconds = {}, 0.0
    for form in forms:
        run = folder / MODES[form]
        if not recipe.epochs:
            models[form] = untrained(checkpoint, run / "model", recipe, form)
            continue
        config = train_config(recipe, MODES[form], checkpoint, rows, run)
        started = time.perf_counter()
        models[form] = train(config, resume=(run / "config.yaml").is_file())
        if not (run / SECONDS).is_file():
            write_json(run / SECONDS, time.perf_counter() - started)
        seconds += read_json(run / SECONDS)
    return models, seconds


def untrained(checkpoint: Path, model: Path, recipe: Recipe, form: str) -> Path:
    """The converted checkpoint as a model directory of the form, with links to its weights."""
    if not model.is_dir():
        with atomic_directory(model) as folder:
            shutil.copytree(checkpoint, folder, copy_function=os.link, dirs_exist_ok=True)
            template, library = PromptTemplate.load(recipe.template), IntentLibrary.load()
            task = GsisrTask(template, library, prompt_length=MAX_LENGTH - 350)
            dataclasses.replace(task, response=form).save(folder)
    return model


def exported(model: Path) -> Path:
    """The model as a Hugging Face checkpoint beside it."""
    folder = model.with_name("exported")
    if not folder.is_dir():
        export_checkpoint(model, folder)
    return folder


def write_checkpoint(folder: Path, rows: Path, recipe: Recipe) -> None:
    """A random checkpoint of the recipe's shape, in Hugging Face format.

    The small one that ``write_tiny_checkpoint`` makes gets as many embedding rows as the recipe
    says, and the recipe's tokenizer where it has one.
    """
    shape = SHAPES[recipe.shape]
    with tempfile.TemporaryDirectory() as name, atomic_directory(folder) as out:
        made = Path(name) / "made"
        texts = training_texts(
            read_samples(rows), PromptTemplate.load(recipe.template), IntentLibrary.load()
        )
        write_tiny_checkpoint(
            made,
            texts,
            hidden_size=shape.hidden_size,
            layers=shape.num_hidden_layers,
            heads=shape.num_attention_heads,
            kv_heads=shape.num_key_value_heads,
            head_dim=shape.head_dim,
            intermediate_size=shape.intermediate_size,
            seed=recipe.seed,
        )
        for file in ("tokenizer.json", "tokenizer_config.json"):
            shutil.copy((recipe.tokenizer or made) / file, out / file)
        tokenizer = Tokenizer.from_file(str(out / "tokenizer.json"))
        least = tokenizer.get_vocab_size() + len(GSISR_LATENTS.tokens)
        if recipe.vocabulary < least:
            raise GplanError(f"--vocab {recipe.vocabulary} is too small; {least} are needed.")
        end, padding = (tokenizer.token_to_id(token) for token in (TURN_END, END_OF_TEXT))
        ids = {"bos_token_id": padding, "eos_token_id": end, "pad_token_id": padding}
        config = read_json(made / "config.json") | ids | {"vocab_size": recipe.vocabulary}
        write_json(out / "config.json", config)
        write_json(out / "generation_config.json", ids | {"do_sample": False})
        tensors = load_file(made / "model.safetensors")
        generator = np.random.default_rng(recipe.seed)
        normal = generator.standard_normal((recipe.vocabulary, shape.hidden_size), np.float32)
        tensors[EMBEDDING] = normal * np.float32(INITIAL_STD)
        save_file(tensors, out / "model.safetensors", metadata={"format": "pt"})


def train_config(
    recipe: Recipe, mode: str, checkpoint: Path, rows: Path, output: Path
) -> TrainConfig:
    """The quickstart's rates: far above the paper's, for a small model with random weights."""
    polishes = mode == "picd" and recipe.epochs > 8  # CALR's second phase begins then
    values = {
        "mode": mode,
        "model": str(checkpoint),
        "output": str(output),
        "epochs": recipe.epochs,
        "batch_size": recipe.batch_size,
        "seed": recipe.seed,
        "data": {
            "train": str(rows),
            "template": recipe.template,
            "max_length": MAX_LENGTH,
            "response_multiple": 64,
        },
        "optimizer": {
            "schedule": "calr" if polishes else "cosine",
            "target_blocks": 7,
            "learning_rate": 2e-3,
            "polish_lr": 1.5e-3,
            "warmup_ratio": 0.05,
            "weight_decay": 0.05,
            "b2": 0.98,
        },
        "precision": {"params": "float32", "compute": "float32", "remat": "none"},
    }
    return parse_config(TrainConfig, values, source="bench_decode.py")


def long_contexts(
    samples: Sequence[Sample],
    encoder: ChatEncoder,
    template: PromptTemplate,
    library: IntentLibrary,
    *,
    count: int,
    tokens: int,
) -> Iterator[Sample]:
    """The first ``count`` samples, their recent behaviour filled up until prompts are that long.

    What is put in front is the behaviour of the other samples, which no plan hangs on.

    Raises:
        GplanError: all of it is not enough.
    """
    others = [s.short_term_behavior_seq for s in samples[count:] if s.short_term_behavior_seq]
    entries = [entry for text in others for entry in text.split(BETWEEN)]

    def length(sample: Sample) -> int:
        return len(encoder.prompt_ids(template.render(sample, library), max_length=10**6))

    def filled(sample: Sample, added: int) -> Sample:
        own = [sample.short_term_behavior_seq] if sample.short_term_behavior_seq else []
        history = BETWEEN.join([*entries[:added], *own])
        return dataclasses.replace(sample, short_term_behavior_seq=history)

    for sample in islice(samples, count):
        low, high = 0, len(entries)
        if (most := length(filled(sample, high))) < tokens:
            raise GplanError(
                f"Histories of these rows make prompts of at most {most} tokens, not {tokens}; "
                "lower --prompt-tokens, or choose a template that shows recent behaviour."
            )
        while low < high:  # the fewest entries that reach the length
            middle = (low + high) // 2
            if length(filled(sample, middle)) < tokens:
                low = middle + 1
            else:
                high = middle
        yield filled(sample, low)
