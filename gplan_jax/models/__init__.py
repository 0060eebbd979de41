"""Qwen3 in Flax NNX, and the way between Hugging Face checkpoints and GPlan model directories."""

from gplan_jax.models.checkpoints.convert import (
    CheckpointReport,
    convert_checkpoint,
    export_adapter,
    export_checkpoint,
)
from gplan_jax.models.checkpoints.loading import load_qwen3
from gplan_jax.models.checkpoints.model_directory import (
    ModelRecord,
    read_config,
    save_model_directory,
)
from gplan_jax.models.qwen3.config import Qwen3Config
from gplan_jax.models.qwen3.model import Qwen3
