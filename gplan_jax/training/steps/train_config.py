"""The config of a training run: what configs/*.yaml may say.

Defaults of the paper: section 5.1.3 (13 epochs, B* = 9, structure rate 5e-6, polish rate 1e-6),
equation 5 (equal section weights). The others are ours; docs/training.md says why.
"""

from __future__ import annotations

from typing import Literal

from pydantic import Field, field_validator

from gplan_jax.foundation.config import Config
from gplan_jax.foundation.paths import PathText
from gplan_jax.objectives.curriculum import BlockOrder
from gplan_jax.objectives.preference import PreferenceLoss, ScDpoConfig
from gplan_jax.training.hosts.mesh import MeshConfig

DType = Literal["float32", "bfloat16"]


class DataConfig(Config):
    """Rows, prompt and batching."""

    # "gsisr" plans from contexts; "text" is any task with a prompt, reasoning blocks and an answer
    # in each row (docs/own_task.md)
    task: Literal["gsisr", "text"] = "gsisr"
    # CSV, JSONL or Parquet file of labelled rows; for SC-DPO the .jsonl file of context pairs
    # that ``gplan counterfactuals`` writes; rows of text are .jsonl
    train: PathText
    test: PathText | None = None  # rows kept back for evaluation during training
    # a shipped service by its name, or the directory of another; what the data or the model record
    # where it is not given
    service: str | None = None
    # a prompt of the service by its name, or a directory with system.j2 and user.j2; the one that
    # the service names where it is not given
    template: str | None = None
    # "raise" stops at a faulty row, "skip" leaves it out and lists it
    on_error: Literal["raise", "skip"] = "raise"
    # tokens of prompt and response together
    max_length: int = Field(2048, gt=0)
    # tokens that every prompt is cut to, in training and wherever the model plans; a response is
    # never cut. Where not given: max_length less the longest response, and in SC-DPO at most what
    # its policy was trained with
    prompt_length: int | None = Field(None, gt=0)
    # sequences are padded to a multiple of this; fewer shapes, fewer compiles
    length_multiple: int = Field(128, gt=0)
    # likewise for the supervised positions; in SC-DPO also for what two prompts of a pair do not
    # share
    response_multiple: int = Field(64, gt=0)
    window_batches: int = Field(16, gt=0)  # batches whose rows are ordered by length together
    # "prefix_tree" computes the system prompt, which all rows share, once a step, and in SC-DPO
    # what the four sequences of a pair share once a pair; "plain" computes whole sequences. Loss
    # and gradient are the same.
    layout: Literal["prefix_tree", "plain"] = "prefix_tree"
    # folder that keeps the rows' token ids, for all runs that name it; the run's own cache where
    # it is not given
    cache: PathText | None = None
    threads: int = Field(2, gt=0)  # reader threads
    workers: int = Field(0, ge=0)  # reader processes; 0 reads in the training process


class OptimizerConfig(Config):
    """AdamW and its learning rate."""

    # "calr" (two phases, paper equation 4), "cosine" or "constant"
    schedule: Literal["calr", "cosine", "constant"] = "calr"
    learning_rate: float = Field(5e-6, gt=0)  # structure rate of CALR, peak rate of the others
    polish_lr: float = Field(1e-6, gt=0)  # rate at which CALR's second phase begins
    target_blocks: int = Field(9, ge=0)  # B* of CALR
    # epochs of CALR's cosine; 0 means all that remain
    polish_decay_epochs: float = Field(0.0, ge=0)
    warmup_ratio: float = Field(0.0, ge=0, le=1)  # share of all steps with a linear rise
    # decoupled decay of the matrices; norm weights never decay
    weight_decay: float = Field(0.0, ge=0)
    b1: float = Field(0.9, ge=0, lt=1)
    b2: float = Field(0.999, ge=0, lt=1)
    eps: float = Field(1e-8, gt=0)
    clip_norm: float = Field(1.0, gt=0)  # largest global norm of the gradient


class LossConfig(Config):
    """The loss: section weights of PICD, and how much of the vocabulary is held at a time."""

    reasoning_weight: float = Field(1.0, ge=0)
    plan_weight: float = Field(1.0, gt=0)
    vocab_chunk: int = Field(16384, gt=0)


class PreferenceConfig(ScDpoConfig):
    """SC-DPO's coefficients (paper, section 5.1.3), the loss, and where the reference is kept."""

    # "scdpo", or another of its family for comparison: "dpo", "ipo", "dpop", "cal_dpo",
    # "sppo_hard"
    loss: PreferenceLoss = "scdpo"
    # directory of the reference's log-probabilities, which runs from the same weights may share;
    # the run's own cache where it is not given
    reference_cache: PathText | None = None


class LoraConfig(Config):
    """Low-rank adapters instead of all weights; latent tokens' embedding rows always train too.

    The frozen weights are held in ``precision.compute``; adapters and their optimizer are float32.
    Adapters want a far higher learning rate than whole weights: 1e-4 is a usual start.
    """

    rank: int = Field(0, ge=0)  # of the adapters; 0 trains all weights
    alpha: float = Field(32.0, gt=0)  # their part is scaled by alpha / rank
    # projections that have one
    targets: list[Literal["query", "key", "value", "output", "gate", "up", "down"]] = Field(
        ["query", "key", "value", "output", "gate", "up", "down"], min_length=1
    )


class PrecisionConfig(Config):
    """Storage of the weights, dtype of the products, and what is computed again backwards."""

    # dtype of the weights between steps. float32 master weights are the default: at the paper's
    # rates an update is smaller than half a bfloat16 step and would be rounded away.
    params: DType = "float32"
    compute: DType = "bfloat16"  # dtype of the matrix products
    # what the backward pass computes again: "none" keeps everything, "full" keeps only each
    # layer's input, "dots" the products with weights, "offload" moves each layer's input to host
    # memory
    remat: Literal["none", "full", "dots", "offload"] = "full"
    # kernel of the attention; "auto" is cuDNN flash on GPU, splash on TPU, else XLA
    attention: Literal["auto", "xla", "cudnn", "splash"] = "auto"


class CheckpointConfig(Config):
    """When checkpoints are written and which are kept."""

    # a checkpoint every so many steps, besides the one at the end of every epoch; 0 writes only
    # those
    every_steps: int = Field(0, ge=0)
    keep: int = Field(2, gt=0)  # newest checkpoints that are kept
    # checkpoints with the best ``best_metric`` that are kept besides; 0 keeps none
    keep_best: int = Field(0, ge=0)
    best_metric: str = "acc1"  # an evaluation's figure; higher is better


class LoggingConfig(Config):
    """Besides log.jsonl and TensorBoard, which are always written."""

    wandb_project: str | None = None  # project at Weights & Biases; None logs nothing there
    # [a, b] writes a profile of steps a to b, counted from 1, for TensorBoard; SIGUSR1 one of the
    # next three
    profile_steps: list[int] | None = Field(None, min_length=2, max_length=2)

    @field_validator("profile_steps")
    @classmethod
    def _in_order(cls, steps: list[int] | None) -> list[int] | None:
        if steps and not 1 <= steps[0] <= steps[1]:
            raise ValueError("first and last step in order, counted from 1: [10, 12], say")
        return steps


class WatchdogConfig(Config):
    """When a run that takes no step is ended, with exit code 75 and the stacks of all threads."""

    minutes: float = Field(10.0, ge=0)  # without a step; 0 watches nothing
    medians: float = Field(20.0, gt=1)  # or as long as so many usual steps, where that is more


class EvaluationConfig(Config):
    """Evaluation on ``data.test`` every ``every_epochs`` epochs and at the end; 0 is never."""

    every_epochs: int = Field(0, ge=0)
    limit: int | None = Field(None, gt=0)
    batch_size: int = Field(16, gt=0)
    max_new_tokens: int = Field(512, gt=0)


class TrainConfig(Config):
    """One run."""

    # "direct_sft" trains plans alone, "cot_sft" reasoning in words and plan, "picd" reasoning
    # that turns latent block by block, one an epoch; to compare PICD with, "icot" reasoning whose
    # blocks vanish instead, and "pause" latent tokens from the start and no reasoning; "scdpo"
    # prefers, of two plans in latent form, the one that fits the context
    mode: Literal["direct_sft", "cot_sft", "picd", "icot", "pause", "scdpo"]
    model: PathText  # directory made by ``gplan convert``, or a Hugging Face directory
    output: PathText  # directory of the run; made anew, or continued with --resume
    epochs: int = Field(13, gt=0)
    # rows an optimizer step, over all hosts; in SC-DPO a row is a context pair: two contexts,
    # each with both plans, so four sequences and two preferences
    batch_size: int = Field(32, gt=0)
    # micro-batches that a batch is split into; a CPU splits further, to what its cache holds
    accumulation_steps: int = Field(1, gt=0)
    # epochs until more blocks turn latent (picd, icot); small data wants several
    epochs_per_stage: int = Field(1, gt=0)
    curriculum: BlockOrder = BlockOrder()
    seed: int = Field(0, ge=0, lt=2**63)
    data: DataConfig
    mesh: MeshConfig = MeshConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    loss: LossConfig = LossConfig()
    preference: PreferenceConfig = PreferenceConfig()
    precision: PrecisionConfig = PrecisionConfig()
    lora: LoraConfig = LoraConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    evaluation: EvaluationConfig = EvaluationConfig()
    logging: LoggingConfig = LoggingConfig()
    watchdog: WatchdogConfig = WatchdogConfig()
