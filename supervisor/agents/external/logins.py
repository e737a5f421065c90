"""Keeps the grants of remote MCP servers: gives out tokens, renews them before their end, and carries logins of persons.

A token goes only to the process of a server whose address is the one that it was got for. One exchange with an authorization server is
under way per server at a time, and what it brings is on disk before it is used.
"""

import asyncio
import logging
import secrets
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

from corral.mcp.oauth.records import Answer, Challenge, Client, Grant, Order, Pending, parse
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.workers.lifecycle.state_machine import NEEDS_LOGIN
from corral.worker.contract.errors import Conflict, CorralError, NotFound, Overloaded, PermissionDenied, ToolFailed

from .token_store import Kept, TokenStore

MAX_LOGINS = 100
"""Number of logins under way; a further one takes the place of the oldest."""

EARLY_S = 60.0
"""Seconds before its end at which a token is renewed; of a shorter life a part."""

EARLY_PART = 0.6

POLL_S = 45.0
"""Seconds for which one step waits for a person at another device."""

RETRY_AFTER_S = 5.0
"""Seconds after a failed exchange during which its error is the answer for everybody."""

LOST = ("invalid_grant", "invalid_client", "unauthorized_client", "invalid_token")
"""OAuth's words for a grant or a client that is good for nothing any more."""

logger = logging.getLogger(__name__)

Perform = Callable[[Spec, Order], Awaitable[Answer]]
"""Performs one step for a server; see `steps`."""


Publish = Callable[..., object]
"""Publishes an event: its type, and `agent` and its fields by name."""


@dataclass
class _Server:
    kept: Kept | None = None
    is_loaded: bool = False
    challenge: Challenge | None = None
    problem: CorralError | None = None
    failed_at: float = -RETRY_AFTER_S
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)


@dataclass
class Login:
    """Represents a login that a person has to finish."""

    id: str
    name: str
    pending: Pending


class Logins:
    """Holds the grants of all servers."""

    def __init__(self, store: TokenStore, perform: Perform, publish: Publish) -> None:
        self._store = store
        self._perform = perform
        self._publish = publish
        self._servers: dict[str, _Server] = {}
        self._logins: dict[str, Login] = {}

    async def token(self, spec: Spec, wish: Mapping[str, object]) -> dict[str, object]:
        """Returns the token of the moment, or another one than the `refused` one; {} where none is known to be needed."""
        server = self._servers.setdefault(spec.name, _Server())
        async with server.lock:
            await self._load(spec, server)
            refused = wish.get("refused")
            if isinstance(refused, str):
                return await self._other(spec, server, refused, wish)
            grant = self._grant(spec, server)
            if grant is not None and _is_due(grant):
                grant = await self._renewed(spec, server, grant, is_refused=False)
            if grant is not None:
                return _given(grant)
            if _needs_no_person(spec):
                return _given(await self._own(spec, server))
            return {}  # the server may want none: it says so

    async def _other(self, spec: Spec, server: _Server, refused: str, wish: Mapping[str, object]) -> dict[str, object]:
        """Returns a token in place of one that the server refused."""
        status, header = wish.get("status"), wish.get("challenge")
        challenge = parse(status if isinstance(status, int) else 401, header if isinstance(header, str) else "")
        grant = self._grant(spec, server)
        if grant is not None and grant.access_token != refused:
            return _given(grant)  # it has been renewed meanwhile
        server.challenge = challenge
        if _needs_no_person(spec):
            return _given(await self._own(spec, server))
        if challenge.status == 403:
            raise self._needs(spec, server, challenge)
        if grant is not None and grant.refresh_token:
            return _given(await self._renewed(spec, server, grant, is_refused=True))
        raise self._needs(spec, server, challenge)

    def _needs(self, spec: Spec, server: _Server, challenge: Challenge) -> PermissionDenied:
        command = f"corral mcp login {spec.name}"
        if challenge.wants_more_scope:
            scopes = challenge.scope or "more"
            text = f'"{spec.name}" needs a login for the scopes "{scopes}": {command}'
            error = PermissionDenied(text, reason="insufficient-scope", server=spec.name, scope=challenge.scope)
        else:
            error = PermissionDenied(f"needs login: {command}", reason=NEEDS_LOGIN, server=spec.name, command=command)
        if server.problem is None or server.problem.message != error.message:
            self._publish("mcp.login_needed", agent=spec.name, reason=error.message)
        server.problem = error
        return error

    async def _renewed(self, spec: Spec, server: _Server, grant: Grant, *, is_refused: bool) -> Grant | None:
        """Returns the grant with a new token; one that is still good where its server cannot be asked now."""
        if not grant.refresh_token:
            if _needs_no_person(spec):
                return await self._own(spec, server)
            if is_refused or time.time() >= grant.expires_at > 0:
                raise self._needs(spec, server, Challenge())
            return grant
        try:
            found = await self._step(spec, server, Order(step="refresh", url=grant.url, grant=grant))
        except PermissionDenied as error:
            if error.data.get("error") not in LOST:
                raise
            logger.warning('the grant of "%s" is gone: %s', spec.name, error.message)
            client = None if error.data.get("error") == "invalid_client" else grant.client
            await self._keep(spec, server, None, client, grant.scope)
            raise self._needs(spec, server, Challenge()) from error
        except ToolFailed:
            if is_refused or time.time() >= grant.expires_at:
                raise
            return grant  # its last seconds; the next request asks again
        assert found.grant is not None, "a step that renews returns a grant"
        await self._keep(spec, server, found.grant, found.grant.client, grant.scope)
        return found.grant

    async def _own(self, spec: Spec, server: _Server) -> Grant:
        """Gets a token for corral itself, as each `grant` but "authorization_code" says."""
        kept = server.kept
        order = Order(
            step="client",
            url=_address(spec),
            challenge=server.challenge,
            client=None if kept is None else kept.client,
            scope="" if kept is None else kept.scope,
        )
        found = await self._step(spec, server, order)
        assert found.grant is not None, "such a step returns a grant"
        await self._keep(spec, server, found.grant, found.grant.client, found.grant.scope)
        return found.grant

    async def _step(self, spec: Spec, server: _Server, order: Order) -> Answer:
        """Performs a step; a failure of the last seconds is the answer at once, so that callers cannot flood a server."""
        now = time.monotonic()
        if server.problem is not None and now - server.failed_at < RETRY_AFTER_S:
            raise server.problem
        try:
            return await self._perform(spec, order)
        except CorralError as error:
            server.problem, server.failed_at = error, now
            raise

    async def start(self, spec: Spec, *, port: int, device: bool, scopes: tuple[str, ...]) -> Login:
        """Starts a login; the browser is to be sent to its `authorization_url`, or the code to be typed at another device."""
        _check_may_log_in(spec)
        server = self._servers.setdefault(spec.name, _Server())
        async with server.lock:
            await self._load(spec, server, is_lenient=True)
            kept, oauth = server.kept, spec.oauth
            own = "" if oauth is None else oauth.redirect_uri
            scope = "" if kept is None else kept.scope
            order = Order(
                step="device" if device else "start",
                url=_address(spec),
                challenge=server.challenge,
                client=None if kept is None else kept.client,
                scope=" ".join(dict.fromkeys((*scope.split(), *scopes))),
                redirect=own or f"http://127.0.0.1:{port}/callback",
            )
            found = await self._perform(spec, order)
            pending = found.pending
            assert pending is not None, "such a step returns what is pending"
            # The registration counts even if the person does not come back.
            await self._keep(spec, server, self._grant(spec, server), pending.client, scope)
        self._forget_old()
        login = Login(secrets.token_urlsafe(16), spec.name, pending)
        self._logins[login.id] = login
        return login

    async def finish(self, spec: Spec, number: str, redirect: str) -> Grant:
        """Finishes a login with the address to which the browser was sent back."""
        login = self._login(spec, number)
        order = Order(step="finish", url=login.pending.url, pending=login.pending, redirect=redirect)
        found = await self._perform(spec, order)
        self._logins.pop(number, None)  # a code is good once
        assert found.grant is not None, "such a step returns a grant"
        await self._has_succeeded(spec, found.grant)
        return found.grant

    async def poll(self, spec: Spec, number: str) -> Grant | None:
        """Waits for the person at another device for POLL_S at most; None: the login is still open."""
        login = self._login(spec, number)
        until = min(time.time() + POLL_S, login.pending.expires_at)
        order = Order(step="poll", url=login.pending.url, pending=login.pending, until=until)
        try:
            found = await self._perform(spec, order)
        except PermissionDenied:
            self._logins.pop(number, None)
            raise
        if found.grant is not None:
            self._logins.pop(number, None)
            await self._has_succeeded(spec, found.grant)
        return found.grant

    def pending(self, number: str) -> Login | None:
        """Returns a login under way."""
        return self._logins.get(number)

    async def logout(self, spec: Spec, *, revoke: bool = True) -> bool:
        """Forgets the grant of a server, and tells its authorization server; returns whether there was one."""
        server = self._servers.setdefault(spec.name, _Server())
        async with server.lock:
            await self._load(spec, server, is_lenient=True)
            grant = self._grant(spec, server)
            there_was = await self.forget(spec.name)
        if grant is not None and revoke:
            try:
                await self._perform(spec, Order(step="revoke", url=grant.url, grant=grant))
            except CorralError as error:
                logger.warning('cannot revoke the token of "%s": %s', spec.name, error.message)
        if there_was:
            self._publish("mcp.logged_out", agent=spec.name)
        return there_was

    async def forget(self, name: str) -> bool:
        """Removes what is kept of a server, in memory and on disk; returns whether there was anything."""
        there_was = await asyncio.to_thread(self._store.remove, name)
        server = self._servers.get(name)
        if server is not None:
            server.kept, server.is_loaded, server.problem = None, True, None
            server.failed_at = -RETRY_AFTER_S
        for number in [each.id for each in self._logins.values() if each.name == name]:
            del self._logins[number]
        return there_was

    async def removed(self, name: str) -> None:
        """Forgets what is kept of a server that was removed; a failure is logged."""
        try:
            await self.forget(name)
        except CorralError as error:
            logger.error("%s", error.message)
        self._servers.pop(name, None)

    async def facts(self, spec: Spec) -> dict[str, object]:
        """Returns what may be shown of a server's grant: no token, no secret."""
        server = self._servers.setdefault(spec.name, _Server())
        if not server.is_loaded:
            async with server.lock:
                await self._load(spec, server, is_lenient=True)
        grant = self._grant(spec, server)
        problem = None if server.problem is None else server.problem.message
        if grant is None:
            return {"name": spec.name, "state": "none", "reason": problem}
        return {
            "name": spec.name,
            "state": "logged-in",
            "issuer": grant.endpoints.issuer,
            "resource": grant.resource,
            "client": grant.client.origin,
            "scopes": grant.scope.split(),
            "renews": bool(grant.refresh_token) or _needs_no_person(spec),
            "obtained_at": grant.obtained_at,
            "expires_at": grant.expires_at or None,
            "reason": problem,
        }

    def _login(self, spec: Spec, number: str) -> Login:
        self._forget_old()
        login = self._logins.get(number)
        if login is None or login.name != spec.name:
            raise NotFound(f'cannot find this login to "{spec.name}": start another one', server=spec.name)
        if login.pending.url != _address(spec):
            raise Conflict(f'cannot finish the login to "{spec.name}": its url was changed meanwhile', server=spec.name)
        return login

    def _forget_old(self) -> None:
        now = time.time()
        for login in list(self._logins.values()):
            if login.pending.expires_at < now or len(self._logins) > MAX_LOGINS:
                del self._logins[login.id]

    async def _has_succeeded(self, spec: Spec, grant: Grant) -> None:
        server = self._servers.setdefault(spec.name, _Server())
        async with server.lock:
            await self._load(spec, server, is_lenient=True)
            before = server.kept.scope if server.kept is not None else ""
            scope = " ".join(dict.fromkeys((*before.split(), *grant.scope.split())))
            await self._keep(spec, server, grant, grant.client, scope)
            server.challenge = None
        facts = {"issuer": grant.endpoints.issuer, "scopes": grant.scope.split()}
        self._publish("mcp.logged_in", agent=spec.name, **facts)

    async def _load(self, spec: Spec, server: _Server, *, is_lenient: bool = False) -> None:
        """Reads what is kept once."""
        if server.is_loaded:
            return
        try:
            server.kept = await asyncio.to_thread(self._store.get, spec.name)
        except CorralError as error:
            logger.warning("%s", error.message)
            if not is_lenient:
                raise self._needs(spec, server, Challenge()) from error
        server.is_loaded = True

    async def _keep(self, spec: Spec, server: _Server, grant: Grant | None, client: Client | None, scope: str) -> None:
        kept = Kept(url=_address(spec), grant=grant, client=client, scope=scope)
        try:
            await asyncio.to_thread(self._store.set, spec.name, kept)
        except Overloaded as error:
            # A rotated token that is lost here would end the grant: it is used while the daemon lives.
            logger.error("%s", error.message)
        server.kept, server.is_loaded = kept, True
        if grant is not None:
            server.problem, server.failed_at = None, -RETRY_AFTER_S

    def _grant(self, spec: Spec, server: _Server) -> Grant | None:
        """Returns the grant of a server, unless it is for another address or another authorization server."""
        kept = server.kept
        if kept is None or kept.grant is None or kept.url != _address(spec):
            return None
        wanted = "" if spec.oauth is None else spec.oauth.issuer
        if wanted and kept.grant.endpoints.issuer != wanted:
            return None
        return kept.grant


def _address(spec: Spec) -> str:
    assert spec.url is not None, "it is a remote server"
    return spec.url


def _needs_no_person(spec: Spec) -> bool:
    return spec.oauth is not None and spec.oauth.grant != "authorization_code"


def _check_may_log_in(spec: Spec) -> None:
    text = f'cannot log in to "{spec.name}": '
    if spec.kind != "mcp" or spec.url is None:
        raise Conflict(f"{text}it is no remote MCP server", server=spec.name, reason="not-remote")
    if not spec.asks_tokens:
        words = "its headers have the credentials: remove Authorization from them"
        raise Conflict(f"{text}{words}", server=spec.name, reason="has-headers")
    if _needs_no_person(spec):
        words = "corral logs in by itself, as oauth.grant says"
        raise Conflict(f"{text}{words}", server=spec.name, reason="needs-no-person")


def _is_due(grant: Grant) -> bool:
    if not grant.expires_at:
        return False
    life_s = grant.expires_at - grant.obtained_at
    return time.time() >= grant.expires_at - min(EARLY_S, EARLY_PART * life_s)


def _given(grant: Grant | None) -> dict[str, object]:
    if grant is None:
        return {}
    found: dict[str, object] = {"access_token": grant.access_token}
    if grant.dpop_key:
        found["dpop_key"] = grant.dpop_key
    if grant.expires_at:
        found["expires_in_s"] = max(grant.expires_at - time.time(), 0.0)
    return found
