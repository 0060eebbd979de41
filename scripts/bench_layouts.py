"""Rows and layouts for bench_train.py: the same batches of the same rows, laid out in three ways.

padded       every row padded to the longest length there may be, logits [B, S, V] at every
             position: the public recipe on our model
plain        bucketed lengths, logits only where a response token is supervised, a slice of the
             vocabulary at a time
prefix_tree  as plain, with the system prompt, which all rows share, computed once a step
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from bench_flops import Work, needed_work, padded_work, plain_work
from flax import nnx
from jax import Array

from gplan_jax.data import BatchPlan, ChatEncoder, Mode, TrainingSet
from gplan_jax.data.batch_plan import EMPTY_ROW
from gplan_jax.data.batches import Batch, PairRows, SampleRows
from gplan_jax.data.loaders import PreferenceLoader, SampleLoader
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.foundation import GplanError
from gplan_jax.foundation.faulty_rows import FaultyRows
from gplan_jax.gsisr import IntentLibrary, PromptTemplate, training_texts, write_samples
from gplan_jax.models import Qwen3, Qwen3Config
from gplan_jax.models.attention.causal import resolve_kernel
from gplan_jax.models.checkpoints.tiny import train_tokenizer
from gplan_jax.models.checkpoints.tokenizer_files import extend_tokenizer
from gplan_jax.objectives.section_loss import (
    IGNORED_LABEL,
    section_counts,
    section_loss_sums,
    section_weights,
    token_nll,
    token_weights,
)
from gplan_jax.reasoning import GSISR_LATENTS
from gplan_jax.synthesis.factory.labelled_files import explain_file
from gplan_jax.synthesis.world.simulation import simulate_rows
from gplan_jax.training.hosts.mesh import make_mesh, put_batch
from gplan_jax.training.steps.setup import Run, curriculum_of, with_prompt_length
from gplan_jax.training.steps.step import TrainState, TrainStep, make_optimizer
from gplan_jax.training.steps.train_config import DataConfig, PrecisionConfig, TrainConfig

LAYOUTS = ("padded", "plain", "prefix_tree")
TINY_TOKENIZER_SIZE = 1024


@dataclass(frozen=True)
class Layout:
    """One way to lay out a run's batches.

    Attributes:
        run: model, plan and data; its plan says how far rows are padded.
        step: (state, batch on devices) -> (state, metrics), not yet compiled.
        to_devices: a host batch -> what ``step`` takes.
        micro_rows: rows that the step takes at a time.
        constants: what ``step`` takes besides.
    """

    name: str
    run: Run
    step: TrainStep
    to_devices: Callable[[Batch], Any]
    micro_rows: int
    constants: tuple[Any, ...] = ()

    def load(self, number: int) -> Batch:
        """The host batch of optimizer step ``number``, token ids within the vocabulary."""
        return within_vocabulary(self.run.loader(number).batch, self.run.model.config)

    def work(self, batch: Batch) -> Work:
        """What a step on ``batch`` multiplies, padding included."""
        assert isinstance(batch.rows, SampleRows)
        rows, length = batch.rows.tokens_BxS.shape
        if self.name == "padded":
            return padded_work(rows, length, rows * length)
        prefix = len(batch.prefix.tokens_P) if batch.prefix else 0
        return padded_work(rows, length, batch.rows.targets_BxR.size, prefix)


def within_vocabulary(batch: Batch, shape: Qwen3Config) -> Batch:
    """A batch with its token ids taken modulo the size of the vocabulary."""
    size, rows, prefix = shape.vocab_size, batch.rows, batch.prefix
    if isinstance(rows, PairRows):
        tree = rows.tree and rows.tree.replace(
            shared_tokens_NxH=rows.tree.shared_tokens_NxH % size,
            context_tokens_Nx2xC=rows.tree.context_tokens_Nx2xC % size,
        )
        rows = rows.replace(
            tokens_Nx2x2xS=rows.tokens_Nx2x2xS % size,
            targets_Nx2x2xR=rows.targets_Nx2x2xR % size,
            tree=tree,
        )
    else:
        rows = rows.replace(tokens_BxS=rows.tokens_BxS % size, targets_BxR=rows.targets_BxR % size)
    return Batch(rows, prefix and prefix.replace(tokens_P=prefix.tokens_P % size))


@dataclass(frozen=True)
class UsefulWork:
    """What a batch needs whatever the layout: every row by itself, and the prefix shared."""

    plain: Work
    needed: Work
    tokens: int
    prefix: int


def useful_work(training_set: TrainingSet, rows: np.ndarray, stage: int) -> UsefulWork:
    """The work on the real tokens of some rows; what all of them begin with is their prefix."""
    samples = [training_set.tokenize(int(row), stage) for row in rows if row != EMPTY_ROW]
    prompts = [prompt_ids for prompt_ids, _ in samples]
    # The last prompt token predicts the first of the response: it is computed in every row.
    shortest = min(map(len, prompts)) - 1
    same = np.all([prompt[:shortest] == prompts[0][:shortest] for prompt in prompts], axis=0)
    prefix = shortest if same.all() else int(np.argmin(same))
    lengths = np.asarray([len(prompt_ids) + len(response.ids) for prompt_ids, response in samples])
    targets = sum(len(response.ids) for _, response in samples)
    return UsefulWork(
        plain_work(lengths, targets),
        needed_work(lengths, targets, prefix),
        int(lengths.sum()),
        prefix,
    )


def read_rows(
    folder: Path,
    *,
    rows: Path | None,
    tokenizer: Path | None,
    template: str,
    mode: Mode,
    max_length: int,
    simulated: int,
) -> TrainingSet:
    """Rows of a file, or simulated ones, with a given tokenizer, or a small one made for them.

    Responses with reasoning are written by the rule teacher. ``folder`` takes what is made.
    """
    source, encoder = find_sources(
        folder, rows=rows, tokenizer=tokenizer, template=template, simulated=simulated
    )
    library = IntentLibrary.load()
    if mode is not Mode.DIRECT_SFT:
        source, unexplained = folder / "explained.csv", source
        explain_file(unexplained, source, library, faulty=FaultyRows("skip"))
    return TrainingSet.read(
        source,
        encoder=encoder,
        task=GsisrTask(PromptTemplate.load(template), library, prompt_length=max_length),
        mode=mode,
        cache=folder / "tokens",
        faulty=FaultyRows("skip"),
    )


def find_sources(
    folder: Path, *, rows: Path | None, tokenizer: Path | None, template: str, simulated: int
) -> tuple[Path, ChatEncoder]:
    """The file of rows and the encoder; what is not given is made in ``folder``."""
    world = folder / "world.csv"
    if rows is None or tokenizer is None:
        write_samples(world, simulate_rows(simulated, seed=0))
    if tokenizer is None:
        made_for = simulate_rows(simulated, seed=0)
        texts = training_texts(made_for, PromptTemplate.load(template), IntentLibrary.load())
        train_tokenizer(texts, TINY_TOKENIZER_SIZE).save(str(folder / "tokenizer.json"))
    extension = extend_tokenizer(tokenizer or folder, GSISR_LATENTS.tokens)
    assert extension is not None  # only without a tokenizer and without new tokens
    return rows or world, ChatEncoder(extension.tokenizer.to_str())


def make_layouts(
    names: list[str],
    training_set: TrainingSet,
    shape: Qwen3Config,
    config: TrainConfig,
    *,
    weights: bool = True,
) -> list[Layout]:
    """The layouts of one run: the same model, optimizer and order of rows.

    Without ``weights`` the model has only shapes.
    """
    curriculum = curriculum_of(config, len(training_set))
    data = config.data
    lengths_NxGx2 = training_set.lengths(training_set.most_blocks + 1)
    training_set = with_prompt_length(config, training_set, lengths_NxGx2[..., 1].max(axis=1))
    lengths_NxGx2[..., 0] = lengths_NxGx2[..., 0].clip(max=training_set.task.prompt_length)
    plan = BatchPlan(
        lengths_NxGx2,
        curriculum,
        batch_size=config.batch_size,
        epochs=config.epochs,
        seed=config.seed,
        window_batches=data.window_batches,
        length_multiple=data.length_multiple,
        response_multiple=data.response_multiple,
    )
    run = make_run(shape, config, SampleLoader(training_set, plan), weights=weights)
    return [make_layout(name, run) for name in names]


def make_run(
    shape: Qwen3Config,
    config: TrainConfig,
    loader: SampleLoader | PreferenceLoader,
    *,
    weights: bool = True,
) -> Run:
    """A run from random weights, or from shapes alone without ``weights``.

    The learning rate is 0 in a way the compiler can't see: every step does all its work, and the
    weights stay, so losses of the layouts can be compared at every step.
    """
    mesh = make_mesh(config.mesh)
    kernel = resolve_kernel(
        config.precision.attention,
        platform=mesh.devices.flat[0].platform,
        dtype=config.precision.compute,
        head_dim=shape.head_dim,
    )

    def random_model() -> Qwen3:
        return Qwen3(
            shape,
            rngs=nnx.Rngs(config.seed),
            param_dtype=jnp.dtype(config.precision.params),
            compute_dtype=jnp.dtype(config.precision.compute),
            remat=config.precision.remat,
            kernel=kernel,
        )

    model = random_model() if weights else nnx.eval_shape(random_model)
    rate: optax.Schedule = lambda step: jnp.where(step < 0, 1.0, 0.0)  # noqa: E731
    return Run(
        config=config,
        directory=Path(),
        mesh=mesh,
        model=model,
        loader=loader,
        schedule=rate,
        optimizer=make_optimizer(config.optimizer, rate),
    )


def make_layout(name: str, run: Run) -> Layout:
    """A run in the layout of that name."""
    micro_rows = run.config.batch_size // run.config.accumulation_steps
    if name == "padded":
        run = with_plan(run, length_multiple=run.config.data.max_length)
        step = make_padded_step(
            nnx.graphdef(run.model),
            run.optimizer,
            by_section=Mode(run.config.mode) is Mode.PICD,
            micro_rows=micro_rows,
        )
        return Layout(name, run, step, to_padded, micro_rows)
    if name == "prefix_tree":
        run = with_plan(run, prefix_length=len(run.training_set.prefix_ids))
    return Layout(name, run, run.train_step(), to_devices(run), micro_rows)


def with_plan(run: Run, **changes: Any) -> Run:
    """The run with other batches."""
    return replace(run, loader=replace(run.loader, plan=replace(run.plan, **changes)))


def to_devices(run: Run) -> Callable[[Batch], Batch]:
    """Lays a batch out over the devices of a run."""
    return lambda batch: put_batch(batch, run.mesh)


def labelled(batch: Batch) -> dict[str, np.ndarray]:
    """A plain batch in the public recipe's form: tokens, lengths, labels and sections [B, S]."""
    rows = batch.rows
    assert isinstance(rows, SampleRows)
    labels = np.full(rows.tokens_BxS.shape, IGNORED_LABEL, np.int32)
    sections = np.zeros(rows.tokens_BxS.shape, np.int8)
    row, column = np.nonzero(rows.sections_BxR)
    # The state at a target's position predicts the token after it.
    position = rows.target_positions_BxR[row, column] + 1
    labels[row, position] = rows.targets_BxR[row, column]
    sections[row, position] = rows.sections_BxR[row, column]
    fields = {"tokens": rows.tokens_BxS, "lengths": rows.lengths_B}
    return fields | {"labels": labels, "sections": sections}


def to_padded(batch: Batch) -> dict[str, Array]:
    """What ``make_padded_step`` takes, on the device."""
    return {name: jnp.asarray(value) for name, value in labelled(batch).items()}


def make_padded_step(
    graphdef: nnx.GraphDef,
    optimizer: optax.GradientTransformation,
    *,
    by_section: bool,
    micro_rows: int,
) -> TrainStep:
    """The public recipe's step on our model: logits [b, S, V] of ``micro_rows`` rows at a time.

    The loss is the mean of the two sections' means (``by_section``) or that of all tokens.
    """

    def step(state: TrainState, batch: dict[str, Array]) -> tuple[TrainState, dict[str, Array]]:
        counts = section_counts(batch["sections"][:, 1:])
        if by_section:
            weights = section_weights(counts, reasoning_weight=1.0, plan_weight=1.0)
        else:
            weights = token_weights(counts)

        def weighted_loss(params: Any, rows: dict[str, Array]) -> Array:
            mask = jnp.arange(rows["tokens"].shape[1]) < rows["lengths"][:, None]
            logits = nnx.merge(graphdef, params)(rows["tokens"], mask)
            labels = jnp.maximum(rows["labels"][:, 1:], 0)
            nll = token_nll(logits[:, :-1], labels)
            return jnp.sum(section_loss_sums(nll, rows["sections"][:, 1:]) * weights)

        def add(carry: Any, rows: dict[str, Array]) -> tuple[Any, None]:
            return jax.tree.map(jnp.add, carry, gradient_of(state.params, rows)), None

        gradient_of = jax.value_and_grad(weighted_loss)
        split = jax.tree.map(lambda x: x.reshape(-1, micro_rows, *x.shape[1:]), dict(batch))
        zeros = jax.tree.map(lambda p: jnp.zeros(p.shape, jnp.float32), state.params)
        (loss, gradients), _ = jax.lax.scan(add, (jnp.zeros(()), zeros), split)
        updates, optimizer_state = optimizer.update(gradients, state.optimizer, state.params)
        params = optax.apply_updates(state.params, updates)
        metrics = {"loss": loss, "grad_norm": optax.global_norm(gradients)}
        return TrainState(params, optimizer_state, state.step + 1), metrics

    return jax.jit(step, donate_argnums=0)


def bench_config(
    *,
    mode: Mode,
    batch_size: int,
    micro_rows: int,
    epochs: int,
    data: dict[str, Any],
    precision: dict[str, Any],
) -> TrainConfig:
    """The config of a run that is never written down; paths in it are names only."""
    if batch_size % micro_rows:
        raise GplanError(f"{batch_size} rows don't divide into micro-batches of {micro_rows}.")
    return TrainConfig(
        mode=mode.value,
        model="random weights",
        output="nowhere",
        batch_size=batch_size,
        accumulation_steps=batch_size // micro_rows,
        epochs=epochs,
        data=DataConfig(train="rows of the benchmark", **data),
        precision=PrecisionConfig(**precision),
    )
