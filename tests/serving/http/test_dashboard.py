"""The Grafana dashboard asks for metrics that the server has."""

from __future__ import annotations

import json
import re
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from gplan_jax.inference.engine.requests import EngineSnapshot
from gplan_jax.serving.http.telemetry import ServerMetrics

DASHBOARD = Path(__file__).parents[3] / "deploy" / "grafana.json"


def test_every_metric_of_the_dashboard_is_one_of_the_servers() -> None:
    metrics = ServerMetrics(
        lambda: EngineSnapshot(True, 0, 0, 8, 64, replicas={"0": True}, rows_of_passes={1: 1})
    )
    metrics.tell_models(lambda: [("model", "1")])
    families = text_string_to_metric_families(metrics.text().decode())
    kinds = {family.name: family.type for family in families}
    there = set()
    for name, kind in kinds.items():
        endings = {"counter": ("_total",), "histogram": ("_bucket", "_sum", "_count")}
        there |= {name + ending for ending in endings.get(kind, ("",))}
    board = json.loads(DASHBOARD.read_text("utf-8"))
    asked = [target["expr"] for panel in board["panels"] for target in panel["targets"]]
    asked.append(board["templating"]["list"][1]["query"]["query"])
    wanted = {name for expression in asked for name in re.findall(r"\bgplan_\w+", expression)}
    assert len(wanted) > 20
    assert wanted <= there, f"{sorted(wanted - there)} are no metrics of the server"
    assert len({panel["id"] for panel in board["panels"]}) == len(board["panels"])
