"""Asks the client of the bridge for access tokens, over the pipes on which it speaks MCP with it.

The request is `corral/token`, with `{}` for the token of the moment, or with the `refused` token, the `status` and the
`challenge` with which the server refused it. The result is `{"access_token", "expires_in_s", "dpop_key"}`, or `{}` where there is none
and none is known to be needed; an error says why there is none. A token with a key is presented with a proof for each request, by
DPoP. Only the client answers: the bridge drops such requests of a server.
"""

import asyncio
import http
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping

from corral.worker.contract.codec import as_object, encode
from corral.worker.contract.errors import from_wire

from ..protocol import dpop, messages

VARIABLE = "CORRAL_MCP_TOKENS"

ANSWER_S = 120.0
"""Seconds for an answer of the client, which may have to ask an authorization server."""

EARLY_S = 30.0
"""Seconds before its end at which a token is asked for anew."""


def asks(environ: Mapping[str, str]) -> bool:
    """Returns True if the environment says that the client answers requests for tokens."""
    return environ.get(VARIABLE) == "1"


def is_challenge(status: int, header: str) -> bool:
    """Returns True if another token may help: any 401, and a 403 that wants more scopes."""
    if status == http.HTTPStatus.UNAUTHORIZED:
        return True
    return status == http.HTTPStatus.FORBIDDEN and "insufficient_scope" in header


class TokenSource:
    """Holds the token of the moment, and asks for others, one request at a time."""

    def __init__(self, write: Callable[[bytes], Awaitable[None]], *, is_off: bool) -> None:
        self.is_off = is_off
        self._write = write
        self._is_known = False
        self._token = ""
        self._key = ""
        self._nonce = ""
        self._ends_at = 0.0
        self._lock = asyncio.Lock()
        self._waiting: dict[str, asyncio.Future[dict[str, object]]] = {}

    async def current(self) -> str:
        """Returns the token of the moment, "" if there is none."""
        if self.is_off or self._is_fresh():
            return self._token
        async with self._lock:
            if not self._is_fresh():
                await self._ask({})
        return self._token

    def headers(self, method: str, url: str) -> dict[str, str]:
        """Returns the headers that present the token of the moment in one request."""
        if not self._token:
            return {}
        if not self._key:
            return {"Authorization": f"Bearer {self._token}"}
        proof = dpop.proof(self._key, method, url, time.time(), token=self._token, nonce=self._nonce)
        return {"Authorization": f"DPoP {self._token}", dpop.HEADER: proof}

    def takes_nonce(self, headers: Mapping[str, str], challenge: str) -> bool:
        """Takes the nonce of an answer; returns whether its request was refused for the want of that alone."""
        nonce = dpop.nonce_of(headers)
        is_new = bool(nonce) and nonce != self._nonce
        self._nonce = nonce or self._nonce
        return bool(self._key) and is_new and dpop.USE_NONCE in challenge

    async def renew(self, refused: str, status: int, challenge: str) -> None:
        """Gets a token in place of a refused one, unless that has happened meanwhile."""
        async with self._lock:
            if self._token == refused:
                await self._ask({"refused": refused, "status": status, "challenge": challenge})

    def take(self, message: Mapping[str, object]) -> bool:
        """Takes the client's answer; returns False for an answer to another request."""
        number = message.get("id")
        waiting = self._waiting.pop(number, None) if isinstance(number, str) else None
        if waiting is None:
            return False
        if not waiting.done():
            waiting.set_result(dict(message))
        return True

    def _is_fresh(self) -> bool:
        return self._is_known and (not self._ends_at or time.monotonic() < self._ends_at)

    async def _ask(self, params: Mapping[str, object]) -> None:
        number = secrets.token_hex(16)  # no server may guess it
        waiting = self._waiting[number] = asyncio.get_running_loop().create_future()
        request = {"jsonrpc": "2.0", "id": number, "method": messages.TOKEN, "params": params}
        try:
            await self._write(encode(request) + b"\n")
            async with asyncio.timeout(ANSWER_S):
                answer = await waiting
        finally:
            self._waiting.pop(number, None)
        if "error" in answer:
            self._is_known, self._token, self._key = False, "", ""
            raise from_wire(answer["error"])
        result = as_object(answer.get("result")) or {}
        token, life_s = result.get("access_token"), result.get("expires_in_s")
        key = result.get("dpop_key")
        self._key = key if isinstance(key, str) else ""
        self._is_known = True
        self._token = token if isinstance(token, str) else ""
        self._ends_at = 0.0
        if isinstance(life_s, int | float):
            self._ends_at = time.monotonic() + max(float(life_s) - EARLY_S, float(life_s) / 2)
