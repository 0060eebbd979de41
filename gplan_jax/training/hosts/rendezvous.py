"""All processes of a run meet before JAX connects them, so that one that never comes has a name.

``jax.distributed.initialize`` has a time limit, but JAX aborts the process when it is over: a C++
dump that no Python code can catch, without the name of who is missing. So process 0 listens at the
coordinator's address first, on the port that JAX will use next; every other process says who it is
and waits for the verdict, which is the same for all.

One line of JSON each way: {"process": 1, "processes": 2, "host": "b"} and {"verdict": "start"},
or {"verdict": "late" or "wrong", "message": ...}.
"""

from __future__ import annotations

import asyncio
import json
import socket
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping
from typing import Any

from gplan_jax.foundation import GplanError

LINE_BYTES, RETRY_SECONDS, CALL_SECONDS, ANSWER_SECONDS = 4096, 0.3, 5.0, 10.0


class StartTimeout(TimeoutError):
    """Not every process of the run arrived in time; to start again may mend it."""


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

    ``address`` is host and port of process 0, ``timeout`` the seconds that it waits for the others
    and the others for it. It listens at ``bind``, on all its interfaces where that is not given.
    ``hosts`` names the hosts of processes, as far as known before they arrive.

    StartTimeout names the processes that did not arrive; GplanError where the port is taken, or the
    processes disagree about their numbers.
    """
    known = dict(hosts or {})

    def absence(missing: Iterable[int]) -> str:
        names = [
            f"{number} ({known[number]})" if number in known else f"{number}" for number in missing
        ]
        who = f"process {names[0]}" if len(names) == 1 else f"processes {', '.join(names)}"
        return (
            f"{who} of {processes} did not arrive at {address[0]}:{address[1]} within "
            f"{timeout:g} s. See that the command runs on every host, that all are given the same "
            "coordinator (JAX_COORDINATOR_ADDRESS), that its name and port can be reached from "
            "there, or wait longer with GPLAN_START_TIMEOUT"
        )

    if process == 0:
        place = bind or ("", address[1])
        try:
            if place[0] in ("", "::") and socket.has_dualstack_ipv6():
                listener = socket.create_server(
                    ("::", place[1]), family=socket.AF_INET6, dualstack_ipv6=True
                )
            else:
                family = socket.AF_INET6 if ":" in place[0] else socket.AF_INET
                listener = socket.create_server(place, family=family)
        except OSError as error:
            raise GplanError(
                f"process 0 cannot listen on port {place[1]} of {socket.gethostname()} "
                f"({error.strerror or error}); choose a free port in JAX_COORDINATOR_ADDRESS, or "
                "JAX_COORDINATOR_PORT where the cluster gives the address."
            ) from None
        verdict = asyncio.run(_receive(listener, processes, timeout, known, absence))
    else:
        verdict = _report(address, process, processes, timeout, absence)
    if verdict["verdict"] == "late":
        raise StartTimeout(verdict["message"])
    if verdict["verdict"] == "wrong":
        raise GplanError(verdict["message"])


async def _receive(
    listener: socket.socket,
    processes: int,
    timeout: float,
    hosts: dict[int, str],
    absence: Callable[[Iterable[int]], str],
) -> dict[str, str]:
    """Process 0: waits for the others, tells all that came the verdict, and returns it.

    ``hosts`` is filled in as processes arrive; ``absence`` writes the message about missing ones.
    """
    hosts[0] = socket.gethostname()
    arrived = {0}
    verdict: asyncio.Future[dict[str, str]] = asyncio.get_running_loop().create_future()
    conversations: set[asyncio.Future[Any]] = set()

    def settle(kind: str, message: str) -> None:
        if not verdict.done():
            verdict.set_result({"verdict": kind, "message": message})

    def take_in(line: bytes) -> int | None:
        """The process that speaks; None where it is none of a run, a port scan, say."""
        try:
            said = json.loads(line)
            process, told, host = int(said["process"]), int(said["processes"]), str(said["host"])
        except (KeyError, TypeError, ValueError):
            return None
        if told != processes:
            settle(
                "wrong",
                f"process {process} on {host} was told of {told} processes, process 0 on "
                f"{hosts[0]} of {processes}; give all the same JAX_NUM_PROCESSES.",
            )
        elif process in arrived or not 0 < process < processes:
            settle(
                "wrong",
                f"process {process} was started twice, on {hosts.get(process)} and on {host}; "
                "give each another JAX_PROCESS_ID.",
            )
        else:
            arrived.add(process)
            hosts[process] = host
            if len(arrived) == processes:
                settle("start", "")
        return process

    async def before_verdict(coming: Coroutine[Any, Any, bytes]) -> bytes | None:
        reading = asyncio.create_task(coming)
        either: list[asyncio.Future[Any]] = [reading, verdict]
        await asyncio.wait(either, return_when=asyncio.FIRST_COMPLETED)
        if reading.done():
            return reading.result()
        reading.cancel()
        await asyncio.wait({reading})
        return None

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        own_task = asyncio.current_task()
        assert own_task is not None
        conversations.add(own_task)
        process = None
        try:
            process = take_in(await before_verdict(reader.readline()) or b"")
            if process is not None:
                # Nothing more comes from it but the end of its connection.
                await before_verdict(reader.read(1))
            if process is not None and verdict.done():
                writer.write(json.dumps(verdict.result()).encode() + b"\n")
                # The side that hangs up first keeps its port for a while, and JAX wants ours now.
                await asyncio.wait_for(reader.read(1), ANSWER_SECONDS)
        except (OSError, ValueError):
            pass  # It has gone, or talks something else; JAX's own start-up will say so.
        finally:
            if not verdict.done():
                arrived.discard(process or -1)  # It died; a restarted one may come again.
            writer.close()

    server = await asyncio.start_server(converse, sock=listener, limit=LINE_BYTES)
    await asyncio.wait({verdict}, timeout=timeout)
    if not verdict.done():
        settle("late", absence(sorted(set(range(processes)) - arrived)))
    server.close()
    if conversations:
        await asyncio.wait(conversations)
    return verdict.result()


def _report(
    address: tuple[str, int],
    process: int,
    processes: int,
    timeout: float,
    absence: Callable[[Iterable[int]], str],
) -> dict[str, str]:
    """Any other process: says who it is, again and again until process 0 answers."""
    hello = {"process": process, "processes": processes, "host": socket.gethostname()}
    deadline = time.monotonic() + timeout
    reason: object = "no answer"
    while (left := deadline - time.monotonic()) > 0:
        try:
            with socket.create_connection(address, timeout=min(CALL_SECONDS, left)) as connection:
                connection.sendall(json.dumps(hello).encode() + b"\n")
                connection.settimeout(timeout + ANSWER_SECONDS)
                with connection.makefile("rb") as answers:
                    verdict = json.loads(answers.readline(LINE_BYTES))
                    if isinstance(verdict, dict) and "verdict" in verdict:
                        return verdict
        except OSError as error:
            reason = error.strerror or error
        except ValueError:
            reason = "something else than this run answers there, or process 0 stopped"
        time.sleep(min(RETRY_SECONDS, max(0.0, deadline - time.monotonic())))
    return {"verdict": "late", "message": f"{absence([0])} ({reason})"}
