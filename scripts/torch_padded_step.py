"""The public recipe's step in PyTorch, for bench_train.py, which starts it with a Python that has
torch and transformers: transformers' Qwen3, rows padded to one length, gradient checkpointing,
logits at every position, AdamW.

    python torch_padded_step.py JOB_DIRECTORY

JOB_DIRECTORY holds ``model/`` (a Hugging Face checkpoint), ``job.json`` and ``batch_0.npz``, ...
(tokens [B, S], lengths [B], labels [B, S] with -100 where unsupervised, sections [B, S]). One JSON
line says what it runs on; then every line read from standard input is the number of a batch, and
is answered by one JSON line: seconds, processor (of all cores together), loss, peak_gib.
"""

from __future__ import annotations

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers
from torch.nn.functional import cross_entropy


def main() -> None:
    """Serves steps until standard input ends."""
    folder = Path(sys.argv[1])
    job = json.loads((folder / "job.json").read_text())
    device = "cuda" if torch.cuda.is_available() and job["platform"] != "cpu" else "cpu"
    if device == "cpu":
        torch.set_num_threads(job["threads"])
    torch.backends.cuda.matmul.allow_tf32 = True
    model = transformers.AutoModelForCausalLM.from_pretrained(
        folder / "model", dtype=torch.float32
    ).to(device)
    model.config.use_cache = False
    model.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    model.train()
    # Like the JAX steps: everything of AdamW is computed, and the weights stay where they are.
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.0, weight_decay=0.0, fused=True)
    say({"torch": torch.__version__, "transformers": transformers.__version__, "device": device})
    for line in sys.stdin:
        with np.load(folder / f"batch_{int(line)}.npz") as arrays:
            batch = {name: torch.as_tensor(arrays[name], device=device) for name in arrays.files}
        synchronize(device)
        wall, processor = time.perf_counter(), time.process_time()
        loss = step(model, optimizer, batch, job, device)
        synchronize(device)
        say(
            {
                "seconds": time.perf_counter() - wall,
                "processor": time.process_time() - processor,
                "loss": loss,
                "peak_gib": peak_gib(device),
            }
        )


def step(
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: dict[str, torch.Tensor],
    job: dict[str, Any],
    device: str,
) -> float:
    """One optimizer step over micro-batches of ``job["micro_rows"]`` rows; returns the loss."""
    labels = batch["labels"][:, 1:]
    weights = token_weights(batch["sections"][:, 1:], by_section=job["by_section"])
    total, micro_rows = 0.0, job["micro_rows"]
    for start in range(0, len(labels), micro_rows):
        rows = slice(start, start + micro_rows)
        tokens = batch["tokens"][rows].long()
        mask = torch.arange(tokens.shape[1], device=device) < batch["lengths"][rows, None]
        with torch.autocast(device, torch.bfloat16, enabled=job["bfloat16"]):
            logits = model(input_ids=tokens, attention_mask=mask.long()).logits
        nll = cross_entropy(
            logits[:, :-1].float().flatten(0, 1),
            labels[rows].flatten().long(),
            ignore_index=-100,
            reduction="none",
        )
        loss = (nll * weights[rows].flatten()).sum()
        loss.backward()
        total += loss.item()
        del logits, nll, loss
    torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    optimizer.zero_grad()
    return total


def token_weights(sections: torch.Tensor, *, by_section: bool) -> torch.Tensor:
    """What each token weighs: the mean over the sections' means, or over all tokens."""
    groups = [sections == 1, sections == 2] if by_section else [sections > 0]
    present = [group for group in groups if group.any()]
    return sum(group.float() / (group.sum() * len(present)) for group in present)


def peak_gib(device: str) -> float:
    """Most memory so far: of the device, or of this process on a CPU."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    kibibytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return kibibytes / (2**30 if sys.platform == "darwin" else 2**20)


def synchronize(device: str) -> None:
    """Waits until the device is done."""
    if device == "cuda":
        torch.cuda.synchronize()


def say(answer: dict[str, object]) -> None:
    """Answers the parent."""
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
