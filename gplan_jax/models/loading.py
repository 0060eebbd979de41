"""Qwen3 weights from disk into a live model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax.typing import DTypeLike

from gplan_jax.models.directory import PARAMS, is_model_directory, read_config
from gplan_jax.models.parameter_store import ParameterStore
from gplan_jax.models.params import check_tensors, read_parameter, rules
from gplan_jax.models.qwen3 import Qwen3, Remat
from gplan_jax.models.safetensors_files import stored_tensors
from gplan_jax.models.tokenizer_files import check_tokenizer


def load_qwen3(
    path: str | Path,
    *,
    param_dtype: DTypeLike | None = None,
    compute_dtype: DTypeLike | None = None,
    remat: Remat = "none",
) -> Qwen3:
    """Loads a Hugging Face checkpoint or a GPlan model directory.

    Args:
        path: the directory.
        param_dtype: dtype to hold the parameters in; None keeps each one's stored dtype.
        compute_dtype: dtype of matrix products; None means that of the embedding.
        remat: see ``Qwen3``.

    Raises:
        GplanError: the directory does not hold a whole Qwen3 dense checkpoint that matches its
            config.json (every fault is listed), or its tokenizer has ids beyond the embedding.
    """
    directory = Path(path)
    config = read_config(directory)
    check_tokenizer(directory, rows=config.vocab_size)
    read = _reader(directory)
    # Only shapes: nothing random is computed for weights that are about to be replaced.
    model = nnx.eval_shape(
        lambda: Qwen3(
            config,
            rngs=nnx.Rngs(0),
            param_dtype=jnp.float32 if param_dtype is None else param_dtype,
            compute_dtype=compute_dtype,
            remat=remat,
        )
    )
    for rule in rules(config):
        *parents, name = rule.path.split(".")
        module = model
        for part in parents:
            module = getattr(module, part)
        getattr(module, name).set_value(jnp.asarray(read(rule.path), dtype=param_dtype))
    if param_dtype is None and compute_dtype is None:
        model.compute_dtype = model.embedding[...].dtype
    return model


def _reader(directory: Path) -> Callable[[str], np.ndarray]:
    config = read_config(directory)
    if is_model_directory(directory):
        return ParameterStore(directory / PARAMS, config).read
    tensors = stored_tensors(directory)
    check_tensors(tensors, config, source=str(directory))
    by_path = {rule.path: rule for rule in rules(config)}
    return lambda path: read_parameter(by_path[path], tensors, config)
