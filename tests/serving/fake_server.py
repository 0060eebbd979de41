"""A server with an engine that has no model, as a process: what load is tried out on.

python tests/serving/fake_server.py --port 8000 --delay-s 0.05 --slots 4 --queue 16
"""

from __future__ import annotations

import argparse

from apps import models_of
from fake_engine import FakeEngine

from gplan_jax.serving.http.server import DrainingServer, listen
from gplan_jax.serving.http.settings import ServerSettings
from gplan_jax.serving.planning.app import create_app


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--delay-s", type=float, default=0.05, help="time in a slot")
    parser.add_argument("--slots", type=int, default=4)
    parser.add_argument("--queue", type=int, default=16)
    options = parser.parse_args()
    engine = FakeEngine(delay_s=options.delay_s, slots=options.slots, queue=options.queue)
    app = create_app(models_of(engine), settings=ServerSettings())
    DrainingServer(app, drain_s=5.0).run(sockets=[listen("127.0.0.1", options.port)])


if __name__ == "__main__":
    main()
