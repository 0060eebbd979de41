"""Whether a server lets requests in."""

from __future__ import annotations

from dataclasses import dataclass

from gplan_jax.inference.requests import Engine
from gplan_jax.serving.errors import draining, starting


@dataclass
class Gate:
    """The server's own state beside its engine's; it is used on the event loop alone.

    Attributes:
        draining: the server is about to stop and takes no plan requests.
        in_flight: HTTP requests that have come and whose response is not sent to its end.
    """

    engine: Engine
    draining: bool = False
    in_flight: int = 0

    def check(self) -> None:
        """Raises ApiError (503) where no plan request is taken now."""
        if self.draining:
            raise draining()
        if not self.engine.snapshot().ready:
            raise starting()
