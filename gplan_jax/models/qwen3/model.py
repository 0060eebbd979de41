"""Qwen3 dense in Flax NNX: one block's parameters stacked over layers and scanned.

Letters: B batch, S sequence, T new tokens, D model, N query heads, K key/value heads, H head size,
F feed-forward, L layers, V vocabulary.

Parameters are stored in ``param_dtype`` and multiplied in ``compute_dtype``; norms, rotary
embedding, softmax and logits are float32. A tied model has one ``embedding`` and no ``head``.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any, Literal

import chex
import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name
from jax.typing import DTypeLike

from gplan_jax.models.attention.causal import Kernel, causal_attention
from gplan_jax.models.attention.merge import ATTENTION_RESIDUALS, Context
from gplan_jax.models.layers.norms import rms_norm, rotate, rotation
from gplan_jax.models.layers.projection import LowRank, project
from gplan_jax.models.layers.sharding import LOGICAL_AXES, constrain
from gplan_jax.models.layers.vocabulary import TrainedRows, embed_tokens
from gplan_jax.models.qwen3.config import Qwen3Config

Remat = Literal["none", "full", "dots", "offload"]
CosSin = tuple[jax.Array, jax.Array]
# Lets queries meet keys: (query, key, value) -> (mixed values, whatever the caller wants kept).
Mix = Callable[[jax.Array, jax.Array, jax.Array], tuple[jax.Array, Any]]

_LAYER_INPUT = "layer_input"
_UNROLLED_LAYERS = 4


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class LayeredContext:
    """Keys and values that continuing sequences see in full, [L, B, C, K, H]; B is 1 where shared.

    It is read-only and differentiable: what a shared prefix gives to the sequences that go on.

    A multiple of B sequences may go on from it, those of one row side by side: see ``Context``.
    ``lengths`` [B] counts the slots in use; slots beyond are padding. Keys and values may have more
    rows than ``lengths``: those are not looked at.
    """

    key: jax.Array
    value: jax.Array
    lengths: jax.Array


class Attention(nnx.Module):
    """Grouped-query self-attention with RMS-normalised queries and keys."""

    def __init__(self, config: Qwen3Config, *, rngs: nnx.Rngs, param_dtype: DTypeLike) -> None:
        d, h = config.hidden_size, config.head_dim
        n, k = config.num_attention_heads, config.num_key_value_heads
        make = _Parameters(config, rngs, param_dtype)
        self.query = make.matrix((d, n, h), ("embed", "heads", "head_dim"))
        self.key = make.matrix((d, k, h), ("embed", "kv_heads", "head_dim"))
        self.value = make.matrix((d, k, h), ("embed", "kv_heads", "head_dim"))
        self.output = make.matrix((n, h, d), ("heads", "head_dim", "embed"))
        self.query_norm = make.scale(h, "head_dim")
        self.key_norm = make.scale(h, "head_dim")
        self.eps = config.rms_norm_eps
        self.query_lora: LowRank | None = nnx.data(None)
        self.key_lora: LowRank | None = nnx.data(None)
        self.value_lora: LowRank | None = nnx.data(None)
        self.output_lora: LowRank | None = nnx.data(None)

    @jax.named_scope("attention")
    def __call__(self, x_BxTxD: jax.Array, cos_sin: CosSin, mix: Mix) -> tuple[jax.Array, Any]:
        q_BxTxNxH = project("TD,DNH->TNH", x_BxTxD, self.query, self.query_lora)
        k_BxTxKxH = project("TD,DKH->TKH", x_BxTxD, self.key, self.key_lora)
        v_BxTxKxH = project("TD,DKH->TKH", x_BxTxD, self.value, self.value_lora)
        q_BxTxNxH = rotate(rms_norm(q_BxTxNxH, self.query_norm[...], self.eps), cos_sin)
        k_BxTxKxH = rotate(rms_norm(k_BxTxKxH, self.key_norm[...], self.eps), cos_sin)
        mixed_BxTxNxH, kept = mix(q_BxTxNxH, k_BxTxKxH, v_BxTxKxH)
        mixed_BxTxNxH = mixed_BxTxNxH.astype(x_BxTxD.dtype)
        return project("TNH,NHD->TD", mixed_BxTxNxH, self.output, self.output_lora), kept


class Mlp(nnx.Module):
    """Gated feed-forward: down(silu(gate(x)) * up(x))."""

    def __init__(self, config: Qwen3Config, *, rngs: nnx.Rngs, param_dtype: DTypeLike) -> None:
        d, f = config.hidden_size, config.intermediate_size
        make = _Parameters(config, rngs, param_dtype)
        self.gate = make.matrix((d, f), ("embed", "mlp"))
        self.up = make.matrix((d, f), ("embed", "mlp"))
        self.down = make.matrix((f, d), ("mlp", "embed"))
        self.gate_lora: LowRank | None = nnx.data(None)
        self.up_lora: LowRank | None = nnx.data(None)
        self.down_lora: LowRank | None = nnx.data(None)

    @jax.named_scope("mlp")
    def __call__(self, x_BxTxD: jax.Array) -> jax.Array:
        gate_BxTxF = jax.nn.silu(project("TD,DF->TF", x_BxTxD, self.gate, self.gate_lora))
        up_BxTxF = project("TD,DF->TF", x_BxTxD, self.up, self.up_lora)
        return project("TF,FD->TD", gate_BxTxF * up_BxTxF, self.down, self.down_lora)


class Block(nnx.Module):
    """One pre-norm transformer layer."""

    def __init__(self, config: Qwen3Config, *, rngs: nnx.Rngs, param_dtype: DTypeLike) -> None:
        make = _Parameters(config, rngs, param_dtype)
        self.attention_norm = make.scale(config.hidden_size, "embed")
        self.attention = Attention(config, rngs=rngs, param_dtype=param_dtype)
        self.mlp_norm = make.scale(config.hidden_size, "embed")
        self.mlp = Mlp(config, rngs=rngs, param_dtype=param_dtype)
        self.eps = config.rms_norm_eps

    def __call__(self, x_BxTxD: jax.Array, cos_sin: CosSin, mix: Mix) -> tuple[jax.Array, Any]:
        normed_BxTxD = rms_norm(x_BxTxD, self.attention_norm[...], self.eps)
        mixed_BxTxD, kept = self.attention(normed_BxTxD, cos_sin, mix)
        x_BxTxD = x_BxTxD + mixed_BxTxD
        return x_BxTxD + self.mlp(rms_norm(x_BxTxD, self.mlp_norm[...], self.eps)), kept


class Qwen3(nnx.Module):
    """The language model; ``layers`` is one ``Block`` whose parameters are stacked to [L, ...].

    ``compute_dtype``, that of matrix products, is ``param_dtype`` where None. ``remat`` is what the
    backward pass computes again: "none" keeps all, "full" keeps only each layer's input, "dots"
    keeps the products with weights, "offload" keeps each layer's input in host memory. ``kernel``
    computes attention; see ``attention.causal.resolve_kernel``.
    """

    def __init__(
        self,
        config: Qwen3Config,
        *,
        rngs: nnx.Rngs,
        param_dtype: DTypeLike = jnp.float32,
        compute_dtype: DTypeLike | None = None,
        remat: Remat = "none",
        kernel: Kernel = "xla",
    ) -> None:
        self.config = config
        self.compute_dtype = jnp.dtype(param_dtype if compute_dtype is None else compute_dtype)
        self.remat = remat
        self.kernel = kernel
        make = _Parameters(config, rngs, param_dtype)
        vocabulary = (config.vocab_size, config.hidden_size)
        self.embedding = make.matrix(vocabulary, ("vocab", None))
        tied = config.tie_word_embeddings
        self.head = None if tied else make.matrix(vocabulary, ("vocab", None))
        self.final_norm = make.scale(config.hidden_size, "embed")
        self.trained_rows: TrainedRows | None = nnx.data(None)  # see ``lora``

        @nnx.split_rngs(splits=config.num_hidden_layers)
        @nnx.vmap(transform_metadata={nnx.PARTITION_NAME: "layers"})
        def stack(rngs: nnx.Rngs) -> Block:
            return Block(config, rngs=rngs, param_dtype=param_dtype)

        self.layers = stack(rngs)

    def __call__(
        self, input_ids_BxS: jax.Array, attention_mask_BxS: jax.Array | None = None
    ) -> jax.Array:
        """Returns float32 logits [B, S, V]; the mask is 1 at tokens and 0 at padding (right)."""
        return self.logits(self.hidden(input_ids_BxS, attention_mask_BxS))

    def hidden(
        self,
        input_ids_BxS: jax.Array,
        attention_mask_BxS: jax.Array | None = None,
        positions_BxS: jax.Array | None = None,
    ) -> jax.Array:
        """Returns the states after the final norm, [B, S, D] in the compute dtype.

        Positions count from 0 along S where none are given; attention is causal along S.
        """
        rows, length = input_ids_BxS.shape
        if attention_mask_BxS is None:
            lengths_B = jnp.full(rows, length, jnp.int32)
        else:
            chex.assert_equal_shape([input_ids_BxS, attention_mask_BxS])
            lengths_B = jnp.sum(attention_mask_BxS.astype(jnp.int32), axis=1)
        return self.branch(input_ids_BxS, lengths_B, positions_BxS=positions_BxS)[0]

    def branch(
        self,
        input_ids_BxS: jax.Array,
        lengths_B: jax.Array,
        ancestors: Sequence[LayeredContext] = (),
        *,
        positions_BxS: jax.Array | None = None,
        mask_BxSxS: jax.Array | None = None,
        keep: bool = False,
    ) -> tuple[jax.Array, LayeredContext | None]:
        """Runs right-padded sequences [B, S] that continue the sequences of ``ancestors``.

        ``ancestors``, from the root on, are seen whole; one of n rows, where n divides B, is shared
        by groups of B / n branches side by side. Rotary positions go on from them where not given.
        ``mask_BxSxS`` says which tokens of its own row a token sees where the branches are trees;
        ``keep`` returns the branches as a context too, to be continued in turn.
        """
        if positions_BxS is None:
            rows = len(input_ids_BxS)
            start_B = sum(
                # Those that go on from one ancestor stand side by side.
                (jnp.repeat(a.lengths, rows // len(a.lengths)) for a in ancestors),
                jnp.zeros(rows, jnp.int32),
            )
            positions_BxS = start_B[:, None] + jnp.arange(input_ids_BxS.shape[1])

        def mix_of(kv: Any) -> Mix:
            contexts = []
            for (key, value), ancestor in zip(kv, ancestors, strict=True):
                rows = len(ancestor.lengths)
                contexts.append(Context(key[:rows], value[:rows], ancestor.lengths))

            def mix(query: jax.Array, key: jax.Array, value: jax.Array) -> tuple[jax.Array, Any]:
                mixed = causal_attention(
                    query,
                    key,
                    value,
                    lengths_B,
                    contexts,
                    kernel=self.kernel,
                    own_mask_BxTxT=mask_BxSxS,
                )
                return mixed, (key, value) if keep else None

            return mix

        kv_by_layer = tuple((ancestor.key, ancestor.value) for ancestor in ancestors)

        def one_layer(hidden: jax.Array, xs: tuple[Any, Any]) -> tuple[jax.Array, Any]:
            parameters, kv = xs
            hidden = checkpoint_name(_split_rows(hidden), _LAYER_INPUT)
            hidden, kept = nnx.merge(block, parameters)(hidden, cos_sin, mix_of(kv))
            return _split_rows(hidden), kept

        embedded_BxSxD = embed_tokens(self.embedding[...], input_ids_BxS, self.compute_dtype)
        if self.trained_rows is not None:
            embedded_BxSxD = self.trained_rows.embed(input_ids_BxS, embedded_BxSxD)
        block, stacked = nnx.split(self.layers)
        cos_sin = rotation(positions_BxS, self.config.head_dim, self.config.rope_theta)
        hidden, kept = jax.lax.scan(
            _rematerialised(one_layer, self.remat),
            _split_rows(embedded_BxSxD),
            (stacked, kv_by_layer),
            # XLA fuses nothing over the ends of a loop's body; few layers compile as fast without.
            unroll=self.remat == "none" and self.config.num_hidden_layers <= _UNROLLED_LAYERS,
        )
        hidden = rms_norm(hidden, self.final_norm[...], self.config.rms_norm_eps)
        return hidden, LayeredContext(kept[0], kept[1], lengths_B) if keep else None

    def head_VxD(self) -> jax.Array:
        """Returns the output matrix [V, D]: the embedding itself where they are tied."""
        head = self.embedding[...] if self.head is None else self.head[...]
        return head if self.trained_rows is None else self.trained_rows.put_into(head, "head")

    @jax.named_scope("head")
    def logits(self, hidden: jax.Array) -> jax.Array:
        """Returns float32 logits [..., V] of states [..., D]."""
        head = self.head_VxD().astype(hidden.dtype)
        return jnp.einsum("...D,VD->...V", hidden, head, preferred_element_type=jnp.float32)


def abstract_qwen3(
    config: Qwen3Config,
    param_dtype: DTypeLike,
    compute_dtype: DTypeLike | None = None,
    remat: Remat = "none",
) -> Qwen3:
    """A model of shapes without values: nothing random is computed, nothing is allocated."""
    # Where a mesh is set, NNX looks the names of the axes up at once.
    with nnx.logical_axis_rules(LOGICAL_AXES):
        return nnx.eval_shape(
            lambda: Qwen3(
                config,
                rngs=nnx.Rngs(0),
                param_dtype=param_dtype,
                compute_dtype=compute_dtype,
                remat=remat,
            )
        )


@dataclasses.dataclass(frozen=True)
class _Parameters:
    """Makes parameters that know the logical names of their axes (``layers.sharding``)."""

    config: Qwen3Config
    rngs: nnx.Rngs
    dtype: DTypeLike

    def matrix(self, shape: tuple[int, ...], axes: tuple[str | None, ...]) -> nnx.Param:
        initializer = nnx.initializers.normal(self.config.initializer_range)
        return _named(initializer(self.rngs.params(), shape, self.dtype), axes)

    def scale(self, size: int, axis: str) -> nnx.Param:
        return _named(jnp.ones((size,), self.dtype), (axis,))


def _named(value: jax.Array, axes: tuple[str | None, ...]) -> nnx.Param:
    # The names are for the whole program to be laid out by later; nothing is moved here.
    return nnx.Param(value, out_sharding=axes, eager_sharding=False)


def _split_rows(hidden_BxTxD: jax.Array) -> jax.Array:
    if hidden_BxTxD.shape[0] == 1:
        return constrain(hidden_BxTxD, None, "shared_sequence", None)
    return constrain(hidden_BxTxD, "batch", None, None)


def _rematerialised(function: Any, remat: Remat) -> Any:
    if remat == "none":
        return function
    policies = jax.checkpoint_policies
    policy = {
        "full": None,
        "dots": policies.save_from_both_policies(
            policies.checkpoint_dots_with_no_batch_dims,
            policies.save_only_these_names(ATTENTION_RESIDUALS),
        ),
        "offload": policies.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=[_LAYER_INPUT],
            offload_src="device",
            offload_dst="pinned_host",
        ),
    }[remat]
    # Inside a scan nothing can be merged with the forward pass, so no barrier is needed.
    return jax.checkpoint(function, policy=policy, prevent_cse=False)
