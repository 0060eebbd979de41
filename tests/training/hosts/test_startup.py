"""What the variables and clusters say, and processes that meet, or do not."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from gplan_jax.foundation import GplanError
from gplan_jax.models.layers.private_jax import private_jax
from gplan_jax.training.hosts import rendezvous
from gplan_jax.training.hosts.rendezvous import StartTimeout, assemble
from gplan_jax.training.hosts.startup import RunProcess, expand_nodes, find_process, initialize

PLAIN = {
    "JAX_COORDINATOR_ADDRESS": "10.0.0.1:8476",
    "JAX_NUM_PROCESSES": "4",
    "JAX_PROCESS_ID": "2",
}
SLURM = {
    "SLURM_JOB_ID": "5000",
    "SLURM_STEP_NODELIST": "gpu[08-10]",
    "SLURM_STEP_NUM_NODES": "3",
    "SLURM_NTASKS": "3",
    "SLURM_PROCID": "1",
    "SLURM_LOCALID": "0",
}


@pytest.fixture
def slurm(monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """The variables of a task of SLURM, set."""
    for name, value in SLURM.items():
        monkeypatch.setenv(name, value)
    return dict(os.environ)


@pytest.fixture
def port() -> int:
    with socket.create_server(("localhost", 0)) as free:
        return int(free.getsockname()[1])


def test_a_run_of_one_process_needs_no_setting_and_does_nothing() -> None:
    assert find_process({}) is None
    assert find_process({"JAX_NUM_PROCESSES": "1"}) is None
    assert find_process(PLAIN | {"JAX_NUM_PROCESSES": "1", "JAX_PROCESS_ID": "0"}) is None
    assert initialize({}) is None


def test_plain_variables() -> None:
    assert find_process(PLAIN) == RunProcess(("10.0.0.1", 8476), process=2, processes=4)
    six = find_process(PLAIN | {"JAX_COORDINATOR_ADDRESS": "[fe80::1]:80"})
    assert six is not None and six.address == ("fe80::1", 80)
    some = find_process(PLAIN | {"JAX_LOCAL_DEVICE_IDS": "0,3"})
    assert some is not None and some.devices == (0, 3)


def test_slurm_with_one_task_a_node_takes_all_its_devices(slurm: dict[str, str]) -> None:
    place = find_process(slurm)
    assert place is not None
    assert place.address[0] == "gpu08" and place.address[1] > 1024
    assert (place.process, place.processes, place.devices) == (1, 3, None)
    assert place.hosts == {0: "gpu08", 1: "gpu09", 2: "gpu10"}


def test_slurm_with_a_task_a_device(slurm: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "12")
    monkeypatch.setenv("SLURM_LOCALID", "3")
    place = find_process(dict(os.environ))
    assert place is not None and (place.processes, place.devices) == (12, (3,))


def test_what_is_set_wins_over_the_cluster(slurm: dict[str, str]) -> None:
    place = find_process(slurm | {"JAX_COORDINATOR_ADDRESS": "other:99"})
    assert place is not None and (place.address, place.process) == (("other", 99), 1)
    assert find_process(slurm | {"JAX_NUM_PROCESSES": "1"}) is None


def test_a_slurm_job_of_one_task_is_a_run_of_one_process(
    slurm: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLURM_NTASKS", "1")
    assert find_process(dict(os.environ)) is None


def test_a_slice_of_gke_tells_all(monkeypatch: pytest.MonkeyPatch) -> None:
    clusters = private_jax("clusters")
    monkeypatch.setattr(clusters.GkeTpuCluster, "is_env_present", lambda: True)
    monkeypatch.setenv("TPU_WORKER_HOSTNAMES", "localhost,b.gplan")
    monkeypatch.setenv("TPU_WORKER_ID", "1")
    monkeypatch.setenv("TPU_SKIP_MDS_QUERY", "1")
    for name in ("MEGASCALE_COORDINATOR_ADDRESS", "MEGASCALE_NUM_SLICES", "MEGASCALE_SLICE_ID"):
        monkeypatch.setenv(name, "")
    place = find_process(dict(os.environ))
    assert place is not None
    assert (place.address[0], place.process, place.processes) == ("localhost", 1, 2)
    assert place.hosts == {0: "localhost", 1: "b.gplan"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("node1", ["node1"]),
        ("a,b,c", ["a", "b", "c"]),
        ("gpu[01-03,7],login", ["gpu01", "gpu02", "gpu03", "gpu7", "login"]),
        ("login,gpu[9-10],x[1]", ["login", "gpu9", "gpu10", "x1"]),
    ],
)
def test_node_lists(text: str, names: list[str]) -> None:
    assert expand_nodes(text) == names


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"JAX_COORDINATOR_ADDRESS": ""}, ["JAX_COORDINATOR_ADDRESS is not", "host:port"]),
        ({"JAX_NUM_PROCESSES": ""}, ["JAX_NUM_PROCESSES is not"]),
        ({"JAX_COORDINATOR_ADDRESS": "", "JAX_PROCESS_ID": ""}, ["ADDRESS, JAX_PROCESS_ID is not"]),
        ({"JAX_PROCESS_ID": "4"}, ["JAX_PROCESS_ID=4", "JAX_NUM_PROCESSES=4", "from 0"]),
        ({"JAX_PROCESS_ID": "-1"}, ["JAX_PROCESS_ID=-1"]),
        ({"JAX_PROCESS_ID": "two"}, ["JAX_PROCESS_ID=two is no whole number"]),
        ({"JAX_NUM_PROCESSES": "0"}, ["JAX_NUM_PROCESSES=0"]),
        ({"JAX_COORDINATOR_ADDRESS": "10.0.0.1"}, ["JAX_COORDINATOR_ADDRESS=10.0.0.1", "8476"]),
        ({"JAX_COORDINATOR_ADDRESS": "a:99999"}, ["JAX_COORDINATOR_ADDRESS=a:99999"]),
        ({"JAX_LOCAL_DEVICE_IDS": "0,x"}, ["JAX_LOCAL_DEVICE_IDS=x"]),
        ({"GPLAN_START_TIMEOUT": "soon"}, ["GPLAN_START_TIMEOUT=soon", "seconds"]),
        ({"GPLAN_START_TIMEOUT": "-3"}, ["GPLAN_START_TIMEOUT=-3"]),
        ({"JAX_COORDINATOR_BIND_ADDRESS": "here"}, ["JAX_COORDINATOR_BIND_ADDRESS=here"]),
    ],
)
def test_settings_that_cannot_be_are_named(changes: dict[str, str], words: list[str]) -> None:
    with pytest.raises(GplanError) as error:
        initialize(PLAIN | changes)
    assert all(word in str(error.value) for word in words)


class Meeting:
    """Processes as threads, each of which ends well or with an error."""

    def __init__(self, port: int, *, timeout: float = 20.0) -> None:
        self.ends: dict[str, Exception | None] = {}
        self._address, self._timeout = ("localhost", port), timeout
        self._threads: list[threading.Thread] = []

    def join(self, process: int, processes: int, name: str | None = None) -> None:
        def run() -> None:
            end: Exception | None = None
            try:
                assemble(
                    self._address,
                    process=process,
                    processes=processes,
                    timeout=self._timeout,
                    hosts={2: "gpu9"},
                )
            except (GplanError, StartTimeout) as error:
                end = error
            self.ends[name or str(process)] = end

        self._threads.append(threading.Thread(target=run))
        self._threads[-1].start()

    def end(self) -> dict[str, Exception | None]:
        for thread in self._threads:
            thread.join(60)
        return self.ends


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 1, 0)])
def test_all_meet_in_any_order_and_leave_the_port_free(port: int, order: tuple[int, ...]) -> None:
    meeting = Meeting(port)
    for process in order:
        meeting.join(process, 3)
        time.sleep(0.2)
    assert meeting.end() == {"0": None, "1": None, "2": None}
    socket.create_server(("localhost", port)).close()


def test_one_that_never_comes_is_named_on_all_that_came(port: int) -> None:
    meeting = Meeting(port, timeout=1.0)
    meeting.join(0, 3)
    meeting.join(1, 3)
    ends = meeting.end()
    for end in ends.values():
        assert isinstance(end, StartTimeout)
        assert f"process 2 (gpu9) of 3 did not arrive at localhost:{port} within 1 s" in str(end)
        assert "GPLAN_START_TIMEOUT" in str(end)
    assert len(ends) == 2


def test_where_process_0_never_comes_the_others_name_it(port: int) -> None:
    meeting = Meeting(port, timeout=1.0)
    meeting.join(1, 2)
    end = meeting.end()["1"]
    assert isinstance(end, StartTimeout)
    assert "process 0 of 2" in str(end) and "JAX_COORDINATOR_ADDRESS" in str(end)


def test_a_process_that_dies_and_comes_again_is_waited_for(port: int) -> None:
    meeting = Meeting(port)
    meeting.join(0, 2)
    deadline = time.monotonic() + 10
    while time.monotonic() < deadline:
        try:
            dying = socket.create_connection(("localhost", port))
            break
        except OSError:
            time.sleep(0.05)
    dying.sendall(b'{"process": 1, "processes": 3')  # It dies in the middle of a word,
    dying.close()
    scan = socket.create_connection(("localhost", port))  # and somebody else looks in.
    scan.sendall(b"GET / HTTP/1.1\r\n\r\n")
    meeting.join(1, 2)
    assert meeting.end() == {"0": None, "1": None}
    scan.close()


@pytest.mark.parametrize(
    ("guests", "words"),
    [
        ([(1, 3), (1, 3)], ["process 1 was started twice", "JAX_PROCESS_ID"]),
        ([(1, 5), (2, 3)], ["process 1", "told of 5 processes", "of 3", "JAX_NUM_PROCESSES"]),
    ],
)
def test_processes_that_contradict_each_other_all_hear_why(
    port: int, guests: list[tuple[int, int]], words: list[str]
) -> None:
    meeting = Meeting(port, timeout=2.0)
    meeting.join(0, 3)
    for number, (process, processes) in enumerate(guests):
        meeting.join(process, processes, name=f"guest {number}")
        time.sleep(0.3)
    ends = meeting.end()
    assert isinstance(ends["0"], GplanError)
    assert all(word in str(ends["0"]) for word in words)
    assert str(ends["guest 0"]) == str(ends["0"])


def test_a_port_that_is_taken_is_named(port: int) -> None:
    with (
        socket.create_server(("localhost", port)),
        pytest.raises(GplanError, match=f"cannot listen on port {port}.*JAX_COORDINATOR"),
    ):
        assemble(("localhost", port), process=0, processes=2, timeout=1.0, bind=("127.0.0.1", port))


def start(program: list[str], port: int, process: int, timeout: str) -> subprocess.Popen[str]:
    environment = {
        "JAX_COORDINATOR_ADDRESS": f"localhost:{port}",
        "JAX_NUM_PROCESSES": "2",
        "JAX_PROCESS_ID": str(process),
        "GPLAN_START_TIMEOUT": timeout,
        "JAX_PLATFORMS": "cpu",
    }
    return subprocess.Popen(
        [sys.executable, *program],
        env=os.environ | environment,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_gplan_train_names_the_host_that_never_arrives(port: int, tmp_path: Path) -> None:
    config = tmp_path / "config.yaml"
    output = tmp_path / "run"
    config.write_text(
        f"{{mode: direct_sft, model: none, output: {output}, data: {{train: none.csv}}}}"
    )
    alone = start(["-m", "gplan_jax.cli.main", "train", str(config)], port, 0, timeout="2")
    message = alone.communicate(timeout=60)[1]
    assert alone.returncode == 1
    assert message.startswith("error: process 1 of 2 did not arrive")
    assert message.count("\n") == 1 and not output.exists()


FAILING = """
import sys, time
import jax
from gplan_jax.foundation import GplanError
from gplan_jax.models.layers.private_jax import private_jax
from gplan_jax.training.hosts.startup import joined
with joined() as place:
    assert jax.process_count() == 2 and jax.process_index() == place.process
    if place.process == int(sys.argv[1]):
        raise GplanError("rows.csv, row 7: no label")
    time.sleep(600)  # As in a collective: it waits for the one that failed.
"""


@pytest.mark.parametrize("failing", [pytest.param(0, marks=pytest.mark.slow), 1])
def test_where_one_process_fails_the_other_ends_too_and_says_why(port: int, failing: int) -> None:
    both = [start(["-c", FAILING, str(failing)], port, process, "60") for process in (0, 1)]
    messages = [process.communicate(timeout=120)[1] for process in both]
    assert [process.returncode for process in both] == [1, 1]
    assert "GplanError: rows.csv, row 7: no label" in messages[failing]
    assert f"process {failing} on {socket.gethostname()} failed" in messages[1 - failing]
    assert "rows.csv, row 7: no label" in messages[1 - failing]
    assert "Check failure stack trace" not in "".join(messages)


def test_the_answer_of_a_stranger_is_no_verdict(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rendezvous, "RETRY_SECONDS", 0.05)
    with socket.create_server(("localhost", port)) as server:
        server.settimeout(0.2)
        over = threading.Event()

        def answer() -> None:
            while not over.is_set():
                try:
                    with server.accept()[0] as connection:
                        connection.sendall(b"SSH-2.0-OpenSSH\r\n")
                except TimeoutError:
                    continue

        thread = threading.Thread(target=answer)
        thread.start()
        meeting = Meeting(port, timeout=1.0)
        meeting.join(1, 2)
        end = meeting.end()["1"]
        over.set()
        thread.join()
    assert isinstance(end, StartTimeout) and "something else" in str(end)
