"""Models by their hub ids, from a local server that speaks the hub's interface."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import huggingface_hub.constants
import numpy as np
import pytest
from typer.testing import CliRunner

from gplan_jax.cli.main import app, describe_os_error, prepared
from gplan_jax.cli.options import run_of
from gplan_jax.data import ChatEncoder
from gplan_jax.data.tasks.gsisr_task import GsisrTask
from gplan_jax.foundation.errors import GplanError
from gplan_jax.gsisr import IntentLibrary, PromptTemplate, Sample
from gplan_jax.models import ModelRecord, load_qwen3
from gplan_jax.models.checkpoints.hub import hub_name, model_path, push_model
from gplan_jax.models.checkpoints.model_directory import model_parameters
from gplan_jax.serving.planning.serve import display_name
from tests.models.checkpoints.fake_hub import OWNER_TOKEN, STRANGER_TOKEN, FakeHub, Repo, serve_hub

NAME = "Qwen/Qwen3-tiny"
WEIGHTS = "model.safetensors"


@pytest.fixture
def hub(tiny_hf_dir: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub with one good model, and this process as one whose HF_* variables name it."""
    with serve_hub() as hub:
        files = {path.name: path.read_bytes() for path in tiny_hf_dir.iterdir()}
        files["README.md"] = b"---\nlibrary_name: transformers\nlicense: apache-2.0\n---\n# Qwen3"
        files["pytorch_model.bin"] = b"pickled" * 1000
        hub.repos[NAME] = Repo(files)
        known = huggingface_hub.constants
        monkeypatch.setattr(known, "ENDPOINT", hub.endpoint)
        template = hub.endpoint + "/{repo_id}/resolve/{revision}/{filename}"
        monkeypatch.setattr(known, "HUGGINGFACE_CO_URL_TEMPLATE", template)
        monkeypatch.setattr(known, "HF_HUB_CACHE", str(tmp_path / "cache"))
        monkeypatch.setattr(known, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(known, "HF_HUB_DISABLE_XET", True)  # A protocol of its own.
        monkeypatch.setattr(known, "HF_TOKEN_PATH", str(tmp_path / "token"))
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(known, "DOWNLOAD_CHUNK_SIZE", 1000)  # Kept on disk chunk by chunk.
        monkeypatch.chdir(tmp_path)
        yield hub


def test_a_model_is_fetched_once_and_only_what_is_needed(hub: FakeHub, tiny_hf_dir: Path) -> None:
    folder = model_path(NAME)
    assert hub_name(folder) == NAME and folder.name == hub.repos[NAME].sha
    assert {path.name for path in folder.iterdir()} == hub.repos[NAME].files.keys() - {
        "pytorch_model.bin"
    }
    sent = [path for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path]
    assert len(sent) == len(set(sent))
    hub.asked.clear()
    assert model_path(f"{NAME}@v1") == folder
    assert not [path for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path]
    # Loaded by its id, it is the model that lies in the directory.
    loaded, there = load_qwen3(NAME), load_qwen3(tiny_hf_dir)
    for path, array in model_parameters(loaded).items():
        np.testing.assert_array_equal(array, model_parameters(there)[path])


def test_paths_stay_paths(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    for given in ("runs/gone", "/no/such", "gone", "a/b/c", "./x", tmp_path):
        assert model_path(given) == Path(given)
    assert not hub.asked
    with pytest.raises(GplanError, match="--revision is for ids"):
        model_path(tmp_path, "main")


def test_an_interrupted_fetch_is_resumed(hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    size = len(hub.repos[NAME].files[WEIGHTS])
    hub.cut[WEIGHTS] = size // 2
    monkeypatch.setattr("huggingface_hub.file_download.time.sleep", lambda _: None)
    folder = model_path(NAME)  # The library asks again from where the connection broke.
    assert (folder / WEIGHTS).read_bytes() == hub.repos[NAME].files[WEIGHTS]
    ranges = [given for method, path, given in hub.asked if method == "GET" and WEIGHTS in path]
    assert ranges == ["", f"bytes={size // 2 // 1000 * 1000}-"]  # in chunks of a thousand


def test_after_a_stop_only_files_that_lack_are_fetched(hub: FakeHub, tmp_path: Path) -> None:
    from huggingface_hub import file_download

    hub.cut[WEIGHTS] = 20_000  # The other files are small, and first.
    with pytest.MonkeyPatch.context() as patch:

        def stop(*_: object) -> None:
            raise KeyboardInterrupt

        patch.setattr(file_download.time, "sleep", stop)
        patch.setattr(file_download.logger, "warning", stop)
        with pytest.raises(KeyboardInterrupt):
            model_path(NAME)
    assert not list((tmp_path / "cache").rglob(f"snapshots/*/{WEIGHTS}"))
    hub.cut.clear()
    hub.asked.clear()
    assert (model_path(NAME) / WEIGHTS).read_bytes() == hub.repos[NAME].files[WEIGHTS]
    sent = [path for method, path, _ in hub.asked if method == "GET" and "/resolve/" in path]
    assert [Path(path).name for path in sent] == [WEIGHTS]
    assert not list((tmp_path / "cache").rglob("*.incomplete"))


def test_offline_it_is_read_from_the_cache_or_named(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(GplanError, match=r"Qwen3-tiny \(revision main\).*HF_HUB_OFFLINE.*without"):
        model_path(NAME)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", False)
    folder = model_path(NAME)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    hub.asked.clear()
    assert model_path(NAME) == folder
    (folder / WEIGHTS).unlink()
    with pytest.raises(GplanError, match="not whole in the cache"):
        model_path(NAME)
    assert not hub.asked


@pytest.mark.parametrize(
    ("name", "revision", "token", "says"),
    [
        ("Qwen/Qwen3-tony", None, "", "Qwen3-tony .revision main.*neither a directory.*Check the"),
        ("Qwen/Qwen3-tony", None, STRANGER_TOKEN, "neither a directory here nor a model"),
        ("me/private", None, "", "private one.*hf auth login.*HF_TOKEN"),
        ("me/gated", None, "", "me/gated .revision main. is gated: ask for access.*HF_TOKEN"),
        ("me/gated", None, STRANGER_TOKEN, "is gated: ask for access at http.*/me/gated"),
        (NAME, "v9", "", "has no revision v9.*tree/main names its branches"),
        ("me/llama", "v1", "", "llama .revision v1. is no dense Qwen3.*'llama', expected 'qwen3'"),
        ("me/pickled", None, "", "no weights in safetensors format"),
        ("me/data", None, "", "has no config.json"),
        ("Qwen/a--b", None, "", "nor an id of the hub"),
    ],
)
def test_what_the_hub_does_not_give_is_named_with_the_mend(
    hub: FakeHub,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    revision: str | None,
    token: str,
    says: str,
) -> None:
    good = hub.repos[NAME].files
    hub.repos["me/gated"] = Repo(good, gated=True)
    hub.repos["me/private"] = Repo(good, private=True)
    llama = json.loads(good["config.json"]) | {"model_type": "llama"}
    hub.repos["me/llama"] = Repo({**good, "config.json": json.dumps(llama).encode()})
    hub.repos["me/pickled"] = Repo({k: v for k, v in good.items() if k != WEIGHTS})
    hub.repos["me/data"] = Repo({"rows.csv": b"a"})
    if token:
        monkeypatch.setenv("HF_TOKEN", token)
    with pytest.raises(GplanError) as raised:
        model_path(name, revision)
    assert re.search(says, str(raised.value), re.DOTALL), raised.value
    assert not [path for method, path, _ in hub.asked if WEIGHTS in path and method == "GET"]


def test_a_token_opens_what_is_private_or_gated(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    hub.repos["me/gated"] = Repo(hub.repos[NAME].files, gated=True, private=True)
    monkeypatch.setenv("HF_TOKEN", OWNER_TOKEN)
    assert (model_path("me/gated") / WEIGHTS).is_file()


def test_a_full_disk_is_said_before_or_in_the_middle(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    usage = shutil.disk_usage(tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(shutil, "disk_usage", lambda _: usage._replace(free=10))
        with pytest.raises(OSError) as raised:
            model_path(NAME)
    said = describe_os_error(raised.value)
    assert f"{NAME} (revision main): the disk is full" in said and "HF_HOME" in said

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("huggingface_hub.file_download._download_to_tmp_and_move", full)
        with pytest.raises(OSError) as raised:
            model_path(NAME)
    assert "run the command again" in describe_os_error(raised.value)
    assert (model_path(NAME) / WEIGHTS).is_file()


def test_commands_take_an_id_for_a_model_directory(hub: FakeHub) -> None:
    folder = prepared(lambda model: model)(model=Path(f"{NAME}@v1"))
    assert folder == model_path(NAME)
    assert display_name(folder) == NAME and run_of(folder) == "Qwen3-tiny"
    said = CliRunner().invoke(app, ["plan", "--model", f"{NAME}@v2", "--data", "rows.csv"])
    assert "has no revision v2" in str(said.exception)


def test_a_hub_that_does_not_answer_leaves_the_cache(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = model_path(NAME)
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", "http://127.0.0.1:9")
    assert model_path(NAME) == folder
    with pytest.raises(GplanError, match=r"Qwen/other.*http://127.0.0.1:9 can't be reached; check"):
        model_path("Qwen/other")


def export_to(folder: Path, **files: str) -> Path:
    folder.mkdir(exist_ok=True)
    for name, text in {"config": "{}", "gplan": "{}", **files}.items():
        (folder / f"{name}.json").write_text(text)
    (folder / WEIGHTS).write_bytes(b"\0" * 64)
    return folder


def test_a_push_is_one_commit_and_replaces_an_earlier_one(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", OWNER_TOKEN)
    first = export_to(tmp_path / "first", extra="{}")
    assert push_model("me/new", lambda: first, private=True) == f"{hub.endpoint}/me/new"
    assert hub.repos["me/new"].private
    assert hub.repos["me/new"].files.keys() == {
        ".gitattributes",
        "config.json",
        "extra.json",
        "gplan.json",
        WEIGHTS,
    }
    assert hub.repos["me/new"].files[WEIGHTS] == b"\0" * 64
    second = export_to(tmp_path / "second")
    push_model("me/new", lambda: second)
    assert hub.repos["me/new"].files.keys() == {
        ".gitattributes",
        "config.json",
        "gplan.json",
        WEIGHTS,
    }
    commits = [path for method, path, _ in hub.asked if "/commit/" in path]
    assert len(commits) == 2


@pytest.mark.parametrize(
    ("name", "token", "says"),
    [
        ("planner", OWNER_TOKEN, "it is OWNER/NAME"),
        (
            "me/new",
            "",
            "me/new.*log in .hf auth login. or set HF_TOKEN to a token that may write there",
        ),
        ("me/new", STRANGER_TOKEN, "token that may write there"),
        ("other/new", OWNER_TOKEN, "token that may write there"),
        (NAME, OWNER_TOKEN, "token that may write there"),
        ("me/model", OWNER_TOKEN, "me/model holds [0-9]+ other files .* left as it is"),
        ("me/data", OWNER_TOKEN, "holds 1 other files .rows.csv ....* and is left as it is"),
    ],
)
def test_a_push_without_rights_or_onto_other_files_ends_before_the_export(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, name: str, token: str, says: str
) -> None:
    hub.repos["me/data"] = Repo({"rows.csv": b"a", ".gitattributes": b""})
    hub.repos["me/model"] = Repo(hub.repos[NAME].files)  # Another model's weights.
    monkeypatch.setenv("HF_TOKEN", token)
    before = {name: dict(repo.files) for name, repo in hub.repos.items()}
    with pytest.raises(GplanError) as raised:
        push_model(name, lambda: pytest.fail("exported"))
    assert re.search(says, str(raised.value)), raised.value
    assert {name: repo.files for name, repo in hub.repos.items()} == before


def test_a_push_that_fails_leaves_no_repository(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("HF_TOKEN", OWNER_TOKEN)
    hub.refuse_commits = True
    with pytest.raises(GplanError, match="403"):
        push_model("me/new", lambda: export_to(tmp_path / "out"))
    with pytest.raises(OSError):  # As the export may.
        push_model("me/new", lambda: (tmp_path / "gone").read_text() and tmp_path)
    assert "me/new" not in hub.repos


def test_a_pushed_planner_is_run_by_its_id(
    hub: FakeHub, monkeypatch: pytest.MonkeyPatch, tiny_model_dir: Path, world_rows: list[Sample]
) -> None:
    """What GPlan reads beside the weights goes along: it plans as the model directory does."""
    monkeypatch.setenv("HF_TOKEN", OWNER_TOKEN)
    model = Path("runs/picd/model")
    shutil.copytree(tiny_model_dir, model)
    template = PromptTemplate.load("compact_zh")
    GsisrTask(template, IntentLibrary.load(), prompt_length=300, response="latent").save(model)
    said = CliRunner().invoke(app, ["export", str(model), "--push", "me/planner"])
    assert said.exit_code == 0, (said.output, said.exception)
    assert f"Published. The model is at {hub.endpoint}/me/planner" in said.output
    assert {"README.md", "guided/plan.lark", "prompt/user.j2"} < hub.repos[
        "me/planner"
    ].files.keys()
    fetched = model_path("me/planner")
    mine, theirs = GsisrTask.load(model), GsisrTask.load(fetched)
    encoders = ChatEncoder.load(model), ChatEncoder.load(fetched)
    assert encoders[0].latents == encoders[1].latents and theirs.response == "latent"
    for sample in world_rows[:3]:
        ids = [
            task.prompt_ids(sample, of) for task, of in zip((mine, theirs), encoders, strict=True)
        ]
        np.testing.assert_array_equal(*ids)
    np.testing.assert_array_equal(
        load_qwen3("me/planner").embedding[...], load_qwen3(model).embedding[...]
    )


def test_convert_from_the_hub_as_a_user_types_it(hub: FakeHub, tmp_path: Path) -> None:
    """HF_* variables are read when the library is imported, so in a process of its own."""
    environment = os.environ | {
        "HF_ENDPOINT": hub.endpoint,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "0",
    }

    command = [sys.executable, "-m", "gplan_jax.cli.main", "convert", NAME, "--revision", "v1"]
    done = subprocess.run(
        [*command, "--out", "models/tiny"],
        capture_output=True,
        text=True,
        env=environment,
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    assert f"Fetching {NAME} (revision v1): " in done.stderr
    base = ModelRecord.read(tmp_path / "models/tiny").metadata["base"]
    sha = hub.repos[NAME].sha
    assert base == {"name": NAME, "revision": sha, "license": "apache-2.0"}
