"""Asks the providers: tries again, then asks the models that stand in, until one answers or all have failed.

Tries end as soon as a byte of an answer was passed on: the caller of this module passes them on after it has got an answer.
"""

import asyncio
import base64
import random
import ssl
import time
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple
from urllib.request import getproxies, proxy_bypass

import aiohttp
from yarl import URL

from .shapes import KEPT_REQUEST, Edited, Endpoint, Refused, credentials, edited, target

CONNECT_S = 15.0
"""Seconds for a connection to a provider."""
BACKOFF_S = (0.2, 5.0)
"""Seconds of the first and of the longest pause before another try."""
WAIT_S = 10.0
"""Seconds of Retry-After that are waited for; with a longer one the next model is asked, or the answer passed on."""
AGAIN = frozenset({408, 429, 500, 502, 503, 504, 529})
"""Statuses after which a provider is asked again."""


class Question(NamedTuple):
    """Represents a call as it came: method, path from the version on with its query, headers and body."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]
    body: bytes


class Answer(NamedTuple):
    """Represents the answer of a provider whose header alone was read; the receiver closes `response`."""

    endpoint: Endpoint
    edited: Edited
    response: aiohttp.ClientResponse
    tries: int


class Upstream:
    """Asks providers over one set of connections."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self._silent: set[tuple[str, str]] = set()
        """Endpoints, by name and address, that refuse a request for the usage of a stream."""

    async def ask(self, question: Question, endpoints: Sequence[Endpoint]) -> Answer:
        """Returns the first answer that is no failure of a provider, else the last."""
        tries = 0
        last: Refused | Answer | None = None
        for place, endpoint in enumerate(endpoints):
            is_last = place == len(endpoints) - 1
            for attempt in range(endpoint.retries + 1):
                if isinstance(last, Answer):
                    last.response.close()
                tries += 1
                last = await self._once(question, endpoint, tries)
                if isinstance(last, Answer) and _refuses_usage(last):
                    last.response.close()
                    tries += 1
                    last = await self._once(question, endpoint, tries, asks_usage=False)
                    if isinstance(last, Answer) and last.response.status < 400:
                        self._silent.add((endpoint.name, endpoint.base))
                if isinstance(last, Answer) and last.response.status not in AGAIN:
                    return last
                pause_s = _pause_s(last, attempt)
                if pause_s is None or attempt == endpoint.retries:
                    break
                await asyncio.sleep(pause_s)
            if is_last and isinstance(last, Answer):
                return last
        assert last is not None, "there is one endpoint at least"
        if isinstance(last, Answer):
            return last
        raise last

    async def _once(
        self, question: Question, endpoint: Endpoint, tries: int, *, asks_usage: bool = True
    ) -> Answer | Refused:
        if endpoint.problem:
            return Refused(503, endpoint.problem, facts={"model": endpoint.name})
        kind = endpoint.kind
        asks_usage = asks_usage and (endpoint.name, endpoint.base) not in self._silent
        changed = (
            edited(kind, question.path, question.body, endpoint.model, asks_usage=asks_usage)
            if question.method == "POST"
            else Edited(question.body, False)
        )
        headers = {name: value for name, value in question.headers.items() if KEPT_REQUEST.fullmatch(name.lower())}
        headers |= endpoint.headers
        headers |= {**credentials(kind, endpoint.key), "Accept-Encoding": "identity"}
        url = target(kind, endpoint.base, question.path, endpoint.model)
        proxy = proxy_of(endpoint.base)
        began = time.monotonic()
        try:
            response = await self._session.request(
                question.method,
                f"{url}?{question.query}" if question.query else url,
                data=changed.body or None,
                headers=headers,
                timeout=_timeout(endpoint.timeout_s),
                proxy=proxy.url,
                proxy_headers=proxy.headers,
                allow_redirects=False,
            )
        except (aiohttp.ClientError, ssl.SSLError, OSError, ValueError, TimeoutError) as error:
            waited_s = time.monotonic() - began
            if isinstance(error, TimeoutError) and waited_s >= endpoint.timeout_s:
                reason = f'the model "{endpoint.name}" did not answer within {endpoint.timeout_s:g} s'
                return Refused(504, reason, facts={"model": endpoint.name})
            reason = f'cannot reach the model "{endpoint.name}": {_words(error)}'
            return Refused(502, reason, facts={"model": endpoint.name})
        return Answer(endpoint, changed, response, tries)


class Proxy(NamedTuple):
    """Represents the proxy by which a provider is reached; `url` is None for none, `headers` log in to it."""

    url: URL | None
    headers: dict[str, str] | None


@lru_cache(1024)
def proxy_of(base: str) -> Proxy:
    """Returns the proxy of the environment for an address, which the session itself would look up in a thread for each call."""
    address = URL(base)
    found = getproxies().get(address.scheme)
    if not found or (address.host and proxy_bypass(address.host)):
        return Proxy(None, None)
    url = URL(found if "://" in found else f"http://{found}")
    if not url.user:
        return Proxy(url, None)
    login = base64.b64encode(f"{url.user}:{url.password or ''}".encode()).decode()
    return Proxy(url.with_user(None), {"Authorization": f"Basic {login}"})  # the session renames it


@lru_cache(1024)
def _timeout(silence_s: float) -> aiohttp.ClientTimeout:
    return aiohttp.ClientTimeout(total=None, connect=CONNECT_S, sock_connect=CONNECT_S, sock_read=silence_s)


def _refuses_usage(answer: Answer) -> bool:
    """Returns whether a provider may have refused a request because it was asked for the usage of its stream."""
    return answer.edited.hides_usage and answer.response.status in (400, 422)


def _pause_s(last: Refused | Answer, attempt: int) -> float | None:
    """Returns the seconds until the same provider is asked again; None: it is not."""
    if isinstance(last, Refused):
        if last.status in (503, 504):
            return None  # it has no key, or was given all the time that there is
    else:
        try:
            wanted_s = float(last.response.headers.get("Retry-After", ""))
        except ValueError:
            pass
        else:
            return wanted_s if 0 <= wanted_s <= WAIT_S else None
    return min(BACKOFF_S[0] * 2.0**attempt, BACKOFF_S[1]) * random.uniform(0.8, 1.2)


def _words(error: BaseException) -> str:
    """Returns the reason in words, without the address, whose path may have what is nobody's business."""
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or type(error.os_error).__name__
    if isinstance(error, TimeoutError):
        return f"no connection within {CONNECT_S:g} s"
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "it has closed the connection"
    return type(error).__name__
