"""The shape of a T5 encoder-decoder."""

from __future__ import annotations

from pydantic import Field

from gplan_jax.foundation.config import Config


class T5Config(Config):
    """The sizes of a T5; the defaults are small enough for one CPU core.

    Attributes:
        vocabulary_size: tokens of the embedding that encoder, decoder and (tied) head share.
        hidden_size: D, the width of the residual stream.
        heads, head_dim: N heads of size H; N * H need not be D.
        mlp_size: F, the width between the two matrices of the feed-forward.
        encoder_layers, decoder_layers: how many blocks each side has.
        buckets, max_distance: relative positions share ``buckets`` learnt biases a head; those
            beyond ``max_distance`` tokens share the last one.
        gated: gelu(gate(x)) * up(x) as in T5 1.1, instead of relu(up(x)) as in T5.
        tied: the head is the embedding, after a factor of D^-0.5 (T5), and not a matrix of its own
            (T5 1.1).
        dropout: share of values zeroed in training: embeddings, attention weights, between the
            matrices of the feed-forward, what each layer adds, and the outputs of both sides.
        epsilon: added to the mean square in the norms.
    """

    vocabulary_size: int = Field(ge=1)
    hidden_size: int = Field(default=64, ge=1)
    heads: int = Field(default=4, ge=1)
    head_dim: int = Field(default=16, ge=1)
    mlp_size: int = Field(default=128, ge=1)
    encoder_layers: int = Field(default=2, ge=1)
    decoder_layers: int = Field(default=2, ge=1)
    buckets: int = Field(default=32, ge=4, multiple_of=4)
    max_distance: int = Field(default=128, ge=2)
    gated: bool = False
    tied: bool = True
    dropout: float = Field(default=0.1, ge=0, lt=1)
    epsilon: float = Field(default=1e-6, gt=0)
