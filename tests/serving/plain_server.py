"""A server of a few lines, standard library only: it starts at once and answers what it is told.

python tests/serving/plain_server.py PORT [--status N] [--starts-after N] [--dies] [--deaf]
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PLAN = {
    "timings_ms": {"queue": 0.1, "prefill": 1.0, "decode": 2.0, "total": 3.2},
    "usage": {"passes": 6, "response_tokens": 50, "prompt_tokens": 300, "cached_tokens": 200},
    "passed": True,
}
ERROR = {"error": {"code": "bad_context", "message": "currenttime is empty"}}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("--status", type=int, default=200, help="of every plan request")
    parser.add_argument("--starts-after", type=int, default=0, help="times /readyz says 503 first")
    parser.add_argument("--dies", action="store_true", help="fail at once")
    parser.add_argument("--deaf", action="store_true", help="ignore SIGTERM")
    options = parser.parse_args()
    if options.dies:
        sys.exit("error: there is no model here")
    if options.deaf:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    asked = iter(range(options.starts_after))

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self._answer(200 if next(asked, None) is None else 503, {})

        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self._answer(options.status, PLAN if options.status == 200 else ERROR)

        def _answer(self, status: int, content: object) -> None:
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    print("started", flush=True)
    ThreadingHTTPServer(("127.0.0.1", options.port), Handler).serve_forever()


if __name__ == "__main__":
    main()
