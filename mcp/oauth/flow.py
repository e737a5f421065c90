"""Performs the steps of an authorization: discovery, registration, the request for a person, and the requests for tokens.

Each step takes an Order and returns an Answer; between two steps nothing is kept here. Errors are PermissionDenied where a
person or an authorization server refuses, and ToolFailed where a peer breaks the rules; `data["reason"]` is one of the words
in docs/how-to/log-in-to-remote-servers.md.
"""

import asyncio
import hashlib
import secrets
import time
from collections.abc import Mapping
from urllib.parse import parse_qs, urlencode, urlsplit

from msgspec.structs import replace

from corral.worker.contract.errors import InvalidParams, PermissionDenied, ToolFailed

from ..protocol import dpop
from . import client_auth, metadata
from .http import Http, Reply
from .records import Answer, Authorization, Challenge, Client, Endpoints, Grant, Order, Pending, Settings, parse

LOGIN_S = 600.0
"""Seconds that a person has for a login."""

MAX_TOKEN_CHARS = 16 * 1024

MAX_LIFE_S = 366 * 86_400.0
"""Seconds after which a token counts as ended, however long its server says."""

DEVICE_GRANT = "urn:ietf:params:oauth:grant-type:device_code"

JWT_GRANT = "urn:ietf:params:oauth:grant-type:jwt-bearer"

EXCHANGE_GRANT = "urn:ietf:params:oauth:grant-type:token-exchange"

ID_TOKEN = "urn:ietf:params:oauth:token-type:id_token"

ID_JAG = "urn:ietf:params:oauth:token-type:id-jag"
"""Type of the grant that an identity provider gives for an ID token, for one authorization server."""

OFFLINE = "offline_access"


async def perform(order: Order) -> Answer:
    """Performs one step."""
    async with Http(order.url, order.settings.issuer, order.settings.idp_issuer) as http:
        match order.step:
            case "start" | "device":
                return Answer(pending=await _begin(http, order))
            case "finish":
                return Answer(grant=await _finish(http, order))
            case "poll":
                return Answer(grant=await _poll(http, order))
            case "refresh":
                return Answer(grant=await _refresh(http, order))
            case "client":
                return Answer(grant=await _without_person(http, order))
            case "revoke":
                await _revoke(http, order)
                return Answer()


# -- discovery


async def _discover(http: Http, order: Order) -> tuple[str, Endpoints, tuple[str, ...], Challenge]:
    """Returns the resource, its authorization server, the scopes that it supports, and the challenge."""
    challenge = order.challenge or await _probe(http)
    document = await _resource_document(http, challenge)
    if document is None:
        issuer = order.settings.issuer or metadata.origin_of(http.server_url)
        found = await _endpoints(http, issuer)
        if found is None and order.settings.issuer:
            raise _no_metadata(issuer)
        found = found or metadata.fallback_endpoints(http.server_url)
        return metadata.canonical(http.server_url), found, (), challenge
    resource = metadata.checked_resource(document, http.server_url)
    issuer = _issuer(metadata.strings(document.get("authorization_servers")), order, http.server_url)
    found = await _endpoints(http, issuer)
    if found is None:
        raise _no_metadata(issuer)
    if document.get("dpop_bound_access_tokens_required") is True and not found.binds_tokens:
        text = f'cannot log in at "{issuer}": the server requires tokens that are bound by DPoP, and offers none with {dpop.ALGORITHM}'
        raise metadata.refused(text, "no-dpop", issuer=issuer)
    return resource, found, metadata.strings(document.get("scopes_supported")), challenge


async def _probe(http: Http) -> Challenge:
    """Asks the server without a token, for the challenge that it answers."""
    ping = {"jsonrpc": "2.0", "id": 1, "method": "ping"}
    accept = {"Accept": "application/json, text/event-stream"}
    status, _, headers = await http.post_json(http.server_url, ping, accept)
    return parse(status, headers.get("WWW-Authenticate", ""))


async def _resource_document(http: Http, challenge: Challenge) -> Mapping[str, object] | None:
    """Returns the protected-resource metadata; None for a server that has none (2025-03-26)."""
    if challenge.resource_metadata:
        status, found, _ = await http.get(challenge.resource_metadata)
        if status == 200 and found:
            return found
    for address in metadata.resource_addresses(http.server_url):
        status, found, _ = await http.get(address)
        if status == 200 and found:
            return found
    return None


async def _endpoints(http: Http, issuer: str) -> Endpoints | None:
    metadata.checked_address(issuer, "an authorization server", http.server_url)
    for address in metadata.server_addresses(issuer):
        status, found, _ = await http.get(address)
        if status == 200 and found:
            return metadata.read_endpoints(found, issuer, http.server_url)
    return None


def _issuer(issuers: tuple[str, ...], order: Order, server_url: str) -> str:
    """Chooses the authorization server: the configured one, that of the earlier client, else the first."""
    wanted = order.settings.issuer
    if wanted:
        if wanted in issuers:
            return wanted
        text = f'cannot log in to {metadata.origin_of(server_url)}: it does not name the issuer "{wanted}"'
        raise metadata.refused(text, "issuer-mismatch", issuer=wanted, known=list(issuers[:10]))
    if not issuers:
        return metadata.origin_of(server_url)
    earlier = "" if order.client is None else order.client.issuer
    return earlier if earlier in issuers else issuers[0]


def _no_metadata(issuer: str) -> ToolFailed:
    return metadata.refused(f'cannot log in at "{issuer}": it has no metadata', "no-metadata", issuer=issuer)


# -- the client


async def _client_of(http: Http, order: Order, endpoints: Endpoints, redirect_uri: str, scope: str) -> Client:
    """Returns corral as a client of an authorization server: as configured, by a document, or registered now or before."""
    settings, earlier = order.settings, order.client
    if settings.client_id:
        if not settings.issuer and earlier is not None and earlier.issuer != endpoints.issuer:
            text = (
                f'cannot log in at "{endpoints.issuer}": the client id was used at "{earlier.issuer}";'
                " set oauth.issuer to the server that it is for"
            )
            raise metadata.refused(text, "issuer-mismatch", issuer=endpoints.issuer)
        return Client(
            issuer=endpoints.issuer,
            client_id=settings.client_id,
            client_secret=settings.client_secret,
            method=client_auth.method_for(settings, endpoints.methods),
            origin="configured",
            redirect_uri=redirect_uri,
        )
    if settings.client_metadata_url and endpoints.takes_documents:
        return Client(
            issuer=endpoints.issuer,
            client_id=settings.client_metadata_url,
            method="private_key_jwt" if settings.private_key else "none",
            origin="document",
            redirect_uri=redirect_uri,
        )
    if earlier is not None and earlier.issuer == endpoints.issuer:
        is_known = earlier.origin == "registered" and earlier.redirect_uri == redirect_uri
        if is_known and (not earlier.expires_at or earlier.expires_at > time.time() + LOGIN_S):
            return earlier
    if not endpoints.registration:
        text = (
            f'cannot register at "{endpoints.issuer}": it has no registration;'
            " set oauth.client_id to the id that it has for corral"
        )
        raise PermissionDenied(text, reason="no-registration", issuer=endpoints.issuer)
    return await _register(http, endpoints, redirect_uri, scope)


async def _register(http: Http, endpoints: Endpoints, redirect_uri: str, scope: str) -> Client:
    method = client_auth.method_to_ask(endpoints.methods)
    body: dict[str, object] = {
        "client_name": "corral",
        "application_type": "native",
        "redirect_uris": [redirect_uri],
        "grant_types": ["authorization_code", "refresh_token"],
        "response_types": ["code"],
        "token_endpoint_auth_method": method,
    }
    if not redirect_uri:
        body |= {"redirect_uris": [], "grant_types": [DEVICE_GRANT, "refresh_token"], "response_types": []}
    if scope:
        body["scope"] = scope
    status, found, _ = await http.post_json(endpoints.registration, body)
    client_id = found.get("client_id")
    if status not in (200, 201) or not isinstance(client_id, str) or not client_id:
        raise _denied(f'register at "{endpoints.issuer}"', status, found, "registration-refused")
    secret, ends = found.get("client_secret"), found.get("client_secret_expires_at")
    given = found.get("token_endpoint_auth_method")
    return Client(
        issuer=endpoints.issuer,
        client_id=client_id,
        client_secret=secret if isinstance(secret, str) else "",
        method=given if isinstance(given, str) else method,
        redirect_uri=redirect_uri,
        expires_at=float(ends) if isinstance(ends, int) and ends > 0 else 0.0,
    )


# -- a login by a person


async def _prepared(http: Http, order: Order, redirect_uri: str = "") -> Pending:
    """Returns all that is known before the first token is asked for."""
    resource, endpoints, supported, challenge = await _discover(http, order)
    scope = chosen_scope(order, challenge, supported, endpoints)
    return Pending(
        url=http.server_url,
        resource=resource,
        endpoints=endpoints,
        client=await _client_of(http, order, endpoints, redirect_uri, scope),
        scope=scope,
        redirect_uri=redirect_uri,
        expires_at=time.time() + LOGIN_S,
        dpop_key=dpop.new_key() if endpoints.binds_tokens else "",
    )


async def _begin(http: Http, order: Order) -> Pending:
    if order.step == "device":
        return await _ask_device(http, order.settings, await _prepared(http, order))
    pending = await _prepared(http, order, order.redirect)
    endpoints, scope = pending.endpoints, pending.scope
    if not endpoints.authorization:
        text = f'cannot log in at "{endpoints.issuer}": it has no authorization endpoint'
        raise metadata.refused(text, "no-metadata", issuer=endpoints.issuer)
    verifier, state = secrets.token_urlsafe(48), secrets.token_urlsafe(24)
    query = {
        "response_type": "code",
        "client_id": pending.client.client_id,
        "redirect_uri": pending.redirect_uri,
        "state": state,
        "code_challenge": dpop.base64url(hashlib.sha256(verifier.encode()).digest()),
        "code_challenge_method": "S256",
        "resource": pending.resource,
    }
    if pending.dpop_key:
        query["dpop_jkt"] = dpop.thumbprint(pending.dpop_key)
    if scope:
        query["scope"] = scope
    if OFFLINE in scope.split():
        query["prompt"] = "consent"  # OpenID Connect, 11: without it no offline access is given
    joint = "&" if urlsplit(endpoints.authorization).query else "?"
    address = f"{endpoints.authorization}{joint}{urlencode(query)}"
    return replace(pending, state=state, verifier=verifier, authorization_url=address)


def chosen_scope(order: Order, challenge: Challenge, supported: tuple[str, ...], endpoints: Endpoints) -> str:
    """Returns the scopes to ask for, "" for none: configured ones, else those of the challenge, else those that the server supports.

    Earlier scopes are asked for again, so that a step up takes nothing away.
    """
    base = list(order.settings.scopes) or challenge.scope.split() or list(supported)
    if challenge.wants_more_scope:
        base += challenge.scope.split()
    base += order.scope.split()
    if base and OFFLINE in endpoints.scopes and order.settings.grant == "authorization_code":
        base.append(OFFLINE)
    return " ".join(dict.fromkeys(base))


async def _finish(http: Http, order: Order) -> Grant:
    pending = order.pending
    assert pending is not None, "a login is finished after it was started"
    fields = {
        "grant_type": "authorization_code",
        "code": code_of(order.redirect, pending),
        "redirect_uri": pending.redirect_uri,
        "code_verifier": pending.verifier,
    }
    return await _exchange(http, order.settings, pending, fields)


def code_of(redirect: str, pending: Pending) -> str:
    """Returns the code in the address to which a browser was sent back, once state and issuer are right."""
    query = parse_qs(urlsplit(redirect.strip()).query)
    single = {name: values[0] for name, values in query.items() if len(values) == 1}
    if "state" not in single:
        text = "cannot finish the login: this is not the address to which the browser was sent back"
        raise InvalidParams(text, key="redirect", reason="no-redirect")
    if not secrets.compare_digest(single["state"].encode(), pending.state.encode()):
        raise PermissionDenied("cannot finish the login: the address belongs to another login", reason="state-mismatch")
    issuer, iss = pending.endpoints.issuer, single.get("iss")
    if iss is None and pending.endpoints.sends_iss:
        text = f'cannot finish the login: the answer does not say that it comes from "{issuer}"'
        raise PermissionDenied(text, reason="iss-missing", issuer=issuer)
    if iss is not None and iss != issuer:
        text = f'cannot finish the login: the answer comes from "{iss[:200]}", not from "{issuer}"'
        raise PermissionDenied(text, reason="iss-mismatch", issuer=issuer)
    if "error" in single:
        raise _denied(f'log in at "{issuer}"', 0, single, "access-denied")
    if not single.get("code"):
        raise InvalidParams("cannot finish the login: the address has no code", key="redirect", reason="no-redirect")
    return single["code"]


# -- a login at another device (RFC 8628)


async def _ask_device(http: Http, settings: Settings, pending: Pending) -> Pending:
    endpoints = pending.endpoints
    if not endpoints.device:
        text = f'cannot log in at "{endpoints.issuer}" by a device code: it does not offer that'
        raise PermissionDenied(text, reason="no-device-flow", issuer=endpoints.issuer)
    fields, headers = client_auth.authenticated(pending.client, endpoints, settings, time.time())
    fields |= {"client_id": pending.client.client_id, "resource": pending.resource}
    if pending.scope:
        fields["scope"] = pending.scope
    status, found, _ = await http.post_form(endpoints.device, fields, headers)
    texts = [found.get(key) for key in ("device_code", "user_code", "verification_uri")]
    device_code, user_code, uri = (each if isinstance(each, str) else "" for each in texts)
    if status != 200 or not device_code or not user_code:
        raise _denied(f'log in at "{endpoints.issuer}"', status, found, "token-refused")
    interval, life = found.get("interval"), found.get("expires_in")
    complete = found.get("verification_uri_complete")
    what = "the address for the code"
    return replace(
        pending,
        device_code=device_code,
        user_code=user_code[:100],
        verification_uri=metadata.checked_address(uri, what, http.server_url),
        verification_uri_complete="" if complete is None else metadata.checked_address(complete, what, http.server_url),
        interval_s=min(max(float(interval), 0.1), 60.0) if isinstance(interval, int | float) else 5.0,
        expires_at=time.time() + min(float(life) if isinstance(life, int | float) else LOGIN_S, LOGIN_S),
    )


async def _poll(http: Http, order: Order) -> Grant | None:
    """Asks for the tokens until they are there; None: the person has not decided until `order.until`."""
    pending = order.pending
    assert pending is not None, "a login is polled for after it was started"
    interval_s = pending.interval_s
    fields = {"grant_type": DEVICE_GRANT, "device_code": pending.device_code}
    while True:
        try:
            return await _exchange(http, order.settings, pending, fields)
        except PermissionDenied as error:
            if error.data.get("error") not in ("authorization_pending", "slow_down"):
                raise
            interval_s += 5.0 if error.data.get("error") == "slow_down" else 0.0
        if time.time() + interval_s > order.until:
            return None
        await asyncio.sleep(interval_s)


# -- tokens


async def _refresh(http: Http, order: Order) -> Grant:
    """Renews a grant; a refresh token that the server gives takes the place of the old one."""
    grant = order.grant
    assert grant is not None, "there is a grant to renew"
    assert grant.refresh_token, "it can be renewed"
    fields = {"grant_type": "refresh_token", "refresh_token": grant.refresh_token}
    found = await _exchange(http, order.settings, grant, fields)
    return replace(found, refresh_token=found.refresh_token or grant.refresh_token)


async def _without_person(http: Http, order: Order) -> Grant:
    """Gets a token for corral itself: by its credentials, by a JWT of its workload, or by way of an identity provider."""
    settings = order.settings
    pending = await _prepared(http, order)
    fields = {"grant_type": "client_credentials"}
    if settings.grant != "client_credentials":
        assertion = settings.assertion
        if settings.grant == "enterprise":
            assertion = await _id_jag(http, settings, pending)
        fields = {"grant_type": JWT_GRANT, "assertion": assertion}
    if pending.scope:
        fields["scope"] = pending.scope
    return await _exchange(http, settings, pending, fields)


async def _id_jag(http: Http, settings: Settings, about: Pending) -> str:
    """Returns the grant that the identity provider gives for the ID token (enterprise-managed authorization)."""
    provider = await _endpoints(http, settings.idp_issuer)
    if provider is None:
        raise _no_metadata(settings.idp_issuer)
    form = {
        "grant_type": EXCHANGE_GRANT,
        "requested_token_type": ID_JAG,
        "subject_token": settings.assertion,
        "subject_token_type": ID_TOKEN,
        "audience": about.endpoints.issuer,
        "resource": about.resource,
        "client_id": settings.idp_client_id,
    }
    if about.scope:
        form["scope"] = about.scope
    status, found, _ = await http.post_form(provider.token, form)
    token = found.get("access_token")
    if status != 200 or "error" in found:
        raise _denied(f'get a grant from "{provider.issuer}"', status, found, "token-refused")
    if found.get("issued_token_type") != ID_JAG or not _is_token(token):
        text = f'cannot use the grant of "{provider.issuer}": it is none for an authorization server ({ID_JAG})'
        raise metadata.refused(text, "bad-answer", issuer=provider.issuer)
    return str(token)


async def _exchange(http: Http, settings: Settings, about: Authorization, fields: Mapping[str, str]) -> Grant:
    endpoints, client = about.endpoints, about.client
    if client.origin == "configured":  # the secret of the moment, not that of the login
        client = replace(client, client_secret=settings.client_secret)
    now = time.time()
    more, headers = client_auth.authenticated(client, endpoints, settings, now)
    form = {**fields, **more, "resource": about.resource}
    return _granted(await _proven(http, endpoints.token, form, headers, about.dpop_key), about, client, now)


async def _proven(http: Http, url: str, form: Mapping[str, str], headers: Mapping[str, str], key: str) -> Reply:
    """Posts a form with a proof of the key, if there is one; once more where the server wants its nonce in that."""
    if not key:
        return await http.post_form(url, form, headers)
    reply = await http.post_form(url, form, {**headers, dpop.HEADER: dpop.proof(key, "POST", url, time.time())})
    nonce = dpop.nonce_of(reply[2])
    if reply[1].get("error") != dpop.USE_NONCE or not nonce:
        return reply
    again = {**headers, dpop.HEADER: dpop.proof(key, "POST", url, time.time(), nonce=nonce)}
    return await http.post_form(url, form, again)


def _granted(reply: Reply, about: Authorization, client: Client, now: float) -> Grant:
    status, found, _ = reply
    issuer = about.endpoints.issuer
    if status != 200 or "error" in found:
        raise _denied(f'get a token from "{issuer}"', status, found, "token-refused")
    kind = found.get("token_type", "bearer")
    token, refresh = found.get("access_token"), found.get("refresh_token")
    kind = kind.lower() if isinstance(kind, str) else ""
    if kind not in ("bearer", "dpop") or (kind == "dpop" and not about.dpop_key):
        text = f'cannot use the token of "{issuer}": it is neither a bearer token nor one of DPoP that was asked for'
        raise metadata.refused(text, "bad-answer", issuer=issuer)
    if not _is_token(token) or not (refresh is None or _is_token(refresh)):
        text = f'cannot use the token of "{issuer}": it is not a line of at most {MAX_TOKEN_CHARS} visible characters'
        raise metadata.refused(text, "bad-answer", issuer=issuer)
    scope, life = found.get("scope"), found.get("expires_in")
    life_s = float(life) if isinstance(life, int | float) and life > 0 else 0.0
    return Grant(
        url=about.url,
        resource=about.resource,
        endpoints=about.endpoints,
        client=client,
        access_token=str(token),
        refresh_token="" if refresh is None else str(refresh),
        scope=" ".join(scope.split()) if isinstance(scope, str) and scope.strip() else about.scope,
        obtained_at=now,
        expires_at=now + min(life_s, MAX_LIFE_S) if life_s else 0.0,
        dpop_key=about.dpop_key if kind == "dpop" else "",
    )


def _is_token(value: object) -> bool:
    return (
        isinstance(value, str) and 0 < len(value) <= MAX_TOKEN_CHARS and all("\x21" <= each <= "\x7e" for each in value)
    )


def _denied(what: str, status: int, found: Mapping[str, object], reason: str) -> PermissionDenied | ToolFailed:
    """Returns the error of a refusal: with the code of OAuth, and its description in printable characters."""
    code, words = found.get("error"), found.get("error_description")
    if not isinstance(code, str):
        return metadata.refused(f"cannot {what}: HTTP {status}", "bad-answer", status=status)
    text = f"cannot {what}: {metadata.printable(code)}"
    if isinstance(words, str) and words:
        text = f"{text}: {metadata.printable(words)}"
    return PermissionDenied(text, reason=reason, error=code[:100])


async def _revoke(http: Http, order: Order) -> None:
    """Revokes the tokens at the authorization server (RFC 7009); a refusal changes nothing."""
    grant = order.grant
    assert grant is not None, "there is a grant to revoke"
    if not grant.endpoints.revocation:
        return
    more, headers = client_auth.authenticated(grant.client, grant.endpoints, order.settings, time.time())
    for hint, token in (("refresh_token", grant.refresh_token), ("access_token", grant.access_token)):
        if token:
            fields = {"token": token, "token_type_hint": hint, **more}
            await http.post_form(grant.endpoints.revocation, fields, headers)
