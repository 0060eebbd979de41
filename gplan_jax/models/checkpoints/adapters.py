"""Low-rank adapters in the format of Hugging Face's PEFT, out of a live model and into weights.

adapter_config.json      r, lora_alpha, target_modules; trainable_token_indices: ids of rows
adapter_model.safetensors, each name behind base_model.model.:
    model.layers.0.self_attn.q_proj.lora_A.weight  [r, inputs], .lora_B.weight [outputs, r]
    model.embed_tokens.token_adapter.trainable_tokens_delta  [ids, width]; lm_head may have one too

The last are the rows themselves, in spite of their name. Whole matrices (``modules_to_save``) are
read, never written.
"""

from __future__ import annotations

import dataclasses
import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from jax.experimental import multihost_utils
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.files import read_json, write_json
from gplan_jax.models.checkpoints import hugging_face
from gplan_jax.models.layers.projection import PROJECTIONS, LowRank
from gplan_jax.models.qwen3.config import Qwen3Config
from gplan_jax.models.qwen3.model import Qwen3

FOLDER = "adapter"  # in the model directory of a run that trained one
CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
_PREFIX, _ROWS = "base_model.model.", ".token_adapter.trainable_tokens_delta"
_VOCABULARY = {"embedding": "model.embed_tokens", "head": "lm_head"}
_BASE = "base_embedding"  # in the metadata of the weights: see ``_fingerprint``
# What would change the arithmetic and is not read, with the values that leave it as it is.
_PLAIN: Mapping[str, Any] = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "fan_in_fan_out": False,
    "lora_bias": False,
    "rank_pattern": {},
    "alpha_pattern": {},
    "layer_replication": None,
    "target_parameters": None,
}


@dataclasses.dataclass(frozen=True)
class Adapter:
    """W + scale * B A for some projections, and rows of embedding and head in the base's place."""

    config: dict[str, Any]  # adapter_config.json
    tensors: dict[str, np.ndarray]  # under PEFT's names
    fingerprint: str | None  # of the base; None where another library wrote the adapter

    @property
    def base(self) -> str:
        """Directory or name of the checkpoint that it was trained on."""
        return str(self.config.get("base_model_name_or_path"))

    @property
    def rows(self) -> dict[str, tuple[np.ndarray, np.ndarray]]:
        """ "embedding" or "head" -> token ids and their rows [ids, D], where it has some."""
        found = {}
        for parameter, module in _VOCABULARY.items():
            whole = self.tensors.get(f"{_PREFIX}{module}.weight")
            if whole is not None:
                found[parameter] = (np.arange(len(whole)), whole)
            if (rows := self.tensors.get(_PREFIX + module + _ROWS)) is not None:
                found[parameter] = (np.asarray(_row_ids(self.config, module)), rows)
        return found

    def without_rows(self, base: str) -> Adapter:
        """The low-rank part, for a ``base`` that has the rows already: all that vLLM takes."""
        tensors = {name: x for name, x in self.tensors.items() if ".lora_" in name}
        changes = {"trainable_token_indices": None, "base_model_name_or_path": base}
        return Adapter(self.config | changes, tensors, self.fingerprint)

    def put_rows(self, parameter: str, matrix: np.ndarray) -> np.ndarray:
        """A parameter of the base with the adapter's rows in it, where it has some for it."""
        ids, rows = self.rows.get(parameter, (None, None))
        if ids is not None:
            matrix[ids] = rows
        return matrix

    def write(self, folder: Path) -> None:
        """Writes the two files that ``peft.PeftModel.from_pretrained`` reads."""
        folder.mkdir(exist_ok=True)
        metadata = {"format": "pt"} | ({_BASE: self.fingerprint} if self.fingerprint else {})
        save_file(self.tensors, folder / WEIGHTS, metadata=metadata)
        write_json(folder / CONFIG, self.config)

    def merged_into(
        self, tensors: Mapping[str, hugging_face.StoredTensor]
    ) -> dict[str, hugging_face.StoredTensor]:
        """The base's tensors; those that have an adapter are merged with it when they are read.

        GplanError where the base is another checkpoint of the same shape.
        """
        count = int((self.fingerprint or "0:").split(":")[0])
        first_rows = tensors[hugging_face.EMBEDDING].read()[:count] if count else None
        if first_rows is not None and _fingerprint(first_rows) != self.fingerprint:
            raise GplanError(
                f"This base is not the one that the adapter was trained on: the first {count} rows "
                f"of the embedding differ. Give that which {CONFIG} names in "
                f"base_model_name_or_path, {self.base}, exported where it is a model directory."
            )
        rank, alpha = self.config["r"], self.config["lora_alpha"]
        scale = alpha / (rank**0.5 if self.config.get("use_rslora") else rank)
        merged = dict(tensors)
        for name, tensor in tensors.items():
            module = _PREFIX + name.removesuffix(".weight")
            if (down := self.tensors.get(f"{module}.lora_A.weight")) is not None:
                up = self.tensors[f"{module}.lora_B.weight"]
                merged[name] = _Merged(
                    tensor.file, name, tensor.dtype, tensor.shape, down, up, scale
                )
        return merged


@dataclasses.dataclass(frozen=True)
class _Merged(hugging_face.StoredTensor):
    """W + scale * B A: summed in float32, rounded once to the dtype of W."""

    down: np.ndarray
    up: np.ndarray
    scale: float

    def read(self) -> np.ndarray:
        weight = super().read()
        product = self.up.astype(np.float32) @ self.down.astype(np.float32)
        merged: np.ndarray = weight.astype(np.float32) + np.float32(self.scale) * product
        return merged.astype(weight.dtype)


def adapter_of(model: Qwen3, *, base: str) -> Adapter:
    """The adapter of a live model (``add_lora``) in host memory; all processes must call it."""

    def host(array: Any) -> np.ndarray:
        return np.asarray(multihost_utils.process_allgather(array, tiled=True))

    tensors, targets, rank, scale = {}, set(), 0, 1.0
    for rule in hugging_face.rules(model.config):
        *parents, name = rule.path.split(".")
        module: Any = model
        for part in parents:
            module = getattr(module, part)
        lora = getattr(module, f"{name}_lora", None)
        if isinstance(lora, LowRank):
            down, up = host(lora.down[...]), host(lora.up[...])
            rank, scale = down.shape[-1], lora.scale
            targets.add(rule.template.split(".")[-2])
            for layer, weight in enumerate(rule.names(model.config)):
                at = _PREFIX + weight.removesuffix("weight")
                tensors[f"{at}lora_A.weight"] = down[layer].reshape(-1, rank).T.copy()
                tensors[f"{at}lora_B.weight"] = up[layer].reshape(rank, -1).T.copy()
    trained, indices = model.trained_rows, {}
    if trained is not None:
        for parameter, rows in (("embedding", trained.embedding), ("head", trained.head)):
            if rows is not None:
                tensors[_PREFIX + _VOCABULARY[parameter] + _ROWS] = host(rows[...])
                indices[_VOCABULARY[parameter].split(".")[-1]] = list(trained.ids)
    config = dict(_PLAIN) | {
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": base,
        "r": rank,
        "lora_alpha": round(scale * rank, 9),
        "lora_dropout": 0.0,
        "target_modules": sorted(targets),
        "trainable_token_indices": indices or None,
        "inference_mode": True,
    }
    # Rows that no training touches and no conversion adds tell one base from another.
    count = min((256, *(trained.ids if trained else ())))
    return Adapter(config, tensors, _fingerprint(host(model.embedding[...][:count])))


def read_adapter(folder: Path, config: Qwen3Config, *, rows: int) -> Adapter:
    """Reads an adapter for a base of this shape, of PEFT or of ``Adapter.write``.

    ``rows`` are those that embedding and head will have. GplanError names the key of
    adapter_config.json that is missing or asks for what is not read, or lists every tensor that is
    missing, misshapen or of no module that is read.
    """
    settings, path = read_json(folder / CONFIG), folder / WEIGHTS
    if not isinstance(settings, dict) or not path.is_file():
        raise GplanError(f"{folder} holds no {WEIGHTS} beside {CONFIG}; pickled ones are not read.")
    for key, plain in _PLAIN.items():
        if settings.get(key) and settings[key] != plain:
            raise GplanError(
                f"{folder / CONFIG}: {key} is {settings[key]!r}, and only {plain!r} is read; merge "
                "the adapter with peft's merge_and_unload and convert what it gives."
            )
    numbers = (settings.get("r"), settings.get("lora_alpha"))
    if not all(isinstance(x, int | float) and x > 0 for x in numbers):
        raise GplanError(f"{folder / CONFIG}: r and lora_alpha are {numbers}, not numbers above 0.")
    try:
        with safe_open(path, "np") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
            fingerprint = (file.metadata() or {}).get(_BASE)
    except SafetensorError as error:
        raise GplanError(f"{path} is torn or not safetensors: {error}.") from None
    for name, tensor in tensors.items():
        hugging_face.require_finite(tensor, f"{path}: {name}")
    if config.tie_word_embeddings:  # PEFT may save the one matrix under both its names
        embedding, head = (f"{_PREFIX}{module}.weight" for module in _VOCABULARY.values())
        if head in tensors and np.array_equal(tensors[head], tensors.get(embedding, 0)):
            del tensors[head]
    wanted: dict[str, tuple[int, ...]] = {}
    for rule in hugging_face.rules(config):
        outputs, *inputs = rule.tensor_shape(config)
        for layer, weight in enumerate(rule.names(config)):
            module = weight.removesuffix(".weight")
            if rule.path.split(".")[-1] in PROJECTIONS and _targets(settings, module, layer):
                wanted[f"{_PREFIX}{module}.lora_A.weight"] = (settings["r"], *inputs)
                wanted[f"{_PREFIX}{module}.lora_B.weight"] = (outputs, settings["r"])
            elif module in _VOCABULARY.values():
                ids = _row_ids(settings, module)
                if ids:
                    wanted[_PREFIX + module + _ROWS] = (len(ids), *inputs)
                if (whole := tensors.get(f"{_PREFIX}{module}.weight")) is not None:
                    wanted[f"{_PREFIX}{module}.weight"] = (len(whole), *inputs)
                if (most := max([*ids, 0 if whole is None else len(whole) - 1])) >= rows:
                    raise GplanError(
                        f"{folder / CONFIG}: trainable_token_indices or modules_to_save has row "
                        f"{most} of {module}, and the base {rows} rows: another vocabulary."
                    )
    found = {name: tensor.shape for name, tensor in tensors.items()}
    if faults := hugging_face.shape_faults(found, wanted, layers=config.num_hidden_layers):
        raise GplanError(
            f"{path} does not hold what the base and {CONFIG} (r, target_modules, "
            f"trainable_token_indices) ask for, {len(faults)} faults; give the base that it was "
            f"trained on, {settings.get('base_model_name_or_path')}:\n  " + "\n  ".join(faults[:20])
        )
    return Adapter(settings, tensors, fingerprint)


def _row_ids(settings: Mapping[str, Any], module: str) -> list[int]:
    indices = settings.get("trainable_token_indices") or {}
    if isinstance(indices, list):  # PEFT's short form
        indices = {"embed_tokens": indices}
    return list(indices.get(module.split(".")[-1], ()))


def _targets(settings: Mapping[str, Any], module: str, layer: int) -> bool:
    """Whether adapter_config.json puts an adapter beside this projection of this layer."""
    layers, named = settings.get("layers_to_transform"), settings.get("target_modules") or ()
    if layers is not None and layer not in (layers if isinstance(layers, list) else [layers]):
        return False
    if isinstance(named, str):
        return named == "all-linear" or re.fullmatch(named, module) is not None
    return any(f".{module}".endswith(f".{name}") for name in named)


def _fingerprint(rows_RxD: np.ndarray) -> str:
    """How many rows, and their SHA-256 as bfloat16, to which a run may have rounded its base."""
    digest = hashlib.sha256(rows_RxD.astype(ml_dtypes.bfloat16).tobytes())
    return f"{len(rows_RxD)}:{digest.hexdigest()}"
