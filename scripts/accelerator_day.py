"""Everything that is worth measuring on an accelerator, in as much time as there is.

    python scripts/accelerator_day.py --budget 9m --out runs/day        # a GPU or TPU
    python scripts/accelerator_day.py --budget 9m --shapes tiny         # rehearsal on any machine

Needs no network and this repository alone, with JAX and our other dependencies importable by the
Python that runs it (``--packages DIR``, made by ``pip install --target DIR``, brings those that the
machine lacks); with torch and transformers, torch's padded step is measured beside ours.

The parts run one after another, the most valuable first, each in a process of its own that is ended
when its share of the budget is used up. What a part leaves over is shared out among those that
follow. Every part writes OUT/NUMBER_NAME.json as it ends (state, seconds, command, its figures or
how it failed), and OUT/table.md, for docs/benchmarks.md, is written anew each time, so that what
was measured is there whatever happens later.

Exits with 1 where no part has given figures.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

REPOSITORY = Path(__file__).resolve().parents[1]
FEWEST_SECONDS = 5.0  # less is not worth a start
PART_VARIABLE = "GPLAN_DAY_PART"  # tells what a part has started
GRACE_SECONDS = 3.0  # between being told to end and being ended
MOST_TEXT, MOST_BYTES = 4_000, 2**16
NEEDED = ("jax", "flax", "optax", "orbax", "grain", "pydantic", "typer", "rich", "tokenizers")
# Numbers of weights, for the time that a pass needs to read them once.
WEIGHTS = {"qwen3-1.7b": 1.72e9, "qwen3-4b": 4.02e9}
GOALS = {"useful MFU": 0.45, "over torch": 2.5, "over concatenated": 4.0, "over roofline": 1.25}
Figures = Callable[[dict[str, Any], Mapping[str, Any]], Iterable[str]]


@dataclass(frozen=True)
class Part:
    """One thing to measure; its figures are the last line of JSON that it prints, or its text."""

    name: str
    share: float  # of the time; relative to those of the parts that follow
    command: tuple[str, ...]
    # (its result, results of earlier parts by name) -> lines of the table
    figures: Figures = lambda result, _: [str(result.get("text", ""))[-200:]]
    environment: Mapping[str, str] = field(default_factory=dict)


def main() -> None:
    """Parses the command line and runs the parts."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--budget", type=seconds_of, default="9m", help="all the time there is: 9m, 540s, 1h")
    add("--shapes", choices=("full", "tiny"), default="full")
    add("--out", type=Path, default=Path("runs/day"), help="directory of the results")
    add("--only", help="parts to run, by name, separated by commas")
    add("--packages", type=Path, help="a folder of packages that this Python lacks")
    options = parser.parse_args()
    parts = parts_of(options.shapes, options.out)
    if options.only:
        chosen = options.only.split(",")
        known = [part.name for part in parts]
        if unknown := [name for name in chosen if name not in known]:
            parser.error(f"--only knows {', '.join(known)}, not {', '.join(unknown)}")
        parts = [part for part in parts if part.name in chosen]
    path = [str(REPOSITORY), *([str(options.packages.resolve())] if options.packages else [])]
    path += os.environ.get("PYTHONPATH", "").split(os.pathsep)
    sys.path[:0] = path[1:2] if options.packages else []
    if missing := [name for name in NEEDED if find_spec(name) is None]:
        say(f"this Python lacks {', '.join(missing)}: parts that need them will fail; --packages")
    options.out.mkdir(parents=True, exist_ok=True)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(filter(None, path)),
        # The models of one part are those of the next: what is compiled is found again.
        "JAX_COMPILATION_CACHE_DIR": str((options.out / "compiled").resolve()),
        "HF_HUB_OFFLINE": "1",
    }
    if options.shapes == "tiny":  # Compiling would be most of a rehearsal.
        environment.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    results = run(parts, options.budget, options.out, environment)
    print((options.out / "table.md").read_text(), end="")
    say(f"results and table.md are in {options.out}; put the table into docs/benchmarks.md")
    raise SystemExit(not any(result["state"] == "done" for result in results))


def seconds_of(text: str) -> float:
    """Seconds of "9m", "540s", "540" or "1.5h"."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if not found or not float(found[1]):
        raise argparse.ArgumentTypeError(f"{text} is no time; 9m, for example, is one")
    return float(found[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[found[2]]


def run(
    parts: Sequence[Part], budget: float, out: Path, environment: Mapping[str, str]
) -> list[dict[str, Any]]:
    """Runs the parts within ``budget`` seconds; the results, each also a file in ``out``."""
    end, results = time.monotonic() + budget, list[dict[str, Any]]()
    for number, part in enumerate(parts):
        shares = sum(later.share for later in parts[number:])
        limit = (end - time.monotonic()) * part.share / shares
        say(
            f"{part.name}: up to {max(limit, 0):.0f} s of {max(end - time.monotonic(), 0):.0f} left"
        )
        result = {"part": part.name, "command": " ".join(part.command), "limit_s": round(limit, 1)}
        if limit < FEWEST_SECONDS:
            result |= {"state": "skipped", "seconds": 0.0, "error": "no time was left"}
        else:
            result |= run_part(part, limit, out, environment)
        say(f"{part.name}: {result['state']} in {result['seconds']:.0f} s")
        results.append(result)
        write(out / f"{number + 1:02}_{part.name}.json", json.dumps(result, indent=1))
        write(out / "table.md", table(parts, results))
    return results


def run_part(part: Part, limit: float, out: Path, environment: Mapping[str, str]) -> dict[str, Any]:
    """One part, which is ended with all that it has started, servers with their own session too."""
    started, files = time.monotonic(), [out / f"{part.name}.{name}" for name in ("out", "err")]
    mark = f"{os.getpid()}.{part.name}"
    with files[0].open("wb") as said, files[1].open("wb") as errors:
        try:
            process = subprocess.Popen(
                part.command,
                cwd=REPOSITORY,
                env={**environment, **part.environment, PART_VARIABLE: mark},
                stdout=said,
                stderr=errors,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )
        except OSError as error:
            return {"state": "failed", "seconds": 0.0, "error": str(error)}
        try:
            code: int | None = process.wait(max(limit - GRACE_SECONDS, 0.1))
        except subprocess.TimeoutExpired:
            code = None
        for number in (signal.SIGTERM, signal.SIGKILL):
            for pid in [*started_with(mark), *([process.pid] if process.poll() is None else [])]:
                with suppress(ProcessLookupError):
                    os.kill(pid, number)
            end = time.monotonic() + GRACE_SECONDS
            while (process.poll() is None or started_with(mark)) and time.monotonic() < end:
                time.sleep(0.05)
    text, tail = (file.read_text(errors="replace").strip() for file in files)
    result: dict[str, Any] = {
        "state": "cut" if code is None else "done" if code == 0 else "failed",
        "seconds": round(time.monotonic() - started, 1),
    }
    figures = parsed(text)
    if figures is not None and len(json.dumps(figures)) <= MOST_BYTES:
        result["result"] = figures
    else:
        result["result"] = {"text": text[-MOST_TEXT:]}
    if code:
        result["code"] = code
    if code != 0:
        result["error"] = tail[-MOST_TEXT:]
    return result


def started_with(mark: str) -> list[int]:
    """The processes that a part has started, by its mark; none where a system has no /proc."""
    found, entry = [], f"{PART_VARIABLE}={mark}".encode()
    for path in Path("/proc").glob("[0-9]*/environ"):
        with suppress(OSError):  # It has ended, or is another user's.
            if entry in path.read_bytes().split(b"\0"):
                found.append(int(path.parent.name))
    return found


def parsed(text: str) -> dict[str, Any] | None:
    """The JSON that a part has printed: its whole text, or its last line; a list as "rows"."""
    for candidate in (text, text.rpartition("\n")[2]):
        try:
            found = json.loads(candidate)
        except ValueError:
            continue
        if isinstance(found, list):
            return {"rows": found}
        if isinstance(found, dict):
            return found
    return None


def table(parts: Sequence[Part], results: Sequence[Mapping[str, Any]]) -> str:
    """The results so far as Markdown, with what they ran on and the goals."""
    by_name = {result["part"]: result.get("result") or {} for result in results}
    lines = ["| part | state | s | figures |", "|---|---|---:|---|"]
    for part, result in zip(parts, results, strict=False):
        try:
            found = list(part.figures(by_name[part.name], by_name)) if by_name[part.name] else []
        except (KeyError, TypeError, ValueError, IndexError):  # cut in the middle of its figures
            found = []
        if result["state"] in ("failed", "cut", "skipped"):
            last = str(result.get("error", "")).strip().rpartition("\n")[2]
            found.append(last[:160])
        cell = "; ".join(filter(None, found)).replace("|", "\\|").replace("\n", " ")
        lines.append(f"| {part.name} | {result['state']} | {result['seconds']:.0f} | {cell} |")
    devices = row_of(by_name.get("doctor", {}), "devices") or "unknown devices"
    goals = ", ".join(f"{name} {value:g}" for name, value in GOALS.items())
    day = time.strftime("%Y-%m-%d")
    return "\n".join([*lines, "", f"{day}, on {devices}. Goals: {goals}.", ""])


def row_of(doctor: Mapping[str, Any], check: str) -> str:
    """What doctor has seen at a check."""
    rows = doctor.get("rows", [])
    return next((row["seen"] for row in rows if row["check"] == check), "")


def doctor_figures(result: dict[str, Any], _: Mapping[str, Any]) -> Iterable[str]:
    rows = result["rows"]
    for check in ("product bf16", "product fp32", "copy", "all-reduce"):
        yield f"{check} {row_of(result, check)}"
    for state in ("wrong", "slow"):
        names = [row["check"] for row in rows if row["state"] == state]
        yield f"{state}: {', '.join(names)}" if names else ""


def train_figures(result: dict[str, Any], _: Mapping[str, Any]) -> Iterable[str]:
    yield f"attention {result['kernel']}, peak {result['peak_tflops']} TFLOP/s"
    for name, layout in result["layouts"].items():
        if "tokens_per_second" in layout:
            yield (
                f"{name} {layout['tokens_per_second']:,.0f} tokens/s, useful MFU "
                f"{layout['utilisation_needed']:.1%}, {layout['peak_gib']} GiB"
            )
    for pair, ratio in result["speed_ratios"].items():
        yield f"{pair} {ratio['median']}"


def scdpo_figures(result: dict[str, Any], _: Mapping[str, Any]) -> Iterable[str]:
    yield f"attention {result['kernel']}"
    for pair, ratio in result["speed_ratios"].items():
        yield f"{pair} {ratio['median']}"


def decode_figures(result: dict[str, Any], earlier: Mapping[str, Any]) -> Iterable[str]:
    rate = row_of(earlier.get("doctor", {}), "copy").partition(" GB/s")[0]
    for form, figures in result["forms"].items():
        for way, found in figures["ways"].items():
            each = found["ms_per_plan"] / found["passes"]
            text = f"{form} {way} {found['ms_per_plan']} ms, {found['passes']:.0f} passes"
            if rate and result["shape"] in WEIGHTS:
                least = 1000 * 2 * WEIGHTS[result["shape"]] / (float(rate) * 1e9)  # bfloat16
                text += f", {each / least:.2f} times the {least:.2f} ms of reading the weights"
            yield text


def serve_figures(result: dict[str, Any], _: Mapping[str, Any]) -> Iterable[str]:
    steady = result.get("steady", result)
    yield f"{steady['answered']} of {steady['requests']} answered"
    for name, value in (steady.get("latency_ms") or {}).items():
        if isinstance(value, int | float):
            yield f"{name} {value:.1f} ms"


def parts_of(shapes: str, out: Path) -> list[Part]:
    """The parts, the most valuable first."""
    out = out.resolve()
    script = str(REPOSITORY / "scripts") + "/"
    gplan = (sys.executable, "-m", "gplan_jax.cli.main")
    tiny = shapes == "tiny"
    sizes = ("tiny",) if tiny else ("qwen3-1.7b", "qwen3-4b")
    first = sizes[0]
    if tiny:
        small = "--template compact_zh --max-length 512 --batches 1 --rounds 1 --layers 1"
        train = f"--simulated 24 --batch-size 4 --micro-rows 2 {small}"
        scdpo = f"--simulated 12 --batch-size 2 {small}"
        decode = "--vocab 1088 --template compact_zh --train-rows 8 --plans 2 --prompt-tokens 0"
        decode += " --max-new-tokens 40 --forms latent"
        rates, serving, dtype = (2,), "--steady-s 3 --contexts 20", "float32"
    else:
        train = "--compute bfloat16 --batch-size 32 --micro-rows 8 --batches 2 --rounds 2"
        scdpo = "--compute bfloat16 --batch-size 16 --micro-pairs 4 --remat full --batches 1"
        decode = "--compute bfloat16 --plans 8 --forms latent"
        rates, serving, dtype = (1, 10, 100), "--steady-s 12 --contexts 200", "bfloat16"
    models = {size: out / f"models_{size}" for size in sizes}

    def python(name: str, options: str, *more: str) -> tuple[str, ...]:
        return (sys.executable, script + name, *options.split(), *more)

    def decoding(size: str) -> Part:
        where = f"--shape {size} --out {models[size]} --epochs 0 {decode}"
        return Part(f"decode_{size}", 3, python("bench_decode.py", where), decode_figures)

    def serve(size: str, qps: int) -> Part:
        model = models[size] / "picd" / "model"
        where = f"--model {model} --parts steady --steady-qps {qps} {serving}"
        command = python("bench_serve.py", where, "--serve", f"--dtype {dtype}")
        return Part(f"serve_{size}_{qps}qps", 1.5, command, serve_figures)

    config = str(REPOSITORY / "configs" / "picd_qwen3_1_7b.yaml")
    same = ("batch_size=32", "accumulation_steps=4", "--model", "qwen3-1.7b")  # as bench_train
    where = "h100:1" if tiny else "local"  # a rehearsal compiles nothing that large
    memory = (*gplan, "plan-memory", config, *same, "--topology", where, "--no-search")
    kernels = ("-m", "pytest", "-q", "-p", "no:cacheprovider", "tests/models/attention")
    exact = {"JAX_DEFAULT_MATMUL_PRECISION": "highest", "XLA_FLAGS": ""}  # the tests' are for CPUs
    chosen = [] if tiny else [decoding(sizes[1]), *(serve(sizes[1], qps) for qps in rates)]
    # JAX would take three quarters of a GPU at its start, and torch's step runs beside ours.
    shared = {"XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
    training = python("bench_train.py", f"--shape {first} {train}")
    tasks = [*gplan, "reproduce", "tasks"]
    if tiny:
        tasks += ["--task", "multiplication-2", "--arm", "picd", "--set", "rows=64"]
        tasks += ["--set", "epochs_per_stage=1", "--set", "epochs_after=1"]
    return [
        Part("doctor", 4 if tiny else 2, (*gplan, "doctor", "--json"), doctor_figures),
        Part(f"train_{first}", 5, training, train_figures, shared),
        decoding(first),
        Part(
            f"scdpo_{first}", 3, python("bench_scdpo.py", f"--shape {first} {scdpo}"), scdpo_figures
        ),
        *(serve(first, qps) for qps in rates),
        *chosen,
        Part("memory", 1, memory, memory_figures),
        Part("kernels", 1, (sys.executable, *kernels), environment={} if tiny else exact),
        Part("evidence", 1, (*tasks, "--seeds", "1", "--out", str(out / "evidence"))),
    ]


def memory_figures(result: dict[str, Any], earlier: Mapping[str, Any]) -> Iterable[str]:
    """The plan's own lines, beside what the steps of bench_train took."""
    lines = [line.strip() for line in str(result["text"]).splitlines()]
    wanted = ("peak", "fits", "source")
    yield "; ".join(" ".join(line.split()) for line in lines if line.startswith(wanted))[:200]
    for name, seen in earlier.items():
        if name.startswith("train_"):
            took = {key: layout.get("peak_gib") for key, layout in seen["layouts"].items()}
            yield f"seen in {name}: {took} GiB"


def write(path: Path, text: str) -> None:
    """Whole or not at all."""
    part = path.with_suffix(path.suffix + ".part")
    part.write_text(text, encoding="utf-8")
    part.replace(path)


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
