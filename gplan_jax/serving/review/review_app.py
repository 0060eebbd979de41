"""`gplan seeds review`: a page on this machine, candidates out, decisions in, until Ctrl-C.

One reviewer's decisions and their file: read, changed one at a time, saved at once.
"""

from __future__ import annotations

import asyncio
import dataclasses
import hashlib
import os
import re
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import FrameType
from typing import Annotated, Any

import pydantic
import uvicorn
from fastapi import FastAPI, Request
from starlette.datastructures import Headers
from starlette.exceptions import HTTPException
from starlette.middleware.base import RequestResponseEndpoint
from starlette.responses import Response

from gplan_jax.foundation.errors import GplanError, RowError
from gplan_jax.gsisr import IntentLibrary
from gplan_jax.serving.http.bodies import (
    SECURITY_HEADERS,
    SHARED_PAGE_FILES,
    ApiError,
    AsciiResponse,
    StrictBody,
    read_json,
    serve_files,
    validate,
)
from gplan_jax.serving.http.server import listen, quiet_config
from gplan_jax.synthesis.seeds.review_file import (
    Decision,
    ReviewVerdict,
    read_review,
    review_line,
    verdict_faults,
    write_lines,
)
from gplan_jax.synthesis.seeds.seed_candidates import (
    CONTEXT_BLOCKS,
    Draft,
    DraftFault,
    SeedCandidate,
    block_names,
    faults_of,
    load_candidates,
)

_NAME = re.compile(r"[\w-]{1,40}")
HOST = "127.0.0.1"
PAGE = Path(__file__).parent / "page"
PAGE_FILES = ("review.css", "review.js", "card.js", "outbox.js")
STYLE, DOM = SHARED_PAGE_FILES
FILES = {
    "/": PAGE / "index.html",
    "/page/style.css": STYLE,
    "/dom.js": DOM,
    **{f"/{name}": PAGE / name for name in PAGE_FILES},
}
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
SAFE_METHODS = ("GET", "HEAD")
MAX_BYTES, BODY_TIMEOUT_S = 256 * 1024, 10.0
LONGEST_TEXT, MOST_INTENTS = 4000, 50

Text = Annotated[str, pydantic.StringConstraints(max_length=LONGEST_TEXT, pattern=r"^[^\x00]*$")]


class Outdated(Exception):
    """A change to a decision that is no longer as the reviewer saw it; ``saved`` is as it is."""

    def __init__(self, saved: SavedDecision) -> None:
        super().__init__("the decision was changed elsewhere")
        self.saved = saved


class NotASeed(Exception):
    """A verdict that doesn't fit what was left; ``faults`` say why."""

    def __init__(self, faults: Sequence[RowError]) -> None:
        super().__init__("the verdict can't be taken")
        self.faults = tuple(faults)


@dataclass(frozen=True, slots=True)
class SavedDecision:
    """A decision as it is on the disk."""

    decision: Decision
    version: str  # a hash of its line, so that it outlives the server
    faults: tuple[DraftFault, ...]  # what is wrong with its draft


class ReviewStore:
    """The decisions of one reviewer; every change is on the disk before it is acknowledged.

    Threads may share it. Where another program has changed the file meanwhile, it is read again
    before anything is written, so neither side's decisions are lost.
    """

    def __init__(
        self, path: Path, reviewer: str, candidates: list[SeedCandidate], library: IntentLibrary
    ) -> None:
        """Begins the file where it is missing; GplanError as ``read_review`` where it is faulty."""
        self.path, self.reviewer, self.library = path, reviewer, library
        self.candidates = candidates
        self.id = hashlib.sha256(repr(candidates).encode()).hexdigest()[:16]
        self._lock = threading.Lock()
        self._saved: list[SavedDecision] = []
        self._lines: list[str] = []
        self._stamp: tuple[int, int, int] | None = None
        if path.exists():
            self._read()
        else:
            self._hold([Decision(c.row, c.proposal, reviewer=reviewer) for c in candidates])
            self._write()

    def all(self) -> list[SavedDecision]:
        """Every decision, in the order of the rows."""
        with self._lock:
            self._refresh()
            return list(self._saved)

    def change(self, decision: Decision, version: str) -> SavedDecision:
        """Saves a decision made looking at ``version``; Outdated where it is another one by now.

        The same change once more, as after a lost answer, is fine. NotASeed where it is accepted or
        edited and ``verdict_faults`` finds faults.
        """
        candidate = self.candidates[decision.row - 1]
        decision = dataclasses.replace(decision, reviewer=self.reviewer)
        with self._lock:
            self._refresh()
            at = decision.row - 1
            saved, line = self._saved[at], review_line(candidate, decision, self.library)
            if line == self._lines[at]:
                return saved
            if saved.version != version:
                raise Outdated(saved)
            if faults := verdict_faults(self.path, candidate, decision, self.library):
                raise NotASeed(faults)
            before = self._lines[at]
            self._lines[at] = line
            try:
                self._write()
            except OSError:
                self._lines[at] = before
                raise
            self._saved[at] = self._kept(decision, line)
            return self._saved[at]

    def _refresh(self) -> None:
        if self._stamp != _stamp(self.path):
            self._read()

    def _read(self) -> None:
        stamp = _stamp(self.path)
        read = {d.row: d for d in read_review(self.path, self.candidates, self.library)}
        self._hold([read.get(c.row, Decision(c.row, c.proposal)) for c in self.candidates])
        self._stamp = stamp

    def _hold(self, decisions: Sequence[Decision]) -> None:
        both = zip(self.candidates, decisions, strict=True)
        self._lines = [review_line(c, d, self.library) for c, d in both]
        self._saved = [self._kept(d, line) for d, line in zip(decisions, self._lines, strict=True)]

    def _write(self) -> None:
        write_lines(self.path, self._lines, self.library)
        self._stamp = _stamp(self.path)

    def _kept(self, decision: Decision, line: str) -> SavedDecision:
        version = hashlib.sha256(line.encode()).hexdigest()[:16]
        return SavedDecision(decision, version, tuple(faults_of(decision.draft, self.library)))


def open_review(
    review: Path, reviewer: str, library: IntentLibrary, candidates: Path | None = None
) -> ReviewStore:
    """The store of a reviewer's own copy, review.csv -> review.anna.csv; begun where missing."""
    if not _NAME.fullmatch(reviewer):
        raise GplanError(
            f"{reviewer!r} can't name a reviewer: letters, digits, _ and -, at most 40 of them."
        )
    base, _, owner = review.stem.rpartition(".")
    if owner == reviewer and base:
        own = review
    elif base:
        raise GplanError(
            f"{review} is the copy of {owner}; name {base}.csv, or --reviewer {owner}."
        )
    else:
        own = review.with_name(f"{review.stem}.{reviewer}.csv")
    _, found = load_candidates([review], candidates, library)
    if not own.exists():
        # A copy starts from the proposals; decisions made in the file itself aren't passed over.
        proposals = {c.row: c.proposal for c in found}
        read = read_review(review, found, library)
        begun = [d.row for d in read if d.verdict or d.comment or d.draft != proposals[d.row]]
        if begun:
            raise GplanError(
                f"{review} holds work on {len(begun)} candidates already (first in row {begun[0]})."
                f" To go on with it, copy it to {own}."
            )
    return ReviewStore(own, reviewer, found, library)


def _stamp(path: Path) -> tuple[int, int, int]:
    try:
        found = os.stat(path)
    except FileNotFoundError:
        raise GplanError(f"{path} is no longer there; put it back.") from None
    return found.st_mtime_ns, found.st_size, found.st_ino


class DecisionBody(StrictBody):
    """A reviewer's decision; ``version`` is that of the decision the reviewer saw."""

    version: str
    plan: Annotated[list[dict[Text, Text]], pydantic.Field(max_length=MOST_INTENTS)]
    reasoning: dict[Text, Text]
    verdict: ReviewVerdict
    comment: Text


def create_review_app(store: ReviewStore) -> FastAPI:
    """The app around one reviewer's store."""
    app = FastAPI(title="GPlan seeds", docs_url=None, redoc_url=None, openapi_url=None)
    library = store.library

    serve_files(app, FILES)

    @app.get("/api/review")
    async def review() -> Response:
        """Everything the page needs: the library, the candidates, the decisions so far."""
        try:
            saved = await asyncio.to_thread(store.all)
        except GplanError as error:
            raise ApiError(409, "unreadable", str(error)) from None
        content = {
            "id": store.id,
            "reviewer": store.reviewer,
            "file": store.path.name,
            "library": {
                "tool_key": library.tool_key,
                "tools": {
                    name: tool.model_dump(exclude={"yields_place"})
                    for name, tool in library.tools.items()
                },
                "parameters": {n: p.model_dump() for n, p in library.parameters.items()},
                "maximum": library.plan_length.maximum,
            },
            "blocks": list(CONTEXT_BLOCKS),
            "candidates": [
                {
                    "row": candidate.row,
                    "id": candidate.sample.id,
                    "stratum": list(candidate.stratum),
                    "origin": candidate.origin,
                    "facts": [list(fact) for fact in candidate.facts],
                    "proposal": asdict(candidate.proposal),
                    "state": _state_json(decision),
                }
                for candidate, decision in zip(store.candidates, saved, strict=True)
            ],
        }
        return AsciiResponse(content)

    @app.put("/api/decisions/{row}")
    async def decide(row: int, request: Request) -> Response:
        """Saves a decision; it is on the disk when the answer comes."""
        if not 1 <= row <= len(store.candidates):
            raise ApiError(404, "not_found", f"There is no row {row}.")
        value, _ = await read_json(request, max_bytes=MAX_BYTES, timeout_s=BODY_TIMEOUT_S)
        body = validate(DecisionBody, value)
        known = block_names(library.plan_length.maximum)
        if unknown := [name for name in body.reasoning if name not in known]:
            raise ApiError(422, "bad_request", f"Unknown blocks: {', '.join(unknown)[:200]}.")
        draft = Draft.make(body.plan, body.reasoning, library)
        decision = Decision(row, draft, body.verdict, body.comment.strip())
        try:
            saved = await asyncio.to_thread(store.change, decision, body.version)
        except Outdated as error:
            message = f"Row {row} was changed elsewhere."
            content = {"code": "outdated", "message": message, "state": _state_json(error.saved)}
            return AsciiResponse({"error": content}, 409)
        except NotASeed as error:
            message = "; ".join(fault.problem for fault in error.faults)
            raise ApiError(422, "not_a_seed", message) from None
        except GplanError as error:
            raise ApiError(409, "unreadable", str(error)) from None
        except OSError as error:
            message = f"{store.path.name} can't be written: {error.strerror or error}."
            raise ApiError(500, "not_saved", message) from None
        return AsciiResponse(_state_json(saved))

    @app.exception_handler(ApiError)
    async def refused(request: Request, error: ApiError) -> Response:
        return error.response()

    @app.exception_handler(HTTPException)
    async def no_such_route(request: Request, error: HTTPException) -> Response:
        content = {"error": {"code": "not_found", "message": f"{error.detail}."}}
        return AsciiResponse(content, error.status_code, error.headers)

    # A page of another site can send requests to 127.0.0.1, and by rebinding its name to that
    # address even read the answers. So the Host must be a name of this machine, and whatever
    # changes something must come from a page under that same Host.
    @app.middleware("http")
    async def own_page_only(request: Request, answer: RequestResponseEndpoint) -> Response:
        refusal = _refusal(request.method, request.headers)
        response = await answer(request) if refusal is None else refusal.response()
        response.headers.update(SECURITY_HEADERS | {"Cache-Control": "no-store"})
        return response

    return app


def _state_json(saved: SavedDecision) -> dict[str, Any]:
    keys = ("column", "step", "tier", "message")
    return {
        **asdict(saved.decision.draft),
        "verdict": saved.decision.verdict,
        "comment": saved.decision.comment,
        "version": saved.version,
        "faults": [{key: getattr(fault, key) for key in keys} for fault in saved.faults],
    }


def _refusal(method: str, headers: Headers) -> ApiError | None:
    hosts = headers.getlist("host")
    name = hosts[0].lower() if len(hosts) == 1 else ""
    address, colon, port = name.rpartition(":")
    if (address if colon and port.isdecimal() else name) not in LOOPBACK:
        message = "This server answers to 127.0.0.1 and localhost only."
        return ApiError(403, "wrong_host", message)
    if headers.get("sec-fetch-site", "none") not in ("none", "same-origin"):
        return ApiError(403, "wrong_origin", "This request comes from a page of another site.")
    if method not in SAFE_METHODS and headers.getlist("origin") != [f"http://{name}"]:
        return ApiError(403, "wrong_origin", "Decisions are taken from this server's page only.")
    return None


class ReviewServer(uvicorn.Server):
    """Uvicorn that ends on a signal without raising it again; the last answers are sent first."""

    def __init__(self, store: ReviewStore) -> None:
        super().__init__(quiet_config(create_review_app(store)))

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Signals: the first ends the server, the second at once."""
        self.force_exit = self.should_exit
        self.should_exit = True


def serve_review(
    review: Path,
    reviewer: str,
    library: IntentLibrary,
    *,
    port: int,
    candidates: Path | None = None,
) -> None:
    """Serves the review page of one reviewer on 127.0.0.1 until Ctrl-C or SIGTERM."""
    store = open_review(review, reviewer, library, candidates)
    listener = listen(HOST, port)
    url = f"http://{HOST}:{listener.getsockname()[1]}/"
    print(
        f"Review {len(store.candidates):,} candidates as {reviewer}: {url}\n"
        f"  every decision is saved at once in {store.path}\n"
        f"  stop                 Ctrl-C; the same command goes on where you stopped",
        flush=True,
    )
    ReviewServer(store).run(sockets=[listener])
    print(end_message(store, review), flush=True)


def end_message(store: ReviewStore, review: Path) -> str:
    """What was decided, where it is, and what comes next."""
    verdicts = Counter(saved.decision.verdict for saved in store.all())
    decided = len(store.candidates) - verdicts[""]
    counts = ", ".join(f"{verdicts[v]:,} {v}" for v in ("accept", "edit", "reject"))
    return (
        f"Stopped. {decided:,} of {len(store.candidates):,} candidates are decided ({counts}).\n"
        f"  decisions            {store.path}\n"
        f"  go on                gplan seeds review {review} --reviewer {store.reviewer}\n"
        f"  make the seeds       gplan seeds import {store.path} --out seeds.csv"
    )
