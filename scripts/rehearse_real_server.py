"""Asks a real OpenAI-compatible server as a run would, and shows what became of its answers.

    vllm serve Qwen/Qwen3-0.6B &
    python scripts/rehearse_real_server.py --url http://127.0.0.1:8000/v1 --model Qwen/Qwen3-0.6B

Twenty simulated contexts go through `gplan synthesize`, `explain` and `judge`, with thinking off
and on (`enable_thinking` of the chat template; servers that don't know it ignore it). A command's
line has its exit code (3 where nothing was kept), rows kept and refused by cause, tokens of all its
replies, and seconds; below stands the last thing that it said. OUT keeps what each wrote and said
(*.log). A second run finds the answers in their caches and asks only for what failed.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

from rich.console import Console

from gplan_jax.foundation.tables import NOTHING, TextTable
from gplan_jax.gsisr import write_samples
from gplan_jax.synthesis.world.simulation import simulate_rows


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--url", required=True, help="as base_url of a teacher file: http://HOST:PORT/v1")
    add("--model", required=True, help="the name that the server knows it by")
    add("--out", type=Path, default=Path("rehearsal"), help="folder of all files")
    add("--rows", type=int, default=20)
    add("--max-tokens", type=int, default=2048)
    add("--concurrency", type=int, default=4)
    add("--timeout-s", type=float, default=300.0, help="for one answer")
    add("--api-key-env", help="the NAME of the environment variable with the key")
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    rows = options.out / "rows.csv"
    write_samples(rows, simulate_rows(options.rows, seed=1))
    lines, last = [], []
    for thinking in (False, True):
        server = {
            "base_url": options.url,
            "model": options.model,
            "max_tokens": options.max_tokens,
            "concurrency": options.concurrency,
            "timeout_s": options.timeout_s,
            "api_key_env": options.api_key_env,
            "extra": {"chat_template_kwargs": {"enable_thinking": thinking}},
        }
        config = options.out / f"server_{'thinking' if thinking else 'plain'}.yaml"
        config.write_text(json.dumps({"server": server}), encoding="utf-8")  # JSON is YAML
        for command, arguments in commands(config):
            out = options.out / f"{command}_{config.stem.removeprefix('server_')}"
            cells, said = run(command, [*arguments, "--data", str(rows)], out, options.rows)
            lines.append([command, "on" if thinking else "off", *cells])
            last.append(f"{out.name}: {said}")
    heads = ("command", "thinking", "refused by cause", "exit", "kept", "tokens", "seconds")
    console = Console(soft_wrap=True)
    console.print(TextTable(heads, lines, words=3).rich())
    console.print("\n".join(last), markup=False, highlight=False)


def commands(config: Path) -> Iterator[tuple[str, list[str]]]:
    """The commands and their options, but for data and output."""
    yield "synthesize", ["--teacher", str(config)]
    yield "explain", ["--teacher", str(config), "--on-error", "skip"]
    yield "judge", ["--judge", str(config), "--labels"]


def run(command: str, options: list[str], out: Path, rows: int) -> tuple[list[str], str]:
    """Cells of a command's line behind its name, and the last thing that it said."""
    target = out if command == "judge" else out.with_suffix(".csv")
    if target.is_dir():
        shutil.rmtree(target)
    log, started = out.with_suffix(".log"), time.monotonic()
    with log.open("w", encoding="utf-8") as file:
        asked = [sys.executable, "-m", "gplan_jax.cli.main", command, "--out", str(target)]
        code = subprocess.run([*asked, *options], stdout=file, stderr=file, check=False).returncode
    seconds = time.monotonic() - started
    # Whatever the run came to: the rows that it wrote, and what they lack.
    causes: Counter[str] = Counter()
    if command == "judge":
        judged = _objects(out / "judgements.jsonl")
        kept = sum(one["status"] == "scored" for one in judged)
        causes.update(one["unscored"].split(":")[0] for one in judged if one["unscored"])
    else:
        kept = sum(1 for _ in target.open(encoding="utf-8")) - 1 if target.exists() else 0
        causes.update(one["code"] for one in _objects(out.with_name(f"{out.name}.removed.jsonl")))
    causes["left out, see its .log"] = rows - kept - causes.total()
    told = "\n".join(f"{count} {cause}" for cause, count in causes.most_common() if count)
    said = log.read_text(encoding="utf-8").strip().splitlines()
    return (
        [told or NOTHING, str(code), str(kept), f"{_tokens(out):,}", f"{seconds:.0f}"],
        said[-1] if said else NOTHING,
    )


def _objects(path: Path) -> list[dict[str, Any]]:
    if not path.exists():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _tokens(out: Path) -> int:
    """Tokens of all replies in a command's cache."""
    path = out.with_name(f"{out.name}.cache.sqlite")
    if not path.exists():
        return 0
    with closing(sqlite3.connect(path)) as cache:
        [(tokens,)] = cache.execute(
            "SELECT TOTAL(prompt_tokens) + TOTAL(completion_tokens) FROM answers"
        )
    return int(tokens)


if __name__ == "__main__":
    main()
