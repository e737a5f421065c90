"""Composes what serves clients beside HTTP: the control socket, the services of agents, and what several faces use."""

from corral.supervisor.api.table.table import Control
from corral.supervisor.faces.mcp.client_tools import ToolSources
from corral.supervisor.faces.prometheus.snapshot import Figures
from corral.supervisor.faces.services.services import AgentServices
from corral.supervisor.faces.socket.peer import Peers
from corral.supervisor.faces.socket.socket_lock import SocketLock
from corral.supervisor.faces.socket.unix import Listener

from .method_table import ApiGroup
from .rooms import Rooms


def make_listener(rooms: Rooms, control: Control, lock: SocketLock) -> Listener:
    """Makes what serves the control socket."""
    groups, commands = rooms.config.daemon, rooms.shared.probes.commands
    peers = Peers(rooms.agents.registry, rooms.tenants, commands, rooms.execs, groups.group, groups.readers)
    return Listener(control, tool_sources(rooms, control), rooms.tokens, peers, lock)


def make_services(rooms: Rooms) -> AgentServices:
    """Makes what holds the services of agents, teams and workflows over HTTP."""
    token_file = rooms.config.daemon.http_token_file or str(rooms.paths.state_dir / "http.token")
    return AgentServices(rooms.agents, rooms.shared.bus, rooms.shared.store, token_file)


def tool_sources(rooms: Rooms, control: Control) -> ToolSources:
    """Makes what the tools of MCP clients come from."""
    return ToolSources(control, rooms.agents, rooms.pool, rooms.tasks_group, rooms.shared.bus)


def figures_of(rooms: Rooms, api: ApiGroup) -> Figures:
    """Makes what reads the figures for Prometheus and OpenTelemetry."""
    return Figures(rooms.statistics, api.status, rooms.limits, rooms.tasks, rooms.models.ledger, rooms.pool)
