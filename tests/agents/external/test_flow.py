"""The steps of an authorization against servers that break the rules, and those that the official SDK does not have."""

import asyncio
import base64
import json
import time
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from aiohttp import web
from msgspec.structs import replace

from corral.mcp.oauth import metadata
from corral.mcp.oauth.flow import perform
from corral.mcp.oauth.records import Challenge, Grant, Order, Pending, Settings, parse
from corral.mcp.protocol import dpop
from corral.supervisor.config.declared.oauth import oauth_table
from corral.supervisor.config.decoding.values import Refused
from corral.worker.contract.errors import CorralError

Json = dict[str, Any]  # documents of the protocol

REDIRECT = "http://127.0.0.1:41357/callback"


class Far:
    """A server and its authorization server at one address; tests change what it answers."""

    def __init__(self) -> None:
        self.base = ""
        self.resource: Json = {}
        self.metadata: Json = {}
        self.tokens: list[Json | str] = []
        """Answers of the token endpoint, in their order; the last one stays."""
        self.forms: list[Json] = []
        self.proofs: list[str] = []

    def begin(self, base: str) -> None:
        self.base = base
        self.resource = {"resource": f"{base}/mcp", "authorization_servers": [base]}
        self.metadata = {
            "issuer": base,
            "authorization_endpoint": f"{base}/authorize",
            "token_endpoint": f"{base}/token",
            "registration_endpoint": f"{base}/register",
            "device_authorization_endpoint": f"{base}/device",
            "code_challenge_methods_supported": ["S256"],
        }

    async def answer(self, request: web.Request) -> web.Response:
        path = request.path
        if path.startswith(metadata.PROTECTED):
            return web.json_response(self.resource)
        if path.startswith(metadata.AUTHORIZATION):
            return web.json_response(self.metadata)
        if path == "/register":
            return web.json_response({"client_id": "made"}, status=201)
        if path == "/device":
            self.forms.append(dict(await request.post()))
            codes = {"device_code": "d", "user_code": "WXYZ", "interval": 0.1, "expires_in": 30}
            return web.json_response({**codes, "verification_uri": f"{self.base}/code"})
        if path == "/token":
            self.forms.append(dict(await request.post()))
            self.proofs.append(request.headers.get("DPoP", ""))
            found = self.tokens.pop(0) if len(self.tokens) > 1 else self.tokens[0]
            if isinstance(found, str):
                nonce = {"DPoP-Nonce": "n1"} if found == "use_dpop_nonce" else {}
                return web.json_response({"error": found}, status=400, headers=nonce)
            return web.json_response(found)
        return web.Response(status=401, headers={"WWW-Authenticate": "Bearer"})


GOOD: Json = {"access_token": "at", "token_type": "Bearer", "expires_in": 60}


@asynccontextmanager
async def far() -> AsyncGenerator[Far]:
    made = Far()
    app = web.Application()
    app.router.add_route("*", "/{tail:.*}", made.answer)
    runner = web.AppRunner(app)
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        made.begin(f"http://127.0.0.1:{runner.addresses[0][1]}")
        yield made
    finally:
        await runner.cleanup()


def run(work: Callable[[Far], Awaitable[None]]) -> None:
    async def main() -> None:
        async with far() as server:
            await work(server)

    asyncio.run(main())


async def started(server: Far, step: Any = "start", **settings: Any) -> Pending:
    order = Order(step=step, url=f"{server.base}/mcp", redirect=REDIRECT, settings=Settings(**settings))
    pending = (await perform(order)).pending
    assert pending is not None
    return pending


async def finished(server: Far, pending: Pending, **more: str) -> Grant:
    redirect = f"{REDIRECT}?code=c&state={pending.state}"
    redirect += "".join(f"&{key}={value}" for key, value in more.items())
    order = Order(step="finish", url=f"{server.base}/mcp", pending=pending, redirect=redirect)
    grant = (await perform(order)).grant
    assert grant is not None
    return grant


def claims(token: str, part: int = 1) -> Json:
    text = token.split(".")[part]
    found: Json = json.loads(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)))
    return found


@pytest.mark.contract
def test_a_server_that_binds_tokens_gets_proofs_of_one_key_with_its_nonce() -> None:
    async def work(server: Far) -> None:
        server.metadata["dpop_signing_alg_values_supported"] = ["RS256", "ES256"]
        token = {**GOOD, "token_type": "DPoP", "refresh_token": "rt"}
        server.tokens = ["use_dpop_nonce", token]
        pending = await started(server)
        query = parse_qs(urlsplit(pending.authorization_url).query)
        assert query["dpop_jkt"] == [dpop.thumbprint(pending.dpop_key)]
        grant = await finished(server, pending)
        assert grant.dpop_key == pending.dpop_key
        first, second = (claims(each) for each in server.proofs)
        assert "nonce" not in first
        assert (second["nonce"], second["htu"]) == ("n1", f"{server.base}/token")
        assert first["jti"] != second["jti"]
        server.tokens = [token]
        await perform(Order(step="refresh", url=grant.url, grant=grant))
        assert len({str(claims(each, 0)["jwk"]) for each in server.proofs}) == 1

    run(work)


@pytest.mark.contract
def test_a_server_that_binds_tokens_may_still_give_a_bearer_token() -> None:
    async def work(server: Far) -> None:
        server.tokens = [{**GOOD, "token_type": "DPoP"}]
        pending = await started(server)
        with pytest.raises(CorralError) as caught:  # nothing is bound: no key was shown
            await finished(server, pending)
        assert reason_of(caught.value) == "bad-answer"
        server.metadata["dpop_signing_alg_values_supported"] = ["ES256"]
        server.tokens = [GOOD]
        assert (await finished(server, await started(server))).dpop_key == ""

    run(work)


@pytest.mark.contract
def test_the_jwt_of_a_workload_is_shown_once_and_no_other_grant_is_tried() -> None:
    async def work(server: Far) -> None:
        server.tokens = ["invalid_grant"]
        settings = Settings(grant="jwt_bearer", client_id="me", assertion="a.b.c")
        order = Order(step="client", url=f"{server.base}/mcp", settings=settings)
        with pytest.raises(CorralError) as caught:
            await perform(order)
        assert caught.value.data["error"] == "invalid_grant"
        (form,) = server.forms
        assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
        assert (form["assertion"], form["client_id"]) == ("a.b.c", "me")

    run(work)


@pytest.mark.contract
def test_an_identity_provider_that_gives_no_grant_ends_the_way_there() -> None:
    async def work(server: Far) -> None:
        settings = Settings(
            grant="enterprise", client_id="me", assertion="id", idp_issuer=server.base, idp_client_id="idp-me"
        )
        order = Order(step="client", url=f"{server.base}/mcp", settings=settings)
        for answer, reason in ((GOOD, "bad-answer"), ("access_denied", "token-refused")):
            server.tokens = [answer]
            with pytest.raises(CorralError) as caught:
                await perform(order)
            assert reason_of(caught.value) == reason
        assert {form["subject_token"] for form in server.forms} == {"id"}

    run(work)


@pytest.mark.core
@pytest.mark.parametrize(
    "table",
    [
        {"grant": "jwt_bearer", "client_id": "me"},
        {"grant": "enterprise", "client_id": "me", "assertion": "${secret:A}"},
        {"client_id": "me", "assertion": "${secret:A}"},
        {"client_id": "me", "idp_issuer": "https://idp.example"},
    ],
)
def test_settings_that_do_not_make_a_grant_are_refused(table: dict[str, object]) -> None:
    with pytest.raises(Refused):
        oauth_table(table)


def reason_of(error: CorralError) -> object:
    return error.data.get("reason")


# -- servers that break the rules


def no_pkce(server: Far) -> None:
    del server.metadata["code_challenge_methods_supported"]


def other_issuer(server: Far) -> None:
    server.metadata["issuer"] = "https://elsewhere.example"


def plain_http(server: Far) -> None:
    server.metadata["token_endpoint"] = "http://192.0.2.1/token"


def other_resource(server: Far) -> None:
    server.resource["resource"] = f"{server.base}/other"


def script(server: Far) -> None:
    server.metadata["authorization_endpoint"] = "javascript:alert(1)"


def pushed(server: Far) -> None:
    server.metadata["require_pushed_authorization_requests"] = True


def mutual_tls(server: Far) -> None:
    server.metadata["token_endpoint_auth_methods_supported"] = ["tls_client_auth"]


def bound(server: Far) -> None:
    server.resource["dpop_bound_access_tokens_required"] = True
    server.metadata["dpop_signing_alg_values_supported"] = ["RS512"]


def no_registration(server: Far) -> None:
    del server.metadata["registration_endpoint"]


@pytest.mark.contract
@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (no_pkce, "no-pkce"),
        (other_issuer, "issuer-mismatch"),
        (plain_http, "insecure-address"),
        (other_resource, "resource-mismatch"),
        (script, "insecure-address"),
        (no_registration, "no-registration"),
        (pushed, "no-par"),
        (mutual_tls, "unsupported-client-auth"),
        (bound, "no-dpop"),
    ],
)
def test_a_login_at_a_server_that_breaks_the_rules_is_refused(change: Callable[[Far], None], reason: str) -> None:
    async def work(server: Far) -> None:
        change(server)
        with pytest.raises(CorralError) as caught:
            await started(server)
        assert reason_of(caught.value) == reason
        assert server.forms == []

    run(work)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("invalid_grant", "token-refused"),
        ({**GOOD, "token_type": "mac"}, "bad-answer"),
        ({**GOOD, "access_token": "a\r\nX-Evil: 1"}, "bad-answer"),
        ({**GOOD, "access_token": "a" * 17_000}, "bad-answer"),
        ({**GOOD, "access_token": "a" * 300_000}, "bad-answer"),
        ({**GOOD, "access_token": 5}, "bad-answer"),
    ],
)
def test_an_answer_that_is_no_token_is_refused(answer: Json | str, reason: str) -> None:
    async def work(server: Far) -> None:
        server.tokens = [answer]
        pending = await started(server)
        with pytest.raises(CorralError) as caught:
            await finished(server, pending)
        assert reason_of(caught.value) == reason

    run(work)


@pytest.mark.contract
def test_the_request_of_a_login_has_pkce_state_and_the_resource() -> None:
    async def work(server: Far) -> None:
        server.tokens = [GOOD]
        pending = await started(server, scopes=("a", "b"))
        query = {k: v[0] for k, v in parse_qs(urlsplit(pending.authorization_url).query).items()}
        assert query["code_challenge_method"] == "S256"
        assert (query["resource"], query["scope"]) == (f"{server.base}/mcp", "a b")
        grant = await finished(server, pending)
        form = server.forms[-1]
        assert (form["code_verifier"], form["resource"]) == (pending.verifier, query["resource"])
        assert grant.access_token == "at"
        assert 0 < grant.expires_at - time.time() <= 60
        assert "at" not in repr(grant)

    run(work)


@pytest.mark.contract
@pytest.mark.parametrize(
    ("is_told", "iss", "reason"),
    [
        (True, None, "iss-missing"),
        (True, "{base}/", "iss-mismatch"),
        (False, "https://elsewhere.example", "iss-mismatch"),
    ],
)
def test_an_answer_of_another_authorization_server_is_refused(is_told: bool, iss: str | None, reason: str) -> None:
    async def work(server: Far) -> None:
        server.tokens = [GOOD]
        server.metadata["authorization_response_iss_parameter_supported"] = is_told
        more = {} if iss is None else {"iss": iss.format(base=server.base)}
        with pytest.raises(CorralError) as caught:
            await finished(server, await started(server), **more)
        assert reason_of(caught.value) == reason
        assert server.forms == []

    run(work)


# -- a device


@pytest.mark.contract
def test_a_device_is_polled_until_the_person_has_agreed() -> None:
    async def work(server: Far) -> None:
        server.tokens = ["authorization_pending", "authorization_pending", GOOD]
        pending = await started(server, "device")
        assert (pending.user_code, pending.verification_uri) == ("WXYZ", f"{server.base}/code")
        order = Order(step="poll", url=pending.url, pending=pending, until=time.time() + 20)
        grant = (await perform(order)).grant
        assert grant is not None
        assert [form["grant_type"] for form in server.forms[1:]] == ["urn:ietf:params:oauth:grant-type:device_code"] * 3

    run(work)


@pytest.mark.contract
def test_an_unconfirmed_device_ends_the_wait_and_a_refusal_ends_the_login() -> None:
    async def work(server: Far) -> None:
        server.tokens = ["authorization_pending", "access_denied"]
        pending = await started(server, "device")
        order = Order(step="poll", url=pending.url, pending=pending, until=0.0)
        assert (await perform(order)).grant is None
        with pytest.raises(CorralError) as caught:
            await perform(replace(order, until=time.time() + 20))
        assert caught.value.data["error"] == "access_denied"

    run(work)


@pytest.mark.contract
def test_a_server_without_a_device_flow_says_so() -> None:
    async def work(server: Far) -> None:
        del server.metadata["device_authorization_endpoint"]
        with pytest.raises(CorralError) as caught:
            await started(server, "device")
        assert reason_of(caught.value) == "no-device-flow"

    run(work)


# -- headers and addresses


@pytest.mark.core
@pytest.mark.parametrize(
    ("header", "wanted"),
    [
        ("", Challenge()),
        ("Bearer", Challenge()),
        ('Bearer scope="a  b", error="invalid_token"', Challenge(scope="a b", error="invalid_token")),
        ('Basic realm="x", Bearer scope=a', Challenge(scope="a")),
        ('Bearer resource_metadata="https://x/\\"y"', Challenge(resource_metadata='https://x/"y')),
        ('Basic scope="no"', Challenge()),
        ('Bearer scope="never ended', Challenge()),
    ],
)
def test_a_challenge_is_read(header: str, wanted: Challenge) -> None:
    assert parse(401, header) == wanted


@pytest.mark.core
def test_a_hostile_header_is_read_in_no_time() -> None:
    begun = time.process_time()
    parse(401, "Bearer " + 'a="\\' * 100_000)
    assert time.process_time() - begun < 1


@pytest.mark.core
def test_metadata_is_looked_for_in_the_order_of_the_specification() -> None:
    found = metadata.server_addresses("https://a.example/t/1/")
    assert [urlsplit(each).path for each in found] == [
        "/.well-known/oauth-authorization-server/t/1",
        "/.well-known/openid-configuration/t/1",
        "/t/1/.well-known/openid-configuration",
    ]
    found = metadata.resource_addresses("https://a.example/mcp?x=1")
    assert [urlsplit(each).path for each in found] == [
        "/.well-known/oauth-protected-resource/mcp",
        "/.well-known/oauth-protected-resource",
    ]


URL = "https://a.example/mcp"


@pytest.mark.core
@pytest.mark.parametrize("resource", [URL, "https://a.example", "https://a.example:443/"])
def test_a_resource_may_be_the_server_or_above_it(resource: str) -> None:
    assert metadata.checked_resource({"resource": resource}, URL) == resource


@pytest.mark.core
@pytest.mark.parametrize(
    "resource",
    [
        "https://a.example/mc",
        "https://a.example.evil/mcp",
        "http://a.example/mcp",
        "https://a.example:8443/mcp",
        "https://a.example/mcp#x",
        "https://a.example:x/mcp",
        None,
    ],
)
def test_a_resource_of_another_server_is_refused(resource: str | None) -> None:
    with pytest.raises(CorralError) as caught:
        metadata.checked_resource({"resource": resource}, URL)
    assert reason_of(caught.value) == "resource-mismatch"
