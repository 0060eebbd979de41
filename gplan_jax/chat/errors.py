"""How a request can end without an answer: one row's fault, or a reason to stop the run."""

from __future__ import annotations

from gplan_jax.foundation import GplanError


class RequestFailed(GplanError):
    """This one request has no answer; the others can go on, and the caller records its row.

    The server refused it (400, 413, 422), filtered it, or its attempts were used up while others
    got through. Failures are never cached: the request is sent again when the run is repeated.
    """


class ServerUnavailable(GplanError):
    """No request gets through: the run stops, and goes on from the cache when it is repeated."""


class BudgetSpent(GplanError):
    """The next request could overrun the budget: the run stops; what is paid for is cached."""
