"""Composes what the daemon serves over HTTP: the faces, and the server that they share.

aiohttp is imported with this module, and this module only where `[daemon] http` is set.
"""

import logging
from collections.abc import Callable
from pathlib import Path

from .. import __version__
from ..mcp.protocol.caller import Caller
from ..worker.contract.control_params import AttachParams
from .access.scope import lesser
from .api.table import Control, Permission
from .config.spec import Daemon
from .http.admission import loopback
from .http.face import Face, HttpClient
from .http.mcp_face import McpFace
from .http.mcp_request import ViewQuery
from .http.server import HttpServer
from .http.token_file import authenticate_by, read_token
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
    server = HttpServer(_faces(control, is_stopping), authenticate_by(token))
    address = await server.open(host, port)
    logger.info("serving HTTP", extra={"fields": {"address": f"http://{address}"}})
    return server, address


def _faces(control: Control, is_stopping: Callable[[], bool]) -> list[Face]:
    """Returns all faces, in any order: the longest prefix decides."""
    return [McpFace(_offer(control), version=__version__)]


def _offer(control: Control) -> Callable[[ViewQuery, Caller, HttpClient], ClientTools]:
    """Returns what makes the tools of an MCP client."""

    def offer(query: ViewQuery, caller: Caller, client: HttpClient) -> ClientTools:
        permission = lesser(client.permission, MCP_PERMISSION)
        who = {"http": caller.name}
        gateway_client = Client(caller.name, caller.sharer, who, lambda: permission)
        view = AttachParams(
            only=None if query.only is None else list(query.only),
            deny=list(query.deny),
            read_only=query.read_only,
            profile=query.profile,
        )
        return ClientTools(control, gateway_client, view)

    return offer
