"""A scripted chat server in a teacher's place, and a teacher file that names it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.chat.servers import Server, scripted

REHEARSAL = "rehearsal_teacher:reply"


@dataclass(frozen=True)
class Rehearsal:
    """A running server and the teacher file that names it."""

    server: Server
    teacher: str

    def paid(self) -> dict[str, int]:
        """How often each request was billed."""
        paid: dict[str, int] = self.server.log()["paid"]
        return paid


Start = Callable[..., Rehearsal]


@pytest.fixture
def rehearse(tmp_path: Path) -> Iterator[Start]:
    """Starts a server by its script; ``client`` holds settings of the client, ``more`` of the
    teacher."""
    with ExitStack() as stack:
        count = 0

        def start(
            script: dict[str, Any] | None = None,
            *,
            responder: str = REHEARSAL,
            client: dict[str, Any] | None = None,
            **more: Any,
        ) -> Rehearsal:
            nonlocal count
            count += 1
            opened = scripted(tmp_path, responder=responder, name=f"script{count}", **script or {})
            server = stack.enter_context(opened)
            prices = {"prompt_price": 1.0, "completion_price": 2.0}
            config = server.config(**{"concurrency": 8, **prices, **(client or {})})
            path = tmp_path / f"teacher{count}.yaml"
            values = {"server": config.model_dump(mode="json", exclude_defaults=True), **more}
            path.write_text(json.dumps(values), encoding="utf-8")
            return Rehearsal(server, str(path))

        yield start
