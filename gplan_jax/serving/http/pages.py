"""The files of the servers' pages, and the headers that keep browsers to them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

from fastapi import FastAPI
from starlette.responses import FileResponse

# The stylesheet and the helpers that the pages of all servers use.
SHARED_PAGE_FILES = tuple(Path(__file__).parent / "page" / name for name in ("style.css", "dom.js"))
SECURITY_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def serve_files(app: FastAPI, files: Mapping[str, Path]) -> None:
    """Routes to files, by path."""

    def route(file: Path) -> Callable[[], Awaitable[FileResponse]]:
        async def serve() -> FileResponse:
            return FileResponse(file, headers={"Cache-Control": "no-cache"})

        return serve

    for path, file in files.items():
        app.add_api_route(path, route(file), methods=["GET", "HEAD"], include_in_schema=False)
