"""The launch scripts: they parse, agree with themselves, and know gplan's exit codes."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from gplan_jax.cli.main import BAD_INPUT
from gplan_jax.training.resume.preemption import RunStopped

LAUNCH = Path(__file__).resolve().parents[3] / "scripts" / "launch"
SHELL = ("slurm.sbatch", "tpu_slice.sh")
STOPPED = RunStopped("SIGTERM", 143, 1, 2).exit_code


@pytest.mark.parametrize("name", SHELL)
def test_shell_scripts_parse(name: str) -> None:
    subprocess.run(["bash", "-n", LAUNCH / name], check=True)


@pytest.mark.parametrize("name", SHELL)
def test_shell_scripts_are_clean(name: str) -> None:
    if shutil.which("shellcheck") is None:
        pytest.skip("shellcheck is not installed")
    subprocess.run(["shellcheck", LAUNCH / name], check=True)


def stub(folder: Path, name: str, body: str) -> None:
    """A command that stands in for one of the cluster's."""
    folder.mkdir(exist_ok=True)
    (folder / name).write_text(f"#!/bin/bash\n{body}\n")
    (folder / name).chmod(0o755)


def launch(script: str, folder: Path, *arguments: str, **variables: str) -> tuple[int, str]:
    """Exit code of a script, and what the stubs wrote down."""
    calls = folder / "calls"
    calls.write_text("")
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", LAUNCH / script, *arguments],
        env=os.environ | {"PATH": path, "CALLS": str(calls)} | variables,
    )
    return done.returncode, calls.read_text()


@pytest.mark.parametrize(("code", "again"), [(0, False), (STOPPED, True), (BAD_INPUT, False)])
def test_slurm_queues_again_only_what_was_told_to_stop(
    code: int, again: bool, tmp_path: Path
) -> None:
    stub(tmp_path / "bin", "srun", f'echo "srun $*" >>"$CALLS"; exit {code}')
    stub(tmp_path / "bin", "scontrol", 'echo "scontrol $*" >>"$CALLS"')
    run = tmp_path / "run"
    ended, calls = launch(
        "slurm.sbatch", tmp_path, "epochs=3", RUN=str(run), CONFIG="c.yaml", SLURM_JOB_ID="12"
    )
    assert ended == code
    assert f"gplan train c.yaml output={run} epochs=3\n" in calls
    assert ("scontrol requeue 12" in calls) == again


def test_slurm_resumes_a_run_that_is_there(tmp_path: Path) -> None:
    stub(tmp_path / "bin", "srun", 'echo "$*" >>"$CALLS"')
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.yaml").touch()
    _, calls = launch("slurm.sbatch", tmp_path, RUN=str(run), CONFIG="c.yaml", SLURM_JOB_ID="12")
    assert calls.endswith("--resume\n")


def test_slurm_needs_a_run_and_a_config(tmp_path: Path) -> None:
    code, calls = launch("slurm.sbatch", tmp_path, RUN="", CONFIG="c.yaml")
    assert code != 0 and not calls


@pytest.mark.parametrize("resume", [False, True])
def test_the_command_for_a_slice_runs_on_every_worker_and_resumes(
    resume: bool, tmp_path: Path
) -> None:
    home, run = tmp_path / "home", tmp_path / "a run"
    (home / "gplan-jax" / ".venv" / "bin").mkdir(parents=True)
    (home / "gplan-jax" / ".venv" / "bin" / "activate").touch()
    if resume:
        run.mkdir()
        (run / "config.yaml").touch()
    # gcloud's stand-in runs the command in a shell, as each worker does.
    stub(tmp_path / "bin", "gcloud", 'echo "$*" >>"$CALLS"; bash -c "${8#--command=}"')
    stub(tmp_path / "bin", "gplan", 'printf "gplan:%s\\n" "$@" >>"$CALLS"')
    code, calls = launch(
        "tpu_slice.sh", tmp_path, "tpu-1", "zone-a", "c.yaml", str(run), "a=b c", HOME=str(home)
    )
    assert code == 0
    assert "compute tpus tpu-vm ssh tpu-1 --zone=zone-a --worker=all" in calls
    words = [line.removeprefix("gplan:") for line in calls.splitlines() if "gplan:" in line]
    assert words == ["train", "c.yaml", f"output={run}", "a=b c"] + ["--resume"] * resume


def test_the_kubernetes_job_agrees_with_itself() -> None:
    service, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    name, spec = job["metadata"]["name"], job["spec"]
    pod: dict[str, Any] = spec["template"]["spec"]
    (container,) = pod["containers"]
    values = {entry["name"]: entry.get("value") for entry in container["env"]}

    assert (service["kind"], job["kind"]) == ("Service", "Job")
    assert spec["completionMode"] == "Indexed"
    nodes = spec["completions"]
    assert spec["parallelism"] == nodes == int(values["JAX_NUM_PROCESSES"])
    assert pod["subdomain"] == service["metadata"]["name"]
    assert service["spec"]["clusterIP"] == "None"
    assert service["spec"]["selector"] == {"job-name": name}
    host, port = values["JAX_COORDINATOR_ADDRESS"].split(":")
    assert host == f"{name}-0.{pod['subdomain']}"
    assert int(port) == container["ports"][0]["containerPort"]

    # A failure policy needs pods that are never restarted in place.
    assert pod["restartPolicy"] == "Never"
    by_code = {
        rule["onExitCodes"]["values"][0]: (rule["action"], rule["onExitCodes"]["containerName"])
        for rule in spec["podFailurePolicy"]["rules"]
        if "onExitCodes" in rule
    }
    assert by_code == {
        BAD_INPUT: ("FailJob", container["name"]),
        STOPPED: ("Ignore", container["name"]),
    }
    volumes = {volume["name"] for volume in pod["volumes"]}
    assert {mount["name"] for mount in container["volumeMounts"]} == volumes


@pytest.mark.parametrize("resume", [False, True])
def test_the_pods_command_resumes_a_run_that_is_there(resume: bool, tmp_path: Path) -> None:
    _, job = yaml.safe_load_all((LAUNCH / "kubernetes.yaml").read_text())
    (container,) = job["spec"]["template"]["spec"]["containers"]
    (program,) = container["args"]
    if resume:
        (tmp_path / "runs" / "picd").mkdir(parents=True)
        (tmp_path / "runs" / "picd" / "config.yaml").touch()
    stub(tmp_path / "bin", "gplan", 'echo "$@"')
    done = subprocess.run(
        [*container["command"], program.replace("/shared", str(tmp_path))],
        env=os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.startswith("train picd_qwen3_1_7b output=")
    assert done.stdout.rstrip().endswith("--resume") == resume
