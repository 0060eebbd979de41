"""A process of another Python that is asked by lines and answers each with a line of JSON."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from gplan_jax.foundation import GplanError


class JsonProcess:
    """A running script of this folder; ``first`` is what it said when it was ready.

    Raises:
        GplanError: it ends before it has answered; its error stands on stderr.
    """

    def __init__(self, python: Path | str, script: str, *arguments: Path | str) -> None:
        self._script = script
        path = Path(__file__).with_name(script)
        self._process = subprocess.Popen(
            [str(python), str(path), *map(str, arguments)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.first = self._read()

    def ask(self, line: object) -> dict[str, Any]:
        """Sends a line and waits for the answer."""
        assert self._process.stdin
        self._process.stdin.write(f"{line}\n")
        self._process.stdin.flush()
        return self._read()

    def close(self) -> None:
        """Ends the process."""
        assert self._process.stdin
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout
        line = self._process.stdout.readline()
        if not line:
            code = self._process.wait()
            raise GplanError(f"{self._script} ended with exit code {code}; its error is above.")
        answer: dict[str, Any] = json.loads(line)
        return answer
