"""The batch of a run with shapes in place of values: how long rows are, and how they are padded."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from gplan_jax.data.batch_plan import round_up
from gplan_jax.data.batches import (
    CONTEXTS,
    RESPONSES,
    Batch,
    PairRows,
    PairTree,
    SampleRows,
    SharedPrefix,
)
from gplan_jax.data.tasks.task import Mode
from gplan_jax.foundation import GplanError
from gplan_jax.models.layers.sharding import partition_spec
from gplan_jax.training.steps.train_config import TrainConfig

# Tokens that a part of a public row has at most, docs/memory.md.
SPELT_RESPONSE, LATENT_RESPONSE, CONTEXT = 311, 142, 165


@dataclass(frozen=True)
class RowLengths:
    """Tokens of the longest row that a batch is to hold."""

    sequence: int  # prompt and response together
    prefix: int  # the system prompt, which all rows share
    response: int  # the supervised part
    context: int = 0  # of a pair (SC-DPO): from where its two prompts part to the prompt's end

    def __post_init__(self) -> None:
        parts = [("prefix", self.prefix), ("response", self.response)]
        if self.context:
            parts.append(("context", self.context))
        options = ", ".join(f"--{name}-length" for name, _ in [("sequence", 0), *parts])
        given = ", ".join(f"{name} {size}" for name, size in parts)
        if any(size < 0 for _, size in parts):
            raise GplanError(f"{given}: no length is negative; see {options}.")
        if not 0 < sum(size for _, size in parts) < self.sequence:
            raise GplanError(
                f"{given} leave nothing of a sequence of {self.sequence} tokens; give lengths that "
                f"fit together with {options}."
            )

    @classmethod
    def of(
        cls,
        config: TrainConfig,
        *,
        sequence: int | None = None,
        prefix: int = 761,
        context: int | None = None,
        response: int | None = None,
    ) -> RowLengths:
        """Lengths of a config's rows; what is not given is what public rows have at most.

        Those are counted with Qwen3's tokenizer and the template amap_zh, in SC-DPO over 3,641
        pairs made of the public rows. There a response is short, its reasoning all latent.
        """
        pairs = of_pairs(config)
        if response is None:
            response = LATENT_RESPONSE if pairs else SPELT_RESPONSE
        if context is not None and not pairs:
            raise GplanError(
                f"--context-length is for pairs, and mode {config.mode} has none; leave it out."
            )
        if context is not None and context < 1:
            raise GplanError(
                f"--context-length {context}: two prompts that want different plans differ in a "
                "token at least."
            )
        return cls(
            sequence=config.data.max_length if sequence is None else sequence,
            prefix=prefix,
            response=response,
            context=context or (CONTEXT if pairs else 0),
        )


@dataclass(frozen=True)
class BatchShape:
    """Padded sizes of a batch, as ``BatchLoader`` or ``PreferenceLoader`` makes it."""

    rows: int  # of an optimizer step
    tokens: int  # S, of a sequence without what it shares with others
    responses: int  # R, supervised positions of a sequence
    prefix: int  # P, 0 in the plain layout
    sequences: int = 1  # of a row; more than 1 in a pair alone
    # 0 in the plain layout and where rows are no pairs: H, what both prompts of a pair have in
    # common below the prefix; C, what follows in each of them, but for its last token.
    shared: int = 0
    context: int = 0


def of_pairs(config: TrainConfig) -> bool:
    """Whether a row of a batch is a pair of contexts, with four sequences."""
    return Mode(config.mode) is Mode.SCDPO


@dataclass(frozen=True)
class Segment:
    """Token sequences of a step that are alike."""

    count: int
    tokens: int
    after: int  # tokens of other segments before them, all of which they see


def segments(config: TrainConfig, lengths: RowLengths) -> tuple[Segment, ...]:
    """Every token that a step computes, without padding, the sequences' own part last."""
    rows, whole, prefix = config.batch_size, lengths.sequence, lengths.prefix
    tree = config.data.layout == "prefix_tree"
    if not of_pairs(config):
        shared = prefix if tree else 0
        return Segment(1, shared, 0), Segment(rows, whole - shared, shared)
    leaves = rows * CONTEXTS * RESPONSES
    if not tree:
        return (Segment(leaves, whole - 1, 0),)
    # A response's last token is a target only, a prompt's last is its responses' first input.
    before = whole - 1 - lengths.response
    parting = before - (lengths.context - 1)
    return (
        Segment(1, prefix, 0),
        Segment(rows, parting - prefix, prefix),
        Segment(rows * CONTEXTS, before - parting, parting),
        Segment(leaves, lengths.response, before),
    )


def batch_shape(config: TrainConfig, lengths: RowLengths) -> BatchShape:
    """Sizes of the batch that holds rows of ``lengths``, padded as the config says."""
    data = config.data
    tree = data.layout == "prefix_tree"
    shared = lengths.prefix if tree else 0
    if of_pairs(config):
        common = lengths.sequence - lengths.prefix - lengths.context - lengths.response
        responses = round_up(lengths.response, data.response_multiple)
        return BatchShape(
            rows=config.batch_size,
            tokens=responses if tree else round_up(lengths.sequence - 1, data.length_multiple),
            responses=responses,
            prefix=round_up(shared, data.length_multiple),
            sequences=CONTEXTS * RESPONSES,
            shared=round_up(common, data.length_multiple) if tree else 0,
            context=round_up(lengths.context - 1, data.response_multiple) if tree else 0,
        )
    return BatchShape(
        rows=config.batch_size,
        tokens=round_up(lengths.sequence - shared, data.length_multiple),
        responses=round_up(lengths.response, data.response_multiple),
        prefix=round_up(shared, data.length_multiple),
    )


def levels_of_row(batch: BatchShape) -> tuple[tuple[int, int], ...]:
    """Segments of one row below the shared prefix, from the root on: how many, and their width."""
    leaves = (batch.sequences, batch.tokens)
    if not batch.shared:
        return (leaves,)
    return (1, batch.shared), (CONTEXTS, batch.context), leaves


def abstract_batch(shape: BatchShape, mesh: Mesh) -> Batch:
    """A batch of shapes, laid out over ``mesh`` as ``mesh.put_batch`` does."""
    by_rows = NamedSharding(mesh, partition_spec("batch"))
    everywhere = NamedSharding(mesh, PartitionSpec())

    def array(*size: int, dtype: Any = jnp.int32, sharding: NamedSharding = by_rows) -> Any:
        return jax.ShapeDtypeStruct(size, dtype, sharding=sharding)

    prefix = None
    if shape.prefix:
        prefix = SharedPrefix(
            tokens_P=array(shape.prefix, sharding=everywhere), length=array(sharding=everywhere)
        )
    if shape.sequences == 1:
        responses = (shape.rows, shape.responses)
        samples = SampleRows(
            tokens_BxS=array(shape.rows, shape.tokens),
            lengths_B=array(shape.rows),
            targets_BxR=array(*responses),
            target_positions_BxR=array(*responses),
            sections_BxR=array(*responses, dtype=jnp.int8),
        )
        return Batch(samples, prefix)
    contexts = (shape.rows, CONTEXTS)
    sequences = (*contexts, RESPONSES)
    tree = PairTree(
        shared_tokens_NxH=array(shape.rows, shape.shared),
        shared_lengths_N=array(shape.rows),
        context_tokens_Nx2xC=array(*contexts, shape.context),
        context_lengths_Nx2=array(*contexts),
    )
    pairs = PairRows(
        tokens_Nx2x2xS=array(*sequences, shape.tokens),
        lengths_Nx2x2=array(*sequences),
        targets_Nx2x2xR=array(*sequences, shape.responses),
        target_positions_Nx2x2xR=array(*sequences, shape.responses),
        supervised_Nx2x2xR=array(*sequences, shape.responses, dtype=jnp.int8),
        reference_Nx2x2=array(*sequences, dtype=jnp.float32),
        tree=tree if shape.shared else None,
    )
    return Batch(pairs, prefix)
