"""Serves `/openapi.json`, and `/docs`: a page that shows the document and sends its requests, without another host.

Both are open. They say what every installation of this version says, and nothing of this daemon; a generator reads the
document without a token, and a browser opens the page without a header. The page keeps a token in its field alone.
"""

import hashlib
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from aiohttp import web

from corral.worker.contract import codec
from corral.worker.contract.errors import MethodNotFound, NotFound
from corral.worker.methods.method import AnyMethod

from ..http.answers import Refused
from ..http.face import HttpClient
from .openapi import openapi

PAGE = Path(__file__).parent / "page"

TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}

POLICY = "default-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
"""Content-Security-Policy: all of the page comes from this daemon, and its forms are sent by its script alone."""

HEADERS = {
    "Cache-Control": "no-cache",
    "Content-Security-Policy": POLICY,
    "Cross-Origin-Opener-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class OpenApiFace:
    """Serves the OpenAPI document, which is made at the first request."""

    prefix = "/openapi.json"
    open = True

    def __init__(self, methods: Mapping[str, AnyMethod]) -> None:
        self._methods = methods
        self._body: bytes | None = None

    async def serve(self, request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        """Answers with the document."""
        check_read(request, request.path == self.prefix)
        if self._body is None:
            self._body = codec.encode(openapi(self._methods))
        return _answer(request, self._body, "application/json")

    async def close(self) -> None:
        """Returns at once."""


class DocsFace:
    """Serves the page and its files."""

    prefix = "/docs"
    open = True

    async def serve(self, request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        """Answers with the page, its style or its script."""
        name = request.path.removeprefix(self.prefix).removeprefix("/") or "index.html"
        check_read(request, name in files_of(PAGE))
        return file_answer(request, files_of(PAGE), name, HEADERS)

    async def close(self) -> None:
        """Returns at once."""


@cache
def files_of(page: Path) -> dict[str, bytes]:
    """Returns the files of a page by their path below its folder, which are read at the first request."""
    found = (path for path in page.rglob("*") if path.suffix in TYPES)
    return {path.relative_to(page).as_posix(): path.read_bytes() for path in found}


def check_read(request: web.BaseRequest, is_there: bool) -> None:
    """Rejects a request for something that is not there, or that is no GET."""
    if not is_there:
        raise NotFound(f'cannot find "{request.path}"', path=request.path)
    if request.method not in ("GET", "HEAD"):
        raise Refused(405, MethodNotFound(f'cannot serve {request.method} of "{request.path}"'), Allow="GET, HEAD")


def file_answer(
    request: web.BaseRequest, files: Mapping[str, bytes], name: str, headers: Mapping[str, str]
) -> web.Response:
    """Returns the answer with a file of a page: nothing but a status where the browser has it."""
    return _answer(request, files[name], TYPES[Path(name).suffix], headers)


def _answer(
    request: web.BaseRequest, body: bytes, content_type: str, common: Mapping[str, str] = HEADERS
) -> web.Response:
    tag = f'"{hashlib.sha256(body).hexdigest()[:16]}"'
    headers = {**common, "ETag": tag}
    given = request.headers.get("If-None-Match", "")
    if given == "*" or tag in (each.strip().removeprefix("W/") for each in given.split(",")):
        return web.Response(status=304, headers=headers)
    return web.Response(body=body, headers=headers, content_type=content_type, charset="utf-8")
