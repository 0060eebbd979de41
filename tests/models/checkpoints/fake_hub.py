"""A small hub on a local port: the part of its HTTP interface that fetching and pushing take."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import unquote, urlparse

OWNER_TOKEN, STRANGER_TOKEN = "hf_owner", "hf_stranger"


@dataclass
class Repo:
    files: dict[str, bytes]
    gated: bool = False
    private: bool = False
    revisions: tuple[str, ...] = ("main", "v1")

    @property
    def sha(self) -> str:
        return hashlib.sha1(repr(sorted(self.files.items())).encode()).hexdigest()


@dataclass
class FakeHub:
    """``repos`` by id; ``cut``: bytes of a file until the connection drops; ``asked`` logs."""

    repos: dict[str, Repo] = field(default_factory=dict)
    cut: dict[str, int] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)  # method, path, range
    blobs: dict[str, bytes] = field(default_factory=dict)
    refuse_commits: bool = False
    endpoint: str = ""


@contextmanager
def serve_hub() -> Iterator[FakeHub]:
    hub = FakeHub()

    class Handler(_Handler):
        the_hub = hub

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    hub.endpoint = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield hub
    finally:
        server.shutdown()
        server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    the_hub: FakeHub

    def log_message(self, *_: Any) -> None:
        pass

    def answer(self, code: int, body: Any = b"", **headers: str) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(code)
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    @property
    def token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def readable(self, name: str, revision: str) -> Repo | None:
        """The repository, if this caller may read it; else it was answered as the hub does."""
        repo = self.the_hub.repos.get(name)
        if repo is None or (repo.private and self.token != OWNER_TOKEN):
            code = 404 if self.token else 401
            self.answer(code, X_Error_Code="RepoNotFound", X_Error_Message="Repository not found")
            return None
        if repo.gated and self.token != OWNER_TOKEN:
            code, why = (403, "ask for access") if self.token else (401, "log in")
            self.answer(code, X_Error_Code="GatedRepo", X_Error_Message=why)
            return None
        if revision not in (*repo.revisions, repo.sha):
            self.answer(404, X_Error_Code="RevisionNotFound", X_Error_Message="Invalid rev id")
            return None
        return repo

    def do_GET(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.the_hub.asked.append((self.command, path, self.headers.get("Range", "")))
        if path == "/api/whoami-v2":
            known = self.token == OWNER_TOKEN
            self.answer(*(200, {"name": "me", "type": "user"}) if known else (401, {}))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/auth-check(/write)?", path):
            if self.readable(found[1], "main"):
                may = not found[2] or (self.token == OWNER_TOKEN and found[1].startswith("me/"))
                self.answer(*(200, {}) if may else (403, {"error": "no rights"}))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/(revision|tree)/(.+))?", path):
            name, what, revision = found[1], found[2], found[3] or "main"
            if repo := self.readable(name, revision):
                entries = [
                    {"type": "file", "path": p, "size": len(d), "oid": hashlib.sha1(d).hexdigest()}
                    for p, d in repo.files.items()
                ]
                names = [{"rfilename": p} for p in repo.files]
                about = {"id": name, "sha": repo.sha, "siblings": names, "private": repo.private}
                self.answer(200, entries if what == "tree" else about)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            if repo := self.readable(found[1], found[2]):
                self.send_file(repo, found[3])
        else:
            self.answer(404)

    do_HEAD = do_GET

    def send_file(self, repo: Repo, file: str) -> None:
        about = {"X_Repo_Commit": repo.sha}
        if file not in repo.files:
            self.answer(404, X_Error_Code="EntryNotFound", **about)
            return
        data = repo.files[file]
        about |= {"ETag": f'"{hashlib.sha1(data).hexdigest()}"', "Accept_Ranges": "bytes"}
        if (given := self.headers.get("Range")) and (found := re.fullmatch(r"bytes=(\d+)-", given)):
            start = int(found[1])
            about["Content_Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
            self.answer(206, data[start:], **about)
            return
        cut = self.the_hub.cut.get(file)
        if cut is None or self.command == "HEAD":
            self.answer(200, data, **about)
            return
        self.send_response(200)
        for name, value in about.items():
            self.send_header(name.replace("_", "-"), value)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:cut])
        self.close_connection = True

    def do_POST(self) -> None:
        path = unquote(urlparse(self.path).path)
        self.the_hub.asked.append((self.command, path, ""))
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if self.headers.get("Transfer-Encoding") == "chunked":
            body = self.read_chunks()
        hub = self.the_hub
        if self.token != OWNER_TOKEN:
            self.answer(403 if self.token else 401, {"error": "no rights"}, X_Error_Message="no")
        elif path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked.get('organization') or 'me'}/{asked['name']}"
            if not name.startswith("me/"):
                self.answer(403, {"error": "no rights"}, X_Error_Message="You can't write there")
            elif name in hub.repos:
                self.answer(409, {"url": f"{hub.endpoint}/{name}"})
            else:
                hub.repos[name] = Repo(
                    {".gitattributes": b""}, private=asked.get("visibility") == "private"
                )
                self.answer(200, {"url": f"{hub.endpoint}/{name}", "id": name, "name": name})
        elif path == "/api/validate-yaml":
            self.answer(200, {"warnings": [], "errors": []})
        elif "/preupload/" in path:
            files = json.loads(body)["files"]
            modes = [
                {
                    "path": f["path"],
                    "uploadMode": "lfs" if f["path"].endswith(".safetensors") else "regular",
                    "shouldIgnore": False,
                    "oid": None,
                }
                for f in files
            ]
            self.answer(200, {"files": modes})
        elif path.endswith("/info/lfs/objects/batch"):
            objects = [
                {**one, "actions": {"upload": {"href": f"{hub.endpoint}/lfs/{one['oid']}"}}}
                for one in json.loads(body)["objects"]
            ]
            self.answer(200, {"transfer": "basic", "objects": objects})
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/main", path):
            if hub.refuse_commits:
                self.answer(403, {"error": "no"}, X_Error_Message="You can't write there")
                return
            for line in body.decode().splitlines():
                one = json.loads(line)
                if one["key"] == "file":
                    content = base64.b64decode(one["value"]["content"])
                    hub.repos[found[1]].files[one["value"]["path"]] = content
                elif one["key"] == "deletedFile":
                    del hub.repos[found[1]].files[one["value"]["path"]]
                elif one["key"] == "lfsFile":
                    value = one["value"]
                    hub.repos[found[1]].files[value["path"]] = hub.blobs[value["oid"]]
            url = f"{hub.endpoint}/{found[1]}/commit/1"
            self.answer(200, {"success": True, "commitOid": "1" * 40, "commitUrl": url})
        else:
            self.answer(404, {"error": path})

    def do_PUT(self) -> None:
        size = self.headers.get("Content-Length")
        body = self.rfile.read(int(size)) if size else self.read_chunks()
        self.the_hub.blobs[self.path.rpartition("/")[2]] = body
        self.answer(200)

    def do_DELETE(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.the_hub.repos.pop(f"{asked.get('organization') or 'me'}/{asked['name']}", None)
        self.answer(200)

    def read_chunks(self) -> bytes:
        parts = []
        while size := int(self.rfile.readline(), 16):
            parts.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(parts)
