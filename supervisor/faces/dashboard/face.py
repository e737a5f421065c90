"""Serves the page of the dashboard and its files, and opens and closes sessions.

The page is open, as it says nothing of this daemon: it asks `/api/v1` with the cookie of its session, which is HttpOnly and
SameSite=Strict, and with a word of its own in a header, see `sessions`. Ports are one site to a browser, so that the page
of another server of this machine could have the cookie sent: a request with a session is served only where the browser
says that it comes from this very origin.
"""

import secrets
from collections.abc import Callable
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Literal, NamedTuple

import msgspec
from aiohttp import web

from corral.worker.contract.errors import InvalidParams, MethodNotFound, PermissionDenied

from ..http.answers import JSON, Refused, check_type, read_body
from ..http.face import FOREIGN, Authenticate, HttpClient
from ..http_api.documents import HEADERS, check_read, file_answer, files_of

SESSION_S = 12 * 3600.0
"""Seconds that a session lasts, whether it is used or not: about a working day."""

MAX_SESSIONS = 200

WORD_BYTES = 32
"""Bytes of chance in each of the two words."""


class Proof(NamedTuple):
    """What a browser shows of its session: the value of its cookie, and that of its header."""

    cookie: str
    header: str


class _Session(NamedTuple):
    """Holds the digest of the token that a session stands for, and its end."""

    token: bytes
    until: float


class Sessions:
    """Holds the open sessions, the oldest first; beyond `most` of them the oldest is closed."""

    def __init__(self, most: int = MAX_SESSIONS, duration_s: float = SESSION_S) -> None:
        self._most = most
        self._duration_s = duration_s
        self._open: dict[bytes, _Session] = {}

    def __len__(self) -> int:
        return len(self._open)

    def open(self, token: bytes, now: float) -> Proof:
        """Opens a session of the token with this digest."""
        for each in [each for each, session in self._open.items() if session.until <= now]:
            del self._open[each]
        while len(self._open) >= self._most:
            del self._open[next(iter(self._open))]
        proof = Proof(secrets.token_urlsafe(WORD_BYTES), secrets.token_urlsafe(WORD_BYTES))
        self._open[_digest(proof)] = _Session(token, now + self._duration_s)
        return proof

    def token(self, proof: Proof, now: float) -> bytes | None:
        """Returns the digest of the token of a session; None if it is closed, over, or none."""
        session = self._open.get(_digest(proof))
        return None if session is None or session.until <= now else session.token

    def close(self, proof: Proof) -> None:
        """Closes a session; one that is closed stays so."""
        self._open.pop(_digest(proof), None)


def _digest(proof: Proof) -> bytes:
    return sha256(" ".join(proof).encode("utf-8", "surrogateescape")).digest()


PAGE = Path(__file__).parent / "page"

FILES = "/dashboard"
"""Prefix of the files of the page, and of its session."""

SESSION_PATH = f"{FILES}/session"

POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none'; "
    "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
)
"""Content-Security-Policy: nothing inline, nothing from elsewhere, and no text that becomes markup."""

PAGE_HEADERS = {**HEADERS, "Content-Security-Policy": POLICY}

HEADER = "Corral-Session"
"""Header with the word of a session that is not in its cookie: of the answer to the login, and of each request."""

MAX_LOGIN_BYTES = 8192


class _Login(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: str


class BrowserSessions:
    """Identifies the browser of a request by the cookie and the header of its session."""

    def __init__(
        self, sessions: Sessions, token_client: Callable[[bytes], HttpClient], clock: Callable[[], float]
    ) -> None:
        self.sessions = sessions
        self._token_client = token_client
        self._clock = clock

    def open(self, token: bytes) -> Proof:
        """Opens a session of the token with this digest."""
        return self.sessions.open(token, self._clock())

    def client(self, request: web.BaseRequest) -> HttpClient | None:
        """Returns the client of a request's session; None where it has no cookie of one."""
        proof = proof_of(request)
        if proof is None:
            return None
        token = self.sessions.token(proof, self._clock())
        if token is None:
            raise PermissionDenied("cannot serve the request: its session is over", reason="session")
        check_origin(request)
        client = self._token_client(token)

        def is_valid() -> bool:
            is_open = self.sessions.token(proof, self._clock()) is not None
            return is_open and client.is_valid()

        return replace(client, is_valid=is_valid)


def cookie_name(request: web.BaseRequest) -> str:
    """Returns the name of the cookie: with the port, as a browser sends cookies of one host to all its ports."""
    port = request.headers.get("Host", "").rpartition(":")[2]
    return f"corral_session_{port}" if port.isdecimal() else "corral_session"


def proof_of(request: web.BaseRequest) -> Proof | None:
    """Returns what a request shows of a session; None where it has no cookie of one."""
    cookie = request.cookies.get(cookie_name(request))
    return None if cookie is None else Proof(cookie, request.headers.get(HEADER, ""))


def check_origin(request: web.BaseRequest) -> None:
    """Rejects a request that did not come from the page: any of another origin, and a change that does not say its own."""
    origin, site = request.headers.get("Origin"), request.headers.get("Sec-Fetch-Site")
    is_change = request.method not in ("GET", "HEAD")
    if origin is None:
        is_ours = not is_change and site in (None, "same-origin", "none")
    else:
        is_ours = origin.lower().partition("://")[2] == request.headers.get("Host", "").lower()
    if not is_ours:
        raise PermissionDenied(
            "cannot serve a session to another page: the request is not from this origin",
            header="Origin",
            reason=FOREIGN,
        )


class PageFace:
    """Serves the page at `/`."""

    prefix = "/"
    open = True

    async def serve(self, request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        """Answers with the page."""
        check_read(request, request.path == self.prefix)
        return file_answer(request, files_of(PAGE), "index.html", PAGE_HEADERS)

    async def close(self) -> None:
        """Returns at once."""


class DashboardFace:
    """Serves the files of the page, and opens and closes sessions."""

    prefix = FILES
    open = True

    def __init__(
        self, browsers: BrowserSessions, authenticate: Authenticate, digest_of: Callable[[str], bytes]
    ) -> None:
        self._browsers = browsers
        self._authenticate = authenticate
        self._digest_of = digest_of

    async def serve(self, request: web.BaseRequest, client: HttpClient) -> web.StreamResponse:
        """Answers with a file, or opens (POST) or closes (DELETE) a session."""
        if request.path == SESSION_PATH:
            return await self._session(request)
        if request.path.rstrip("/") == FILES:  # where others have their page
            check_read(request, True)
            return web.Response(status=307, headers={"Location": "./" if request.path == FILES else "../"})
        name = request.path.removeprefix(f"{FILES}/")
        check_read(request, name in files_of(PAGE))
        return file_answer(request, files_of(PAGE), name, PAGE_HEADERS)

    async def close(self) -> None:
        """Returns at once."""

    async def _session(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.method not in ("POST", "DELETE"):
            error = MethodNotFound(f'cannot serve {request.method} of "{SESSION_PATH}"')
            raise Refused(405, error, Allow="DELETE, POST")
        check_origin(request)
        if request.method == "POST":
            return await self._log_in(request)
        proof = proof_of(request)
        if proof is not None:
            self._browsers.sessions.close(proof)
        return _answer(request, Proof("", ""), 0)

    async def _log_in(self, request: web.BaseRequest) -> web.Response:
        body = await read_body(request, MAX_LOGIN_BYTES)
        check_type(request, body, (JSON,))
        try:
            token = msgspec.json.decode(body, type=_Login).token.strip()
        except msgspec.MsgspecError:
            raise InvalidParams('cannot log in: the body is not {"token": TEXT}', key="token", reason="body") from None
        try:
            self._authenticate(token)
        except PermissionDenied as error:
            raise Refused(401, error, WWW_Authenticate='Bearer realm="corral"') from error
        return _answer(request, self._browsers.open(self._digest_of(token)), int(SESSION_S))


def _answer(request: web.BaseRequest, proof: Proof, max_age_s: int) -> web.Response:
    """Returns an answer without content that sets the cookie and tells the page its word; `max_age_s` 0 removes the cookie."""
    response = web.Response(status=204, headers={"Cache-Control": "no-store", HEADER: proof.header})
    is_secure = request.headers.get("Origin", "").lower().startswith("https://")
    same_site: Literal["Strict"] = "Strict"
    response.set_cookie(
        cookie_name(request),
        proof.cookie,
        max_age=max_age_s,
        path="/",
        httponly=True,
        samesite=same_site,
        secure=is_secure,
    )
    return response
