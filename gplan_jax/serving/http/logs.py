"""The server's log: one JSON object a line, without what users wrote.

A line names times, sizes, statuses and codes. Contexts are written only where the settings say so;
responses, messages that may quote a request, and keys never are.
"""

from __future__ import annotations

import json
import logging
import sys
import time
from typing import Any

logger = logging.getLogger("gplan.server")


def configure_logging() -> None:
    """Sends the server's lines, and nothing else of it, to stderr."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logger.handlers, logger.propagate = [handler], False
    logger.setLevel(logging.INFO)


def log(event: str, **fields: Any) -> None:
    """Writes one line; fields that are None are left out."""
    now = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(now)) + f".{int(now % 1 * 1000):03d}Z"
    known = {key: value for key, value in fields.items() if value is not None}
    logger.info(json.dumps({"time": stamp, "event": event, **known}, default=str))
