"""The load generator of `gplan bench latency`; touches processes and sockets here."""
