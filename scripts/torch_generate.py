"""transformers' greedy ``generate`` for bench_decode.py, which starts it with a Python that has it.

    python torch_generate.py CHECKPOINT PROMPTS.json MAX_NEW_TOKENS

One JSON line says what it runs on; then every line read from standard input is the number of a
prompt, and is answered by one JSON line: seconds, tokens (the new ones, without the end token).
"""

from __future__ import annotations

import json
import os
import sys
import time

import torch
import transformers


def main() -> None:
    """Serves prompts until standard input ends."""
    checkpoint, prompts_file, max_new_tokens = sys.argv[1:]
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    with open(prompts_file, encoding="utf-8") as file:
        prompts = json.load(file)
    model = transformers.AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32)
    model.eval()
    versions = {"torch": torch.__version__, "transformers": transformers.__version__}
    print(json.dumps(versions), flush=True)
    for line in sys.stdin:
        ids = torch.tensor([prompts[int(line)]])
        started = time.perf_counter()
        with torch.inference_mode():
            found = model.generate(
                ids,
                attention_mask=torch.ones_like(ids),
                do_sample=False,
                max_new_tokens=int(max_new_tokens),
            )
        seconds = time.perf_counter() - started
        tokens = found[0, ids.shape[1] :].tolist()
        ends = model.generation_config.eos_token_id
        if tokens and tokens[-1] in (ends if isinstance(ends, list) else [ends]):
            tokens.pop()
        print(json.dumps({"seconds": seconds, "tokens": tokens}), flush=True)


if __name__ == "__main__":
    main()
