"""Start and end of a run of several processes, one a host: SLURM, Cloud TPU or plain variables.

JAX_COORDINATOR_ADDRESS  host:port of process 0, which must be free there
JAX_NUM_PROCESSES        how many processes the run has
JAX_PROCESS_ID           number of this process, from 0
JAX_LOCAL_DEVICE_IDS     devices of this process, e.g. 0,1; all of the host where it is not set
GPLAN_START_TIMEOUT      seconds to wait for all processes, 300 where it is not set

Under SLURM (srun), Open MPI and on Cloud TPU (also GKE) nothing need be set; what is set wins.
JAX 0.10 itself reads the first and the fourth; the second and third are read here.
"""

from __future__ import annotations

import faulthandler
import json
import os
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import jax

from gplan_jax.foundation import GplanError
from gplan_jax.models.layers.private_jax import private_jax
from gplan_jax.training.hosts.rendezvous import StartTimeout, assemble

ADDRESS, COUNT, INDEX = "JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID"
DEVICES, BIND = "JAX_LOCAL_DEVICE_IDS", "JAX_COORDINATOR_BIND_ADDRESS"
TIMEOUT, DEFAULT_TIMEOUT = "GPLAN_START_TIMEOUT", 300.0
WATCH_SECONDS, GRACE_SECONDS = 1.0, 5.0
FAILED_EXIT, STALLED_EXIT = 1, 75  # EX_TEMPFAIL of sysexits.h: to start again may mend it
# Of a process that is killed or loses its network the others hear after this time, and abort.
HEARTBEAT_SECONDS, SHUTDOWN_SECONDS = 100, 300
# What the key-value store raises where the coordinator has ended.
COORDINATOR_ENDED = jax.errors.JaxRuntimeError
_FAILURES = "gplan/failed/"


@dataclass(frozen=True)
class RunProcess:
    """One process of a run of several: what ``jax.distributed.initialize`` has to know of it."""

    address: tuple[str, int]  # host and port of process 0
    process: int
    processes: int
    devices: tuple[int, ...] | None = None  # local devices that it uses; None for all
    hosts: Mapping[int, str] = field(default_factory=dict)  # process -> host, as far as known


class PeerWatch:
    """Looks in the background whether another process has failed, and then ends this one.

    The others would wait for it in a collective for ever. A process that is killed without a word
    is noticed by JAX's own heartbeats.
    """

    def __init__(self, process: int) -> None:
        self._process, self._over = process, threading.Event()
        self._thread = threading.Thread(target=self._look, name="gplan-watch", daemon=True)
        self._thread.start()

    def end(self) -> None:
        """Stops looking; this process is on its way out."""
        self._over.set()
        self._thread.join()

    def _look(self) -> None:
        failures: list[tuple[str, str]] = []
        while not failures:
            if self._over.wait(WATCH_SECONDS):
                return
            failures = announced()
        # Often all fail alike, by bad input: then each ends by itself, with its own message.
        if self._over.wait(GRACE_SECONDS):
            return
        key, value = failures[0]
        said = json.loads(value)
        print(
            f"error: process {key.removeprefix(_FAILURES)} on {said['host']} failed, so process "
            f"{self._process} stops as well: {said['message']}",
            file=sys.stderr,
            flush=True,
        )
        if said["exit_code"] == STALLED_EXIT:
            faulthandler.dump_traceback(sys.stderr, all_threads=True)
            os._exit(STALLED_EXIT)
        # The main thread may wait in a collective that nothing interrupts. JAX's shutdown is a
        # barrier: without us the one that failed would wait there, and be aborted.
        with suppress(COORDINATOR_ENDED):
            jax.distributed.shutdown()
        os._exit(FAILED_EXIT)


def announce(message: str, exit_code: int = FAILED_EXIT) -> None:
    """Tells the other processes why this one fails, and the code that they are to end with."""
    said = {"host": socket.gethostname(), "message": message, "exit_code": exit_code}
    with suppress(COORDINATOR_ENDED):
        _store().key_value_set(f"{_FAILURES}{jax.process_index()}", json.dumps(said))


def announced() -> list[tuple[str, str]]:
    """What failing processes have told so far, by key; nothing where the coordinator has ended."""
    with suppress(COORDINATOR_ENDED):
        return _store().key_value_dir_get(_FAILURES)
    return []


def _store() -> Any:
    return private_jax("distributed").global_state.client


@contextmanager
def joined() -> Iterator[RunProcess | None]:
    """Connects the processes of the run for the length of the block; one process needs nothing.

    A process that fails inside tells the others, which then stop as well: they would wait in a
    collective for ever. GplanError for variables that contradict each other or a port that is
    taken; StartTimeout names the processes that did not arrive.
    """
    # One of several that is stopped before the loop listens must die, for the others to notice: on
    # its way out it would wait for them.
    handler = signal.signal(signal.SIGTERM, signal.SIG_DFL)
    own = initialize()
    if own is None:
        signal.signal(signal.SIGTERM, handler)
        yield None
        return
    faulthandler.enable()  # Where JAX aborts this process, the stacks of its threads are shown.
    watch = PeerWatch(own.process)
    try:
        yield own
    except SystemExit:  # Told to stop, say: then all end at the same step, and none has failed.
        watch.end()
        jax.distributed.shutdown()
        raise
    except BaseException as error:
        watch.end()
        announce(f"{type(error).__name__}: {error}")
        raise
    watch.end()
    jax.distributed.shutdown()


def initialize(environment: Mapping[str, str] = os.environ) -> RunProcess | None:
    """Connects this process, before it touches a device; None where it is the only one."""
    timeout = _timeout(environment)
    own = find_process(environment)
    if own is None:
        return None
    bind = environment.get(BIND)
    assemble(
        own.address,
        process=own.process,
        processes=own.processes,
        timeout=timeout,
        bind=_host_and_port(BIND, bind) if bind else None,
        hosts=own.hosts,
    )
    os.environ.setdefault("NCCL_DEBUG", "WARN")  # It says nothing of its faults otherwise.
    host, port = own.address
    jax.distributed.initialize(
        f"[{host}]:{port}" if ":" in host else f"{host}:{port}",
        own.processes,
        own.process,
        own.devices,
        cluster_detection_method="deactivate",
        initialization_timeout=max(1, round(timeout)),
        heartbeat_timeout_seconds=HEARTBEAT_SECONDS,
        shutdown_timeout_seconds=SHUTDOWN_SECONDS,
    )
    return own


def find_process(environment: Mapping[str, str] = os.environ) -> RunProcess | None:
    """What the variables say, completed by the cluster; None for a run of one process."""
    if environment.get(COUNT) == "1":
        return None
    given = {name: environment[name] for name in (ADDRESS, COUNT, INDEX) if environment.get(name)}
    found = {} if len(given) == 3 else _cluster(environment)
    absent = [name for name in (ADDRESS, COUNT, INDEX) if name not in given and name not in found]
    if absent and not given:
        return None
    if absent:
        raise GplanError(
            f"{', '.join(given)} is set but {', '.join(absent)} is not, and no cluster was found "
            f"that would tell; set all of {ADDRESS} (host:port of process 0), {COUNT} and {INDEX}, "
            "or none for a run of one process."
        )
    processes = _whole(COUNT, given.get(COUNT, found.get(COUNT)))
    process = _whole(INDEX, given.get(INDEX, found.get(INDEX)))
    if processes < 1 or not 0 <= process < processes:
        raise GplanError(
            f"{INDEX}={process} does not fit {COUNT}={processes}: processes are numbered from 0 to "
            f"{COUNT} - 1."
        )
    if processes == 1:
        return None
    devices = environment.get(DEVICES)
    return RunProcess(
        _host_and_port(ADDRESS, given.get(ADDRESS) or str(found[ADDRESS])),
        process,
        processes,
        tuple(_whole(DEVICES, part) for part in devices.split(","))
        if devices
        else found.get(DEVICES),
        found.get("hosts", {}),
    )


def _cluster(environment: Mapping[str, str]) -> dict[str, Any]:
    """The same values as told by the scheduler or the Cloud TPU; empty where there is none."""
    known = private_jax("clusters")
    for kind in ("OmpiCluster", "SlurmCluster", "GkeTpuCluster", "GceTpuCluster"):
        cluster = getattr(known, kind)
        if not cluster.is_env_present():
            continue
        processes = cluster.get_process_count()
        if processes == 1:
            return {COUNT: 1, INDEX: 0, ADDRESS: "localhost:0"}
        try:
            address = cluster.get_coordinator_address(
                round(_timeout(environment)), environment.get("JAX_COORDINATOR_PORT")
            )
        except RuntimeError as error:  # The name of process 0's host is not known, yet or at all.
            raise StartTimeout(f"process 0 did not arrive: {error}") from None
        found = {ADDRESS: address, COUNT: processes, INDEX: cluster.get_process_id()}
        if kind == "SlurmCluster":
            # With more than one task a node each takes one device, else all of its node's.
            if processes > int(environment.get("SLURM_STEP_NUM_NODES", processes)):
                return found | {DEVICES: (int(environment["SLURM_LOCALID"]),)}
            hosts = expand_nodes(environment["SLURM_STEP_NODELIST"])
            return found | ({"hosts": dict(enumerate(hosts))} if len(hosts) == processes else {})
        if kind == "OmpiCluster":
            return found | {DEVICES: (cluster.get_local_process_id(),)}
        hosts = cluster._get_worker_list_in_slice()
        return found | ({"hosts": dict(enumerate(hosts))} if len(hosts) == processes else {})
    return {}


def expand_nodes(text: str) -> list[str]:
    """The names in a SLURM node list, in order.

    >>> expand_nodes("gpu[01-03,7],login")
    ['gpu01', 'gpu02', 'gpu03', 'gpu7', 'login']
    """
    names: list[str] = []
    while text:
        prefix, bracket, rest = text.partition("[")
        if not bracket or "," in prefix:
            name, _, text = text.partition(",")
            names.append(name)
            continue
        inside, _, text = rest.partition("]")
        text = text.removeprefix(",")
        for part in inside.split(","):
            first, _, last = part.partition("-")
            numbers = range(int(first), int(last or first) + 1)
            names += [f"{prefix}{number:0{len(first)}d}" for number in numbers]
    return names


def _timeout(environment: Mapping[str, str]) -> float:
    text = environment.get(TIMEOUT) or str(DEFAULT_TIMEOUT)
    try:
        seconds = float(text)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < float("inf"):
        raise GplanError(f"{TIMEOUT}={text} is no number of seconds; 300, for example, is one.")
    return seconds


def _whole(name: str, text: object) -> int:
    try:
        return int(str(text))
    except ValueError:
        raise GplanError(f"{name}={text} is no whole number.") from None


def _host_and_port(name: str, text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not (colon and host and port.isdigit() and 0 < int(port) < 65536):
        raise GplanError(f"{name}={text} is not host:port; 10.0.0.1:8476, for example, is.")
    return host.strip("[]"), int(port)
