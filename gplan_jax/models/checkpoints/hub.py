"""Models by their ids on the Hugging Face hub: fetched into its cache, published in one commit.

The cache, the token and the offline mode are huggingface_hub's own (HF_HOME, HF_TOKEN or
``hf auth login``, HF_HUB_OFFLINE, HF_ENDPOINT).
"""

from __future__ import annotations

import errno
import io
import re
import shutil
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from gplan_jax.foundation.errors import GplanError
from gplan_jax.foundation.progress import PLAIN_LINE_SECONDS
from gplan_jax.models.checkpoints.hugging_face import INDEX, SINGLE
from gplan_jax.models.checkpoints.model_directory import RECORD, read_config

# What our commands read; not other frameworks' weights, pickles, pictures.
_FILES = ("README.md", "*.json", "*.jinja", "*.j2", "*.yaml", "merges.txt", "model*.safetensors")
_BESIDE = (".gitattributes", "guided/*.ebnf", "guided/*.lark")  # what a push writes besides
_TIMEOUT_SECONDS = 15.0
_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def model_path(given: str | Path, revision: str | None = None) -> Path:
    """The directory that ``given`` is, or into which the model of this hub id is fetched.

    An id is OWNER/NAME, or OWNER/NAME@REVISION, where no directory has that path nor OWNER is a
    directory here. ``revision`` is a branch, a tag or a commit; the main branch where left out.
    GplanError, with id, revision and mend, where the hub doesn't give a whole Qwen3 checkpoint;
    files that have arrived whole stay in its cache. OSError where the disk is full.
    """
    name, _, at = str(given).partition("@")
    if Path(given).exists() or not _ID.fullmatch(name) or Path(name).parent.is_dir():
        if revision:
            raise GplanError(f"--revision is for ids of the hub, and {given} is a path here.")
        return Path(given)
    from huggingface_hub import HfApi, errors, hf_hub_download, snapshot_download

    revision = revision or at or "main"
    about = f"{name} (revision {revision})"
    with hub_errors(name, revision):
        cached_only = False
        try:  # Once: the downloads would try a hub that can't be reached for half a minute.
            HfApi().model_info(name, revision=revision, timeout=_TIMEOUT_SECONDS)
        except errors.HfHubHTTPError as error:
            cached_only = error.response.status_code >= 500
            if not cached_only:
                raise
        except (errors.HTTPError, errors.OfflineModeIsEnabled):
            cached_only = True
        # Before gigabytes come: is it a model for us at all?
        config = Path(
            hf_hub_download(name, "config.json", revision=revision, local_files_only=cached_only)
        )
        try:
            read_config(config.parent)
        except GplanError as error:
            fault = str(error).partition(":\n")[2] or str(error)
            raise GplanError(
                f"{about} is no dense Qwen3 model that GPlan can use; name another:\n{fault}"
            ) from None
        if not cached_only:
            _announce(name, revision)
        folder = Path(
            snapshot_download(
                name,
                revision=revision,
                allow_patterns=list(_FILES),
                tqdm_class=None if sys.stderr.isatty() else _plain_bar(),
                local_files_only=cached_only,
            )
        )
    if not any((folder / weights).is_file() for weights in (SINGLE, INDEX)):
        raise GplanError(
            f"{about} has no weights in safetensors format (pickled .bin weights are not read); "
            "name another revision or model."
        )
    return folder


def push_model(name: str, export: Callable[[], Path], *, private: bool = False) -> str:
    """Publishes the directory that ``export`` writes as the model OWNER/NAME, in one commit.

    Returns its address. The repository is made where there is none; one that is there may hold
    nothing but an earlier push. Rights are asked for before the export. GplanError without them,
    or where other files are there; nothing half done is left: no files, nor a repository made here.
    """
    from huggingface_hub import HfApi, constants, errors

    if not _ID.fullmatch(name):
        raise GplanError(f"{name} can't name a model on the hub; it is OWNER/NAME.")
    api, made = HfApi(), False
    with hub_errors(name, "main", writing=True):
        try:
            there = api.list_repo_files(name)
            api.auth_check(name, write=True)
        except errors.GatedRepoError:
            raise
        except errors.RepositoryNotFoundError:
            api.create_repo(name, private=private)
            made, there = True, []
        # Weights without our record are another model's.
        ours = (*_FILES, *_BESIDE) if RECORD in there else (".gitattributes", "README.md")
        foreign = [file for file in there if not any(fnmatch(file, kind) for kind in ours)]
        if foreign:
            raise GplanError(
                f"{constants.ENDPOINT}/{name} holds {len(foreign)} other files ({foreign[0]} ...) "
                "and is left as it is; name a new repository."
            )
        try:
            # In the same commit goes what an earlier push has more: its shards, say.
            folder, about = export(), "Upload of gplan export --push"
            api.upload_folder(
                repo_id=name, folder_path=folder, commit_message=about, delete_patterns="*"
            )
        except BaseException:
            if made:
                with suppress(Exception):
                    api.delete_repo(name)
            raise
    return f"{constants.ENDPOINT}/{name}"


def origin_of(folder: Path) -> dict[str, str]:
    """What is known of where a checkpoint comes from: name, revision (commit) and license."""
    name, found = hub_name(folder), {}
    if name:
        found = {"name": name, "revision": folder.name}
    readme = folder / "README.md"
    if readme.is_file():
        header = re.match(r"---\n(.*?)\n---", readme.read_text("utf-8", "replace"), re.DOTALL)
        if header and (license := re.search(r"^license: *([\w.-]+)", header[1], re.MULTILINE)):
            found["license"] = license[1]
    return found


def hub_name(path: Path) -> str | None:
    """The id of a model that lies in the hub's cache; None for other directories."""
    if path.parent.name != "snapshots" or not path.parents[1].name.startswith("models--"):
        return None
    return path.parents[1].name.removeprefix("models--").replace("--", "/")


def _announce(name: str, revision: str) -> None:
    """Says what will be fetched and where to; OSError where the disk has no room for it."""
    from huggingface_hub import constants, snapshot_download

    files: list[Any] = snapshot_download(
        name, revision=revision, allow_patterns=list(_FILES), dry_run=True, tqdm_class=_plain_bar()
    )
    missing = [file for file in files if file.will_download]
    size = sum(file.file_size for file in missing)
    if not missing:
        return
    cache = Path(constants.HF_HUB_CACHE)
    print(
        f"Fetching {name} (revision {revision}): {len(missing)} files, {size / 1e6:,.0f} MB, into "
        f"{cache}",
        file=sys.stderr,
    )
    cache.mkdir(parents=True, exist_ok=True)
    if (free := shutil.disk_usage(cache).free) < size:
        raise OSError(errno.ENOSPC, f"{free / 1e6:,.0f} MB free for {size / 1e6:,.0f}", str(cache))


def _plain_bar() -> type:
    """The hub's progress bar as a line now and then, as elsewhere where stderr is no terminal."""
    from huggingface_hub.utils.tqdm import tqdm

    class Lines(tqdm):
        def __init__(self, *args: Any, **options: Any) -> None:
            self._last_line = time.monotonic()
            super().__init__(*args, **options | {"disable": False, "file": io.StringIO()})

        def display(self, msg: str | None = None, pos: int | None = None) -> None:
            now, total = time.monotonic(), self.total or 0
            late = now - self._last_line >= PLAIN_LINE_SECONDS
            if late and self.unit == "B" and 0 < self.n < total:  # Of bytes, not of files.
                self._last_line = now
                print(f"fetching: {self.n / 1e6:,.0f} of {total / 1e6:,.0f} MB", file=sys.stderr)

    return Lines


@contextmanager
def hub_errors(name: str, revision: str, *, writing: bool = False) -> Iterator[None]:
    """Turns what the hub's library raises for a model into errors that say the mend."""
    from huggingface_hub import constants, errors

    about, page = f"{name} (revision {revision})", f"{constants.ENDPOINT}/{name}"
    may = "write there" if writing else "read it"
    token = f"log in (hf auth login) or set HF_TOKEN to a token that may {may}"
    try:
        yield
        return
    except errors.HFValidationError as error:
        reason = f"{name} is neither a directory here nor an id of the hub: {error}"
    except errors.GatedRepoError:
        reason = f"{about} is gated: ask for access at {page}, and {token}."
    except errors.RepositoryNotFoundError:
        reason = (
            f"{name} can't be written: {token}."
            if writing
            else (
                f"{about} is neither a directory here nor a model of {constants.ENDPOINT}, or a "
                f"private one. Check the id; for a private one, {token}."
            )
        )
    except errors.RevisionNotFoundError:
        reason = f"{name} has no revision {revision}; {page}/tree/main names its branches and tags."
    except errors.LocalEntryNotFoundError:
        if constants.HF_HUB_OFFLINE:
            reason = (
                f"{about} is not whole in the cache {constants.HF_HUB_CACHE}, and HF_HUB_OFFLINE "
                "forbids to fetch it; run once without it."
            )
        else:
            reason = (
                f"{about} is neither a directory here nor whole in the cache "
                f"{constants.HF_HUB_CACHE}, and {constants.ENDPOINT} can't be reached; check the "
                "path or id, and the connection."
            )
    except errors.EntryNotFoundError:
        reason = f"{about} has no config.json, so it is no checkpoint of transformers; name one."
    except errors.HfHubHTTPError as error:
        code = error.response.status_code
        said = " ".join((error.server_message or "no reason given").split())
        mend = f"{token}." if code in (401, 403) else "run the command again later."
        reason = f"{about}: {constants.ENDPOINT} answered {code} ({said}); {mend}"
    except (errors.HTTPError, OSError) as error:
        number = getattr(error, "errno", None)
        if number in (errno.ENOSPC, errno.EDQUOT):
            full = f"{about}: the disk is full ({constants.HF_HUB_CACHE})"
            mend = "free some space, or have HF_HOME name another disk, and run the command again"
            raise OSError(number, f"{full}; {mend}") from None
        if number is not None:
            raise
        kept = "nothing is published" if writing else "files that have arrived whole are kept"
        what = "HF_HUB_OFFLINE forbids it" if constants.HF_HUB_OFFLINE else "run the command again"
        reason = f"{about}: no whole transfer ({type(error).__name__}): {kept}; {what}."
    raise GplanError(reason)
