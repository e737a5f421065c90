"""A server of the official SDK behind its own authorization server; its port is the only line on stdout.

    mcp_oauth.py [--life SECONDS] [--no-refresh] [--transport http|sse] [--machine]

Its authorization server agrees to every login at once: it stands for the person, too. Refresh tokens rotate: a second use of one ends
the grant. `/did` returns what has happened, and `/end` ends every access token. With `--machine` the authorization server is another one,
which gives tokens to the client "robot" with the secret "s3cret" alone, for itself or for a person at another device, who agrees at the
second poll.
"""

import argparse
import asyncio
import base64
import secrets
import socket
import time

import uvicorn
from mcp.server.auth.provider import (
    AccessToken,
    AuthorizationCode,
    AuthorizationParams,
    IdentityAssertionParams,
    RefreshToken,
    TokenError,
    construct_redirect_uri,
)
from mcp.server.auth.settings import AuthSettings, ClientRegistrationOptions, RevocationOptions
from mcp.server.mcpserver import MCPServer
from mcp.shared.auth import OAuthClientInformationFull, OAuthToken
from pydantic import AnyHttpUrl
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

DEVICE = "urn:ietf:params:oauth:grant-type:device_code"


class Provider:
    """The authorization server, in memory."""

    def __init__(self, life_s: int, *, refreshes: bool) -> None:
        self.life_s = life_s
        self.refreshes = refreshes
        self.clients: dict[str, OAuthClientInformationFull] = {}
        self.codes: dict[str, AuthorizationCode] = {}
        self.access: dict[str, AccessToken] = {}
        self.refresh: dict[str, RefreshToken] = {}
        self.used: set[str] = set()
        self.did: dict[str, int] = {}

    def note(self, what: str) -> None:
        self.did[what] = self.did.get(what, 0) + 1

    async def get_client(self, client_id: str) -> OAuthClientInformationFull | None:
        return self.clients.get(client_id)

    async def register_client(self, client_info: OAuthClientInformationFull) -> None:
        self.note("registered")
        assert client_info.client_id is not None
        self.clients[client_info.client_id] = client_info

    async def authorize(self, client: OAuthClientInformationFull, params: AuthorizationParams) -> str:
        self.note("authorized")
        assert client.client_id is not None
        code = AuthorizationCode(
            code=secrets.token_urlsafe(24),
            scopes=params.scopes or [],
            expires_at=time.time() + 60,
            client_id=client.client_id,
            code_challenge=params.code_challenge,
            redirect_uri=params.redirect_uri,
            redirect_uri_provided_explicitly=params.redirect_uri_provided_explicitly,
            resource=params.resource,
        )
        self.codes[code.code] = code
        return construct_redirect_uri(str(params.redirect_uri), code=code.code, state=params.state)

    async def load_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: str
    ) -> AuthorizationCode | None:
        return self.codes.get(authorization_code)

    async def exchange_authorization_code(
        self, client: OAuthClientInformationFull, authorization_code: AuthorizationCode
    ) -> OAuthToken:
        self.note("exchanged")
        del self.codes[authorization_code.code]
        return self.issue(authorization_code.client_id, authorization_code.scopes, authorization_code.resource)

    async def load_refresh_token(self, client: OAuthClientInformationFull, refresh_token: str) -> RefreshToken | None:
        if refresh_token in self.used:
            self.note("reused")  # somebody has it who should not
            self.refresh.clear()
            self.access.clear()
        return self.refresh.get(refresh_token)

    async def exchange_refresh_token(
        self, client: OAuthClientInformationFull, refresh_token: RefreshToken, scopes: list[str]
    ) -> OAuthToken:
        self.note("refreshed")
        if self.refresh.pop(refresh_token.token, None) is None:
            raise TokenError("invalid_grant", "it was used")
        self.used.add(refresh_token.token)
        return self.issue(refresh_token.client_id, scopes, refresh_token.resource)

    async def load_access_token(self, token: str) -> AccessToken | None:
        return self.access.get(token)

    async def revoke_token(self, token: AccessToken | RefreshToken) -> None:
        self.note("revoked")
        self.access.pop(token.token, None)
        self.refresh.pop(token.token, None)

    async def exchange_identity_assertion(
        self, client: OAuthClientInformationFull, params: IdentityAssertionParams
    ) -> OAuthToken:
        raise TokenError("unsupported_grant_type")

    def issue(self, client_id: str, scopes: list[str], resource: str | None) -> OAuthToken:
        access = AccessToken(
            token=f"at-{secrets.token_urlsafe(24)}",
            client_id=client_id,
            scopes=scopes,
            expires_at=int(time.time()) + self.life_s,
            resource=resource,
        )
        self.access[access.token] = access
        refresh = None
        if self.refreshes:
            refresh = RefreshToken(
                token=f"rt-{secrets.token_urlsafe(24)}", client_id=client_id, scopes=scopes, resource=resource
            )
            self.refresh[refresh.token] = refresh
        return OAuthToken(
            access_token=access.token,
            token_type="Bearer",
            expires_in=self.life_s,
            scope=" ".join(scopes),
            refresh_token=None if refresh is None else refresh.token,
        )

    async def verify_token(self, token: str) -> AccessToken | None:
        return self.access.get(token)


def machine(server: MCPServer, provider: Provider, base: str) -> None:
    """Adds an authorization server for programs."""

    @server.custom_route("/.well-known/oauth-authorization-server/machine", methods=["GET"])  # type: ignore[untyped-decorator]  # the SDK leaves it so
    async def about(_request: Request) -> Response:
        return JSONResponse(
            {
                "issuer": f"{base}/machine",
                "token_endpoint": f"{base}/machine/token",
                "device_authorization_endpoint": f"{base}/machine/device",
                "grant_types_supported": ["client_credentials", DEVICE],
                "token_endpoint_auth_methods_supported": ["client_secret_basic"],
            }
        )

    @server.custom_route("/machine/token", methods=["POST"])  # type: ignore[untyped-decorator]  # as above
    async def token(request: Request) -> Response:
        form = await request.form()
        provider.note("asked")
        wanted = base64.b64encode(b"robot:s3cret").decode()
        if request.headers.get("Authorization") != f"Basic {wanted}":
            return JSONResponse({"error": "invalid_client"}, status_code=401)
        if form["grant_type"] == DEVICE:
            assert form["device_code"] == "d3vice"
            provider.note("polled")
            if provider.did["polled"] == 1:
                return JSONResponse({"error": "authorization_pending"}, status_code=400)
            return JSONResponse(provider.issue("robot", ["read"], str(form["resource"])).model_dump(mode="json"))
        assert form["grant_type"] == "client_credentials"
        scopes = str(form["scope"]).split()
        found = provider.issue("robot", scopes, str(form["resource"]))
        return JSONResponse(found.model_dump(mode="json", exclude={"refresh_token"}))

    @server.custom_route("/machine/device", methods=["POST"])  # type: ignore[untyped-decorator]  # as above
    async def device(_request: Request) -> Response:
        codes = {"device_code": "d3vice", "user_code": "WXYZ-1", "interval": 1, "expires_in": 60}
        return JSONResponse({**codes, "verification_uri": f"{base}/code"})


async def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--life", type=int, default=3600)
    parser.add_argument("--no-refresh", action="store_true")
    parser.add_argument("--transport", choices=("http", "sse"), default="http")
    parser.add_argument("--machine", action="store_true")
    given = parser.parse_args()
    listening = socket.create_server(("127.0.0.1", 0))
    base = f"http://127.0.0.1:{listening.getsockname()[1]}"
    provider = Provider(given.life, refreshes=not given.no_refresh)
    path = "mcp" if given.transport == "http" else "sse"
    server = MCPServer(
        "guarded",
        version="1",
        auth_server_provider=None if given.machine else provider,
        token_verifier=provider if given.machine else None,
        auth=AuthSettings(
            issuer_url=AnyHttpUrl(f"{base}/machine" if given.machine else base),
            resource_server_url=AnyHttpUrl(f"{base}/{path}"),
            required_scopes=["read"],
            validate_token_resource=True,
            client_registration_options=ClientRegistrationOptions(
                enabled=True, valid_scopes=["read", "write"], default_scopes=["read"]
            ),
            revocation_options=RevocationOptions(enabled=True),
        ),
    )

    @server.tool()
    def add(a: int, b: int) -> int:
        """Adds two numbers."""
        return a + b

    @server.custom_route("/did", methods=["GET"])  # type: ignore[untyped-decorator]  # the SDK leaves it so
    async def did(_request: Request) -> Response:
        return JSONResponse(provider.did)

    @server.custom_route("/end", methods=["POST"])  # type: ignore[untyped-decorator]  # as above
    async def end(request: Request) -> Response:
        provider.access.clear()
        if request.query_params.get("all"):
            provider.refresh.clear()
        return JSONResponse({})

    if given.machine:
        machine(server, provider, base)
    app = server.streamable_http_app() if path == "mcp" else server.sse_app()
    config = uvicorn.Config(app, log_level="warning")
    print(listening.getsockname()[1], flush=True)
    await uvicorn.Server(config).serve(sockets=[listening])


if __name__ == "__main__":
    asyncio.run(main())
