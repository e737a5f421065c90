"""Serves the pool's tools to an ACP agent as an MCP server, each session with the rights of its task.

A session of the agent gets an MCP server on stdio, `relay`, whose bytes come to an abstract socket of this process. Each
call becomes one of the worker, for the task that the session runs, so that the allow-lists and limits of the agent and
of the task hold, and the task's record counts it. Only processes of this user that know a session's token are served.
"""

import asyncio
import os
import secrets
import socket
import struct
import sys
from collections.abc import Callable, Mapping

from corral import __version__
from corral.mcp.endpoint.server import McpEndpoint
from corral.mcp.protocol.catalog import Kind
from corral.mcp.protocol.messages import CALL, Caller

from ..contract.channel import Channel
from ..contract.codec import as_array, as_object
from ..contract.errors import MethodNotFound, NotFound, PermissionDenied
from ..contract.jsonrpc import Notification, Peer, Request
from ..sdk.task import Calls
from . import relay
from .turn import Turn

CONNECTIONS_MOST = 256
"""Number of connections of the agent."""

INSTRUCTIONS = (
    "The tools of the MCP servers and agents that corral runs on this machine. A tool named SERVER__TOOL belongs to the"
    " MCP server SERVER, which starts at its first call. Where corral__find_tool is listed, it finds the tools that are"
    " not."
)

NAME = "corral"
"""Name of the MCP server in the agent."""


class TurnCalls:
    """Makes tool requests to the daemon: for the task of the turn that runs, else for the agent."""

    def __init__(self, turn: Callable[[], Turn | None], calls: Calls) -> None:
        self._turn = turn
        self._calls = calls

    async def tools(self) -> object:
        """Returns the response to `tools/list`."""
        return await self._calls.request("tools/list", self._for_task({}))

    async def call(self, name: str, arguments: Mapping[str, object]) -> object:
        """Returns the response to `tools/call`."""
        return await self._calls.request("tools/call", self._for_task({"name": name, "arguments": arguments}))

    def _for_task(self, params: dict[str, object]) -> dict[str, object]:
        turn = self._turn()
        return params if turn is None else {**params, "task": turn.task.id}


class ToolServer:
    """Listens for the connections of the agent's MCP clients."""

    def __init__(self) -> None:
        self._address = f"corral-tools-{os.getpid()}-{secrets.token_hex(8)}"
        self._sessions: dict[str, TurnCalls] = {}
        self._connections: set[Channel] = set()
        self._server: asyncio.Server

    async def start(self) -> None:
        """Begins to listen."""
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        listener.bind(f"\0{self._address}")
        self._server = await asyncio.get_running_loop().create_unix_server(self._connection, sock=listener)

    def close(self) -> None:
        """Ends all connections."""
        self._server.close()
        for connection in tuple(self._connections):
            connection.close()

    def offer(self, calls: TurnCalls) -> tuple[str, dict[str, object]]:
        """Returns a token, and the entry of `mcpServers` by which a session reaches its tools until it is withdrawn."""
        token = secrets.token_hex(16)
        self._sessions[token] = calls
        env = {"CORRAL_TOOLS_ADDRESS": self._address, "CORRAL_TOOLS_TOKEN": token}
        return token, {
            "name": NAME,
            "command": sys.executable,
            "args": ["-I", "-S", os.path.realpath(relay.__file__)],
            "env": [{"name": name, "value": value} for name, value in env.items()],
        }

    def withdraw(self, token: str) -> None:
        """Ends what was offered."""
        self._sessions.pop(token, None)

    def calls_of(self, token: object) -> TurnCalls:
        """Returns the tool requests of a session."""
        found = self._sessions.get(token) if isinstance(token, str) else None
        if found is None:
            raise PermissionDenied("cannot serve tools: the token is that of no session")
        return found

    def _connection(self) -> "_Connection":
        found = _Connection(self, self._connections.discard)
        self._connections.add(found)
        return found

    def is_full(self) -> bool:
        """Returns whether there are more connections than are served."""
        return len(self._connections) > CONNECTIONS_MOST


class _Connection(Channel):
    """Represents one MCP client of the agent."""

    def __init__(self, server: ToolServer, forget: Callable[[Channel], None]) -> None:
        super().__init__(
            Peer(),
            name="an MCP client of the ACP agent",
            on_request=self._called,
            on_notification=self._receive,
            on_closed=lambda _: self._forget(),
        )
        self._server = server
        self._forget_me = forget
        self._endpoint: McpEndpoint | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Refuses processes of other users, and too many."""
        super().connection_made(transport)
        connected = transport.get_extra_info("socket")
        credentials = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        if struct.unpack("3i", credentials)[1] != os.getuid() or self._server.is_full():
            self.close()

    async def ask(self, method: str, params: Mapping[str, object]) -> object:
        """Refuses to ask the client: the tools of the pool have no way to."""
        raise MethodNotFound(f'cannot ask "{method}" of an ACP agent', method=method)

    async def _called(self, request: Request) -> object:
        if self._endpoint is None:
            raise PermissionDenied("cannot serve tools: there was no token")
        return await self._endpoint.request(request.id, request.method, request.params, self)

    def _receive(self, notification: Notification) -> None:
        if self._endpoint is not None:
            self._endpoint.handle_notification(notification.method, notification.params)
        elif notification.method == "corral/hello":
            try:
                calls = self._server.calls_of(notification.params.get("token"))
            except PermissionDenied as error:
                self.close(error)
                return
            self._endpoint = McpEndpoint(_Tools(calls), version=__version__, notify=self.notify)

    def _forget(self) -> None:
        self._forget_me(self)
        if self._endpoint is not None:
            self._endpoint.close()
            self._endpoint = None


class _Tools:
    """Represents the tools of one session to the MCP endpoint; there are no prompts and resources."""

    def __init__(self, calls: TurnCalls) -> None:
        self._calls = calls

    @property
    def instructions(self) -> str:
        """Returns the text for models about the server as a whole."""
        return INSTRUCTIONS

    async def listed(self, kind: Kind) -> list[dict[str, object]]:
        """Returns the tools that the session may call."""
        if kind != "tools":
            return []
        answer = as_object(await self._calls.tools()) or {}
        return [_tool(fields) for each in as_array(answer.get("tools")) or [] if (fields := as_object(each))]

    async def request(self, method: str, params: Mapping[str, object], _caller: Caller) -> dict[str, object]:
        """Returns the result of a call."""
        name = params.get("name")
        if method != CALL or not isinstance(name, str):
            raise NotFound(f'cannot serve "{method}": corral gives an ACP agent tools alone')
        return as_object(await self._calls.call(name, as_object(params.get("arguments")) or {})) or {}

    async def subscribe(self, uri: str, _on_updated: Callable[[str], None]) -> Callable[[], None]:
        """Refuses: there are no resources."""
        raise NotFound(f'cannot find resource "{uri}"', uri=uri)

    def watch(self, _on_change: Callable[[Kind], None]) -> Callable[[], None]:
        """Ignores the watcher: the daemon tells workers of no changes."""
        return lambda: None


def _tool(fields: Mapping[str, object]) -> dict[str, object]:
    """Returns MCP's object of a tool that the daemon has listed."""
    names = {"description": "description", "input_schema": "inputSchema", "annotations": "annotations"}
    found = {to: fields[key] for key, to in names.items() if fields.get(key) is not None}
    return {"name": fields.get("name"), "inputSchema": {"type": "object"}, **found}
