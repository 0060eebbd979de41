"""A stranger's hour: a service of one's own from nothing to plans over HTTP, by `gplan` alone.

    python scripts/stranger.py --out runs/stranger                  # gplan service init, own rows
    python scripts/stranger.py --out runs/guide --service city_guide

Own rows are written as somebody's database would, in CSV under the service's column names, with
plans and without reasoning. Every step is a command that is shown before it is run; the first that
fails ends the hour. The end is one JSON line: seconds a command, and the plan that the server gave.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
import urllib.request
from itertools import islice
from pathlib import Path

from gplan_jax.gsisr import Service, canonical_plan, parse_plan
from gplan_jax.serving.latency.latency_study import free_port
from gplan_jax.synthesis.rules.service_rules import ServiceRules
from gplan_jax.synthesis.world.data_world import world_contexts


def main() -> None:
    """Runs the hour."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--service", help="a shipped one; else one that init writes")
    parser.add_argument("--rows", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=9)
    options = parser.parse_args()
    out: Path = options.out
    out.mkdir(parents=True)
    seconds: dict[str, float] = {}

    def gplan(*words: object) -> None:
        print("$ gplan", *words, flush=True)
        started = time.monotonic()
        subprocess.run([sys.executable, "-m", "gplan_jax.cli.main", *map(str, words)], check=True)
        took = seconds.get(str(words[0]), 0.0) + time.monotonic() - started
        seconds[str(words[0])] = round(took, 1)

    service = options.service or str(out / "my_town")
    if options.service is None:
        gplan("service", "init", service)
    write_rows(service, out / "rows.csv", options.rows)
    named = ["--service", service]
    gplan("service", "check", service, "--data", out / "rows.csv")
    gplan("explain", "--data", out / "rows.csv", "--out", out / "explained.csv", *named)
    gplan("convert", "tiny", "--data", out / "explained.csv", "--out", out / "start")
    picd, scdpo = out / "picd", out / "scdpo"
    gplan("train", "service_small", f"model={out / 'start'}", f"output={picd}",
          f"data.train={out / 'explained.csv'}", f"epochs={options.epochs}")  # fmt: skip
    gplan("counterfactuals", "--data", out / "explained.csv", "--out", out / "pairs.jsonl")
    gplan("train", "scdpo_small", f"model={picd / 'model'}", f"data.train={out / 'pairs.jsonl'}",
          f"output={scdpo}", "data.max_length=1024")  # fmt: skip
    for run in (picd, scdpo):
        gplan("evaluate", "--model", run / "model", "--data", out / "explained.csv",
              "--out", run / "scores", "--limit", 60)  # fmt: skip
    gplan("compare", picd / "scores", scdpo / "scores")
    gplan("judge", "--data", out / "explained.csv", "--out", out / "judged", "--limit", 60,
          "--predictions", scdpo / "scores" / "predictions.jsonl", "--labels")  # fmt: skip
    plan = serve(scdpo / "model", service)
    print(json.dumps({"seconds": seconds, "plan": plan}, ensure_ascii=False))


def write_rows(service: str, path: Path, count: int) -> None:
    """Rows as people have them: the service's columns, and a plan for each."""
    found = Service.load(service)
    rules, contexts = ServiceRules(found.library), world_contexts(found.library, 1)
    with path.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(found.form.columns)
        for sample in islice(contexts, count):
            plan = canonical_plan(parse_plan(rules.label(sample), found.library), found.library)
            writer.writerow(sample.with_label(plan).to_dict().values())


def serve(model: Path, service: str) -> object:
    """Asks a server for a plan, as curl does; the plan."""
    port, form = free_port(), Service.load(service).form
    context = {name: column.example for name, column in form.columns.items() if column.example}
    command = [sys.executable, "-m", "gplan_jax.cli.main", "serve", "--model", str(model)]
    print("$ gplan serve --model", model, f"--port {port}", flush=True)
    server = subprocess.Popen([*command, "--port", str(port)], stdout=subprocess.DEVNULL)
    try:
        url = f"http://127.0.0.1:{port}"
        deadline = time.monotonic() + 600
        while time.monotonic() < deadline and server.poll() is None:
            try:
                urllib.request.urlopen(f"{url}/readyz", timeout=5)
                break
            except OSError:
                time.sleep(1)
        body = json.dumps({"context": context}).encode()
        print(f"$ curl -s {url}/v1/plan -H 'Content-Type: application/json' -d '{body.decode()}'")
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{url}/v1/plan", body, headers)
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.load(answer)["plan"]
    finally:
        server.terminate()
        server.wait(timeout=60)


if __name__ == "__main__":
    main()
