"""Composes what serves clients beside HTTP: the control socket, the services of agents, and what several faces use."""

from corral.supervisor.api.group import ApiGroup
from corral.supervisor.api.table.table import Control
from corral.supervisor.faces.mcp.client_tools import ToolSources
from corral.supervisor.faces.prometheus.snapshot import Figures
from corral.supervisor.faces.services.services import AgentServices
from corral.supervisor.faces.socket.peer import Peers
from corral.supervisor.faces.socket.socket_lock import SocketLock
from corral.supervisor.faces.socket.unix import Listener

from .groups import Groups


def make_listener(groups: Groups, control: Control, lock: SocketLock) -> Listener:
    """Makes what serves the control socket."""
    daemon, commands = groups.config.daemon, groups.workers.commands
    peers = Peers(
        groups.agents.agents.registry,
        groups.tenants.tenants,
        commands,
        groups.workers.execs,
        daemon.group,
        daemon.readers,
    )
    return Listener(control, tool_sources(groups, control), groups.tenants.tokens, peers, lock)


def make_services(groups: Groups) -> AgentServices:
    """Makes what holds the services of agents, teams and workflows over HTTP."""
    token_file = groups.config.daemon.http_token_file or str(groups.paths.state_dir / "http.token")
    return AgentServices(groups.agents.agents, groups.records.bus, groups.records.store, token_file)


def tool_sources(groups: Groups, control: Control) -> ToolSources:
    """Makes what the tools of MCP clients come from."""
    return ToolSources(control, groups.agents.agents, groups.agents.pool, groups.tasks, groups.records.bus)


def figures_of(groups: Groups, api: ApiGroup) -> Figures:
    """Makes what reads the figures for Prometheus and OpenTelemetry."""
    return Figures(
        groups.figures.statistics,
        api.status,
        groups.workers.limits,
        groups.tasks.tasks,
        groups.models.ledger,
        groups.agents.pool,
    )


async def export_figures(groups: Groups, api: ApiGroup) -> None:
    """Sends the figures of `/metrics` to a collector of OpenTelemetry until it is cancelled, where `[telemetry]` asks for that."""
    export = groups.records.exports.of_figures()
    if export is None:
        return
    from corral.supervisor.faces.prometheus.face import push  # noqa: PLC0415  # prometheus_client: only who wants it pays

    await push(figures_of(groups, api), groups.records.in_force, export.send, export.report, export.interval_s)
