"""What the conformance suite starts as the client under test: corral's own session, over its process for remote servers.

The suite appends the server's address, and names the scenario and the revision in the environment. Nothing here mends
what the client does: it calls what the scenario has to see called.
"""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
import tempfile
import urllib.error
import urllib.request
from collections.abc import AsyncGenerator, Mapping
from pathlib import Path
from typing import Any

from msgspec.structs import replace

from corral.mcp.oauth.flow import perform
from corral.mcp.oauth.records import Answer, GrantType, Order, Settings
from corral.mcp.protocol.messages import Caller
from corral.mcp.upstream.http_bridge import HEADERS_VARIABLE, URL_VARIABLE
from corral.mcp.upstream.http_token import VARIABLE as ASKS_TOKENS
from corral.mcp.upstream.session import Listener, Session, Terms
from corral.supervisor.agents.external.logins import Logins
from corral.supervisor.agents.external.token_store import TokenStore
from corral.supervisor.config.declared.oauth import Oauth
from corral.supervisor.config.spec.spec import Spec
from corral.worker.contract.errors import CorralError, PermissionDenied

BOUND_S = 60.0

Json = dict[str, Any]  # MCP's objects, read freely


async def ask(method: str, params: Mapping[str, object]) -> object:
    """The answer of a person who accepts every form as it is."""
    if method != "elicitation/create":
        return {"roots": []}
    schema: Json = dict(params)["requestedSchema"]  # type: ignore[assignment]  # MCP's object
    properties: Json = schema["properties"]
    content = {name: one["default"] for name, one in properties.items() if "default" in one}
    return {"action": "accept", "content": content}


PERSON = Caller(name="conformance", capabilities={"elicitation": {}, "roots": {}}, ask=ask)


MAX_LOGINS = 3
"""Logins in a row for one call: a person would stop, too."""

DOCUMENT = "https://conformance-test.local/client-metadata.json"

CONTEXT: Json = json.loads(os.environ.get("MCP_CONFORMANCE_CONTEXT", "{}"))


class Account:
    """The daemon's own logins, with a person who agrees to everything, and no process for each step."""

    def __init__(self, url: str, folder: Path) -> None:
        is_own = "private_key_pem" in CONTEXT or "/client-credentials" in scenario()
        grants: dict[str, GrantType] = {
            "auth/wif-jwt-bearer": "jwt_bearer",
            "auth/enterprise-managed-authorization": "enterprise",
        }
        usual: GrantType = "client_credentials" if is_own else "authorization_code"
        self.settings = Settings(
            grant=grants.get(scenario(), usual),
            assertion=CONTEXT.get("valid_jwt") or CONTEXT.get("idp_id_token", ""),
            idp_issuer=CONTEXT.get("idp_issuer", ""),
            idp_client_id=CONTEXT.get("idp_client_id", ""),
            client_id=CONTEXT.get("client_id", ""),
            client_secret=CONTEXT.get("client_secret", ""),
            private_key=CONTEXT.get("private_key_pem", ""),
            issuer=CONTEXT.get("issuer", ""),
            client_metadata_url=DOCUMENT if "cimd" in scenario() else "",
        )
        oauth = Oauth(grant=self.settings.grant, issuer=self.settings.issuer)
        self.spec = Spec(name="conformance", kind="mcp", source="", url=url, oauth=oauth)
        self.logins = Logins(TokenStore(folder), self._perform, lambda *_, **__: None)

    async def _perform(self, _spec: Spec, order: Order) -> Answer:
        return await perform(replace(order, settings=self.settings))

    async def token(self, wish: Mapping[str, object]) -> object:
        return await self.logins.token(self.spec, wish)

    async def log_in(self) -> None:
        login = await self.logins.start(self.spec, port=41_357, device=False, scopes=())
        back = await asyncio.to_thread(browse, login.pending.authorization_url)
        await self.logins.finish(self.spec, login.id, back)


def browse(url: str) -> str:
    """What a browser does: the address to which it is sent back."""

    class Stop(urllib.request.HTTPRedirectHandler):
        def redirect_request(self, *_args: Any, **_named: Any) -> None:  # Any: its own signature
            return None

    try:
        urllib.request.build_opener(Stop()).open(url, timeout=BOUND_S)
    except urllib.error.HTTPError as answer:
        with answer:
            return answer.headers["Location"]
    raise AssertionError("it was not sent back")


def scenario() -> str:
    return os.environ["MCP_CONFORMANCE_SCENARIO"]


@contextlib.asynccontextmanager
async def session(url: str, version: str, account: Account) -> AsyncGenerator[Session, None]:
    """A session with the server; its process is gone afterwards."""
    read_fd, its_stdout = os.pipe()
    its_stdin, write_fd = os.pipe()
    process = subprocess.Popen(
        (sys.executable, "-P", "-m", "corral.mcp.upstream.http_bridge"),
        stdin=its_stdin,
        stdout=its_stdout,
        env={**os.environ, URL_VARIABLE: url, HEADERS_VARIABLE: "{}", ASKS_TOKENS: "1"},
    )
    os.close(its_stdin)
    os.close(its_stdout)
    terms = Terms(BOUND_S, protocol_version=version, relays=frozenset({"elicitation", "roots"}))
    opened = Session("conformance", terms, Listener(authorize=account.token))
    try:
        await opened.open(read_fd, write_fd, timeout_s=BOUND_S)
        yield opened
    finally:
        opened.close_input()
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(opened.wait_closed(), BOUND_S)
        opened.close()
        process.kill()
        process.wait()


async def call(client: Session, name: str, arguments: Json) -> Json:
    """One call, with what the server wants to know from a person brought along in the next try."""
    params: Json = {"name": name, "arguments": arguments}
    while True:
        result = await client.request("tools/call", params, caller=PERSON)
        if result.get("resultType") != "input_required":
            return result
        requests: Json = result.get("inputRequests") or {}  # type: ignore[assignment]  # MCP's object
        responses = {key: await ask(one["method"], one["params"]) for key, one in requests.items()}
        params = {"name": name, "arguments": arguments, "inputResponses": responses}
        if "requestState" in result:
            params["requestState"] = result["requestState"]


async def use_everything(client: Session) -> None:
    for tool in client.catalogue.tools:
        await call(client, tool.name, {})
    for resource in client.catalogue.resources:
        await client.request("resources/read", {"uri": resource["uri"]})
    for prompt in client.catalogue.prompts:
        await client.request("prompts/get", {"name": prompt["name"]})


async def echo_schema(client: Session) -> None:
    schemas = {tool.name: tool.input_schema for tool in client.catalogue.tools}
    await call(client, "json_schema_echo", {"schema": schemas["json_schema_2020_12_tool"]})


async def play(client: Session, name: str, context: Json) -> None:
    match name:
        case "initialize" | "request-metadata" | "json-schema-ref-no-deref":
            pass  # opening lists the tools
        case "tools_call":
            await call(client, client.catalogue.tools[0].name, {"a": 2, "b": 3})
        case "http-custom-headers":
            for one in context["toolCalls"]:
                await call(client, one["name"], one["arguments"])
        case "http-invalid-tool-headers":
            for tool in client.catalogue.tools:
                await call(client, tool.name, dict.fromkeys(tool.input_schema["properties"], "x"))  # type: ignore[call-overload]  # MCP's object
        case "json-schema-2020-12-preservation":
            await echo_schema(client)
        case _:
            await use_everything(client)


async def main(url: str) -> None:
    version = os.environ["MCP_CONFORMANCE_PROTOCOL_VERSION"]
    with tempfile.TemporaryDirectory(prefix="corral-conformance-") as folder:
        account = Account(url, Path(folder))
        for logins in range(MAX_LOGINS + 1):
            try:
                async with session(url, version, account) as client:
                    await play(client, scenario(), CONTEXT)
                    return
            except PermissionDenied as error:
                is_asked = error.data.get("reason") in ("needs-login", "insufficient-scope")
                if not is_asked or logins == MAX_LOGINS:
                    raise
                await account.log_in()
            except CorralError as error:
                if error.data.get("code") != -32022:
                    raise
                # A start that failed is tried again, as the daemon does.


if __name__ == "__main__":
    asyncio.run(main(sys.argv[-1]))
