"""Composes what the daemon serves over HTTP: the faces, and the server that they share.

aiohttp is imported with this module, and this module only where `[daemon] http` is set.
"""

import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

from .. import __version__
from ..mcp.protocol.caller import Caller
from ..worker.contract.control_params import AttachParams
from ..worker.contract.errors import InvalidParams, PermissionDenied
from .access.scope import lesser
from .access.tokens import Tokens
from .api.table import Control, Permission
from .config.spec import Daemon
from .http.admission import loopback
from .http.face import Authenticate, Face, HttpClient
from .http.mcp_face import McpFace
from .http.mcp_request import ViewQuery
from .http.server import HttpServer
from .http.token_file import MIN_TOKEN, read_token
from .http_api.documents import DocsFace, OpenApiFace
from .mcp_gateway.view import Client, ClientTools

MCP_PERMISSION: Permission = "operate"
"""The most that an MCP client may do, also with a token of an administrator: a model calls its tools."""

logger = logging.getLogger(__name__)


async def open_web(
    control: Control, daemon: Daemon, state_dir: Path, is_stopping: Callable[[], bool]
) -> tuple[HttpServer, str]:
    """Serves HTTP at the address of `[daemon] http`; returns the server, and the address as it became: HOST:PORT.

    Raises:
        CorralError: it cannot be served.
    """
    assert daemon.http is not None, "HTTP is wanted"
    host, port = loopback(daemon.http)
    token = read_token(Path(daemon.http_token_file or state_dir / "http.token"))
    control.tokens.fix("http.token", token, "admin")
    if key := os.environ.get("OS_SECURITY_KEY"):
        if len(key) < MIN_TOKEN:
            raise InvalidParams(
                f"cannot use OS_SECURITY_KEY: it has {len(key)} characters of at least {MIN_TOKEN}",
                key="OS_SECURITY_KEY",
                reason="too short",
            )
        control.tokens.fix("OS_SECURITY_KEY", key, "admin")
    server = HttpServer(_faces(control, is_stopping), _authenticate_by(control.tokens))
    address = await server.open(host, port)
    logger.info("serving HTTP", extra={"fields": {"address": f"http://{address}"}})
    return server, address


def _authenticate_by(tokens: Tokens) -> Authenticate:
    """Returns the function that knows the tokens: each request brings one, and has its rights and its agents."""

    def authenticate(sent: str | None) -> HttpClient:
        grant = None if sent is None else tokens.find(sent)
        if grant is None:
            raise PermissionDenied("cannot serve the request without a valid bearer token")
        who = {"http": grant.name, "token": grant.name}
        return HttpClient(grant.name, grant.rights, who, grant.agents)

    return authenticate


def _faces(control: Control, is_stopping: Callable[[], bool]) -> list[Face]:
    """Returns all faces, in any order: the longest prefix decides."""
    return [
        McpFace(_offer(control), version=__version__),
        OpenApiFace(control.methods),
        DocsFace(),
    ]


def _offer(control: Control) -> Callable[[ViewQuery, Caller, HttpClient], ClientTools]:
    """Returns what makes the tools of an MCP client."""

    def offer(query: ViewQuery, caller: Caller, client: HttpClient) -> ClientTools:
        tokens, name = control.tokens, client.name

        def permission() -> Permission | None:
            grant = tokens.named(name)
            return None if grant is None else lesser(grant.rights, MCP_PERMISSION)

        def agents() -> Sequence[str] | None:
            grant = tokens.named(name)
            return () if grant is None else grant.agents

        who = {"http": caller.name, "token": name}
        gateway_client = Client(caller.name, caller.sharer, who, permission, agents=agents)
        view = AttachParams(
            only=None if query.only is None else list(query.only),
            deny=list(query.deny),
            read_only=query.read_only,
            profile=query.profile,
        )
        return ClientTools(control, gateway_client, view)

    return offer
