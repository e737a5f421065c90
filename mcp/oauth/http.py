"""Exchanges small JSON documents with servers that are not trusted: bounded in size, time, redirections and reach.

Addresses come from documents of a server, which could name services that it cannot reach itself. An address is judged where
its name leads, at each connection: to this machine, its link or a private network only if the server that the configuration
names is there. Where a proxy of the environment makes the connections, the proxy decides.

It must not know OAuth. aiohttp is imported with this module.
"""

import asyncio
from collections.abc import Mapping
from typing import Self
from urllib.request import getproxies

import aiohttp
from yarl import URL

from corral import __version__
from corral.worker.contract.addresses import Reach
from corral.worker.contract.codec import as_object, decode
from corral.worker.contract.errors import ToolFailed

from ..protocol.messages import MODERN_VERSIONS
from . import metadata

MAX_BYTES = 256 * 1024
"""Bytes of an answer."""

TIMEOUT_S = 15.0
"""Seconds for one request, its redirections included."""

MAX_REDIRECTS = 3

Reply = tuple[int, dict[str, object], Mapping[str, str]]
"""The HTTP status, the JSON object of the body, {} where it is none, and the headers."""


class Http:
    """Sends requests for the authorization of one server; `named` are further addresses of the configuration, "" for none."""

    def __init__(self, server_url: str, *named: str) -> None:
        self.server_url = server_url
        self._reach = Reach((server_url, *named))
        self._http: aiohttp.ClientSession

    async def __aenter__(self) -> Self:
        is_proxied = not {"http", "https", "all"}.isdisjoint(getproxies())
        if not is_proxied:
            await self._reach.resolve()
        connector = aiohttp.TCPConnector(socket_factory=None if is_proxied else self._reach.socket)
        self._http = aiohttp.ClientSession(
            connector=connector,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=TIMEOUT_S),
            trust_env=True,
        )
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self._http.close()

    async def get(self, url: str) -> Reply:
        """Reads a document; redirections are followed as far as they lead to safe addresses."""
        for _ in range(MAX_REDIRECTS + 1):
            metadata.checked_address(url, "an address of metadata", self.server_url)
            status, found, headers = await self._send("GET", url)
            if status not in (301, 302, 303, 307, 308):
                return status, found, headers
            try:
                url = str(URL(url).join(URL(headers.get("Location", ""))))
            except ValueError:
                break
        return 404, {}, {}

    async def post_form(self, url: str, fields: Mapping[str, str], headers: Mapping[str, str] | None = None) -> Reply:
        """Posts a form; a redirection is no answer, because the form has secrets."""
        return await self._send("POST", url, data=dict(fields), headers=headers)

    async def post_json(self, url: str, value: object, headers: Mapping[str, str] | None = None) -> Reply:
        """Posts a JSON value."""
        return await self._send("POST", url, json=value, headers=headers)

    async def _send(
        self,
        method: str,
        url: str,
        *,
        data: Mapping[str, str] | None = None,
        json: object = None,
        headers: Mapping[str, str] | None = None,
    ) -> Reply:
        whole = {
            "Accept": "application/json",
            "User-Agent": f"corral/{__version__}",
            "MCP-Protocol-Version": MODERN_VERSIONS[-1],
            **(headers or {}),
        }
        where = metadata.origin_of(url)
        try:
            async with self._http.request(
                method, url, data=data, json=json, headers=whole, allow_redirects=False
            ) as response:
                return response.status, await _bounded(response, where), response.headers
        except (aiohttp.ClientError, OSError, ValueError) as error:  # TimeoutError is an OSError
            why = str(error) or type(error).__name__
            if isinstance(error, TimeoutError | asyncio.TimeoutError):
                why = f"no answer within {TIMEOUT_S:g} s"
            raise metadata.refused(f"cannot reach {where}: {why[:300]}", "unreachable", address=where) from error


async def _bounded(response: aiohttp.ClientResponse, where: str) -> dict[str, object]:
    chunks: list[bytes] = []
    size = 0
    if response.content_type == "text/event-stream":
        return {}  # it need not end
    async for chunk in response.content.iter_any():
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_BYTES:
            text = f"cannot read the answer of {where}: it has more than {MAX_BYTES} bytes"
            raise ToolFailed(text, reason="bad-answer", address=where)
    try:
        return as_object(decode(b"".join(chunks))) or {}
    except ValueError:
        return {}
