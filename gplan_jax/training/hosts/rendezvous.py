"""All processes of a run meet before JAX connects them, so that one that never comes has a name.

JAX's own coordination service aborts the process (a C++ dump, no Python exception) where a peer is
missing. Here process 0 listens at the coordinator's address first, on the port that JAX will use
next; every other process says who it is and waits for the verdict, which is the same for all.

One line of JSON each way: {"process": 1, "processes": 2, "host": "b"} and {"verdict": "start"},
or {"verdict": "late" or "wrong", "message": ...}.
"""

from __future__ import annotations

import json
import selectors
import socket
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gplan_jax.foundation import GplanError

LINE_BYTES, RETRY_SECONDS, CALL_SECONDS, ANSWER_SECONDS = 4096, 0.3, 5.0, 10.0


class StartTimeout(TimeoutError):
    """Not every process of the run arrived in time; to start again may mend it."""


@dataclass
class _Guest:
    """A connection to process 0, and what it has said of itself so far."""

    connection: socket.socket
    line: bytes = b""
    process: int | None = None
    waits: bool = False  # It has said who it is: it is owed a verdict.


def assemble(
    address: tuple[str, int],
    *,
    process: int,
    processes: int,
    timeout: float,
    bind: tuple[str, int] | None = None,
    hosts: Mapping[int, str] | None = None,
) -> None:
    """Returns when all processes have arrived; raises the same in each of them where one has not.

    Args:
        address: host and port of process 0.
        process: number of this process, 0 <= process < processes.
        processes: how many there are.
        timeout: seconds that process 0 waits for the others, and the others for process 0.
        bind: where process 0 listens; all its interfaces where it is not given.
        hosts: process -> name of its host, as far as known before it arrives.

    Raises:
        StartTimeout: names the processes that did not arrive.
        GplanError: the port is taken, the processes disagree about their number, or two have the
            same one.
    """
    if process == 0:
        _receive(address, bind or ("", address[1]), processes, timeout, dict(hosts or {}))
    else:
        _report(address, process, processes, timeout, dict(hosts or {}))


def _receive(
    address: tuple[str, int],
    bind: tuple[str, int],
    processes: int,
    timeout: float,
    hosts: dict[int, str],
) -> None:
    deadline = time.monotonic() + timeout
    hosts[0] = socket.gethostname()
    guests: list[_Guest] = []
    with _listen(bind) as listener, selectors.DefaultSelector() as selector:
        selector.register(listener, selectors.EVENT_READ)
        wrong = ""
        while not wrong and _missing(guests, processes) and time.monotonic() < deadline:
            for key, _ in selector.select(min(1.0, max(0.0, deadline - time.monotonic()))):
                if key.fileobj is listener:
                    guests.append(_Guest(listener.accept()[0]))
                    guests[-1].connection.setblocking(False)
                    selector.register(guests[-1].connection, selectors.EVENT_READ, guests[-1])
                    continue
                guest = key.data
                if not _hear(guest):  # It went away; a restarted one may come again.
                    selector.unregister(guest.connection)
                    guest.connection.close()
                    guests.remove(guest)
                elif not guest.waits and guest.line.endswith(b"\n"):
                    wrong = wrong or _welcome(guest, guests, processes, hosts)
        missing = _missing(guests, processes)
        if wrong:
            verdict = {"verdict": "wrong", "message": wrong}
        elif missing:
            message = _absence(missing, processes, hosts, address, timeout)
            verdict = {"verdict": "late", "message": message}
        else:
            verdict = {"verdict": "start"}
        for guest in guests:
            if guest.waits:
                _answer(guest.connection, verdict)
            else:
                guest.connection.close()
    _obey(verdict)


def _listen(bind: tuple[str, int]) -> socket.socket:
    try:
        if bind[0] in ("", "::") and socket.has_dualstack_ipv6():
            return socket.create_server(
                ("::", bind[1]), family=socket.AF_INET6, dualstack_ipv6=True
            )
        family = socket.AF_INET6 if ":" in bind[0] else socket.AF_INET
        return socket.create_server(bind, family=family)
    except OSError as error:
        raise GplanError(
            f"process 0 cannot listen on port {bind[1]} of {socket.gethostname()} "
            f"({error.strerror or error}); choose a free port in JAX_COORDINATOR_ADDRESS, or "
            "JAX_COORDINATOR_PORT where the cluster gives the address."
        ) from None


def _hear(guest: _Guest) -> bool:
    """Takes what has come in; False where the connection has ended or talks something else."""
    try:
        piece = guest.connection.recv(LINE_BYTES)
    except OSError:
        return False
    guest.line += piece
    return bool(piece) and len(guest.line) <= LINE_BYTES


def _welcome(guest: _Guest, guests: list[_Guest], processes: int, hosts: dict[int, str]) -> str:
    """Notes who the guest is; a message where it cannot belong to this run."""
    said = _parse(guest.line)
    try:
        process, told, host = int(said["process"]), int(said["processes"]), str(said["host"])
    except (KeyError, TypeError, ValueError):
        return ""  # Not one of ours: a port scan, say.
    guest.waits = True
    if told != processes:
        return (
            f"process {process} on {host} was told of {told} processes, process 0 on {hosts[0]} of "
            f"{processes}; give all the same JAX_NUM_PROCESSES."
        )
    if any(other.process == process for other in guests) or not 0 < process < processes:
        return (
            f"process {process} was started twice, on {hosts.get(process)} and on {host}; give "
            "each another JAX_PROCESS_ID."
        )
    guest.process, hosts[process] = process, host
    return ""


def _report(
    address: tuple[str, int], process: int, processes: int, timeout: float, hosts: dict[int, str]
) -> None:
    hello = {"process": process, "processes": processes, "host": socket.gethostname()}
    deadline = time.monotonic() + timeout
    reason: object = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(address, timeout=min(CALL_SECONDS, left)) as connection:
                connection.sendall(json.dumps(hello).encode() + b"\n")
                connection.settimeout(timeout + ANSWER_SECONDS)
                with connection.makefile("rb") as answers:
                    verdict = _parse(answers.readline(LINE_BYTES))
        except OSError as error:
            reason = error.strerror or error
        else:
            if "verdict" in verdict:
                return _obey(verdict)
            reason = "something else than this run answers there, or process 0 stopped"
        time.sleep(min(RETRY_SECONDS, max(0.0, deadline - time.monotonic())))
    raise StartTimeout(f"{_absence([0], processes, hosts, address, timeout)} ({reason})")


def _absence(
    missing: list[int],
    processes: int,
    hosts: dict[int, str],
    address: tuple[str, int],
    timeout: float,
) -> str:
    names = [
        f"{number} ({hosts[number]})" if number in hosts else str(number) for number in missing
    ]
    who = f"process {names[0]}" if len(names) == 1 else f"processes {', '.join(names)}"
    return (
        f"{who} of {processes} did not arrive at {address[0]}:{address[1]} within {timeout:g} s. "
        "See that the command runs on every host, that all are given the same coordinator "
        "(JAX_COORDINATOR_ADDRESS), that its name and port can be reached from there, or "
        "wait longer with GPLAN_START_TIMEOUT"
    )


def _missing(guests: list[_Guest], processes: int) -> list[int]:
    here = {guest.process for guest in guests}
    return [number for number in range(1, processes) if number not in here]


def _answer(connection: socket.socket, verdict: dict[str, str]) -> None:
    """Sends the verdict and lets the guest hang up first, which leaves our port free at once."""
    try:
        connection.settimeout(ANSWER_SECONDS)
        connection.sendall(json.dumps(verdict).encode() + b"\n")
        connection.recv(1)
    except OSError:
        pass  # It has gone; JAX's own start-up will say so.
    finally:
        connection.close()


def _obey(verdict: dict[str, Any]) -> None:
    if verdict["verdict"] == "late":
        raise StartTimeout(verdict["message"])
    if verdict["verdict"] == "wrong":
        raise GplanError(verdict["message"])


def _parse(line: bytes) -> dict[str, Any]:
    try:
        said = json.loads(line)
    except ValueError:
        return {}
    return said if isinstance(said, dict) else {}
