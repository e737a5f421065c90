"""Composes what the daemon serves over HTTP: the faces, and the server that they share.

aiohttp is imported with this module, and this module only where `[daemon] http` is set.
"""

import asyncio
import logging
import os
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from itertools import islice
from pathlib import Path
from weakref import WeakSet

from corral import __version__
from corral.mcp.protocol.messages import Caller
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.api.group import ApiGroup
from corral.supervisor.api.table.handlers import narrowed
from corral.supervisor.api.table.status import WebPlace
from corral.supervisor.api.table.table import Control
from corral.supervisor.config.decoding.values import HttpAuth
from corral.supervisor.config.spec.spec import Config, Daemon
from corral.supervisor.faces.a2a.face import A2aFace
from corral.supervisor.faces.a2a.push import Pushes
from corral.supervisor.faces.dashboard.face import BrowserSessions, DashboardFace, PageFace, Sessions
from corral.supervisor.faces.http.admission import address_of, is_loopback
from corral.supervisor.faces.http.credentials import MIN_TOKEN, read_tls, read_token
from corral.supervisor.faces.http.face import WRONG_TOKEN, Access, Authenticate, Bind, Face, HttpClient
from corral.supervisor.faces.http.listener import HttpHandover
from corral.supervisor.faces.http.probes import Health, Readiness, Ready
from corral.supervisor.faces.http.server import HttpServer
from corral.supervisor.faces.http_api.calls import ApiFace
from corral.supervisor.faces.http_api.documents import DocsFace, OpenApiFace
from corral.supervisor.faces.http_api.runtime_routes import RuntimeFace
from corral.supervisor.faces.mcp.client_tools import ClientTools, ToolSources
from corral.supervisor.faces.mcp.mcp_face import McpFace
from corral.supervisor.faces.mcp.mcp_request import ViewQuery
from corral.supervisor.faces.mcp.tool_caller import Client
from corral.supervisor.faces.prometheus.face import MetricsFace
from corral.supervisor.faces.services.listener import Listener as ServiceListener
from corral.supervisor.faces.services.services import Listen
from corral.supervisor.records.audit.log import Audit
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.tenants.tokens.scope import bound, is_in_scope, lesser
from corral.supervisor.tenants.tokens.tokens import Tokens, digest_of
from corral.supervisor.workers.lifecycle.state_machine import UP
from corral.supervisor.workers.supervision.shared import utc_now
from corral.worker.contract.errors import CorralError, InvalidParams, PermissionDenied
from corral.worker.control.access import Rights
from corral.worker.control.params import AttachParams

from .faces import figures_of, tool_sources
from .groups import Groups

MCP_PERMISSION: Rights = "operate"
"""The most that an MCP client may do, also with a token of an administrator: a model calls its tools."""

MAX_DOWN = 200
"""Number of names in the answer of `/readyz`."""

logger = logging.getLogger(__name__)


async def open_web(
    groups: Groups, api: ApiGroup, place: WebPlace, is_stopping: Callable[[], bool], left: HttpHandover | None
) -> HttpServer:
    """Serves HTTP at the address of `[daemon] http`, or where another program has `left` it; notes in `place` where that is."""
    daemon, tokens = groups.config.daemon, groups.tenants.tokens
    assert daemon.http is not None, "HTTP is wanted"
    tls = read_tls(daemon.http_tls_cert, daemon.http_tls_key)
    is_protected = tls is not None or daemon.http_behind_proxy
    host, port = address_of(daemon.http, is_protected=is_protected)
    _fix_tokens(tokens, daemon, groups.paths.state_dir)
    browsers = BrowserSessions(Sessions(), _client_by(tokens), asyncio.get_running_loop().time)
    server = HttpServer(
        [*_faces(groups, api, is_stopping), PageFace(), DashboardFace(browsers, _authenticate_by(tokens), digest_of)],
        Access(
            _authenticate_by(tokens),
            _bind_by(groups.tenants.tenants),
            browsers.client,
            partial(_note_wrong_token, groups.records.audit),
        ),
        names=daemon.http_hosts,
        is_behind_proxy=daemon.http_behind_proxy,
        tls=tls,
    )
    address = await server.open(host, port, left)
    if tls is not None:
        groups.records.in_force.subscribe(lambda _: _renew_tls(server, daemon))
    scheme = "http" if tls is None else "https"
    logger.info("serving HTTP", extra={"fields": {"address": f"{scheme}://{address}"}})
    if tls is not None:
        reach = "TLS"
    elif is_loopback(host):
        reach = "without TLS, for this machine alone"
    else:
        reach = "without TLS, for a proxy"
    place.open(address, f"{scheme}://{address}: tokens, {reach}")
    return server


def _fix_tokens(tokens: Tokens, daemon: Daemon, state_dir: Path) -> None:
    """Adds the tokens that are kept in the file and in the environment, once."""
    if tokens.named("http.token") is not None:
        return
    token = read_token(Path(daemon.http_token_file or state_dir / "http.token"))
    tokens.fix("http.token", token, "admin")
    if key := os.environ.get("OS_SECURITY_KEY"):
        if len(key) < MIN_TOKEN:
            raise InvalidParams(
                f"cannot use OS_SECURITY_KEY: it has {len(key)} characters of at least {MIN_TOKEN}",
                key="OS_SECURITY_KEY",
                reason="too short",
            )
        tokens.fix("OS_SECURITY_KEY", key, "admin")


def service_opener(groups: Groups, control: Control) -> Listen:
    """Returns what opens the service of one agent, team or workflow, by the rules of `[daemon] http`."""
    daemon = groups.config.daemon
    _fix_tokens(groups.tenants.tokens, daemon, groups.paths.state_dir)
    servers = WeakSet[HttpServer]()
    note_wrong = partial(_note_wrong_token, groups.records.audit)

    def renew_tls(_: Config) -> None:
        for server in servers:
            _renew_tls(server, daemon)

    if daemon.http_tls_cert is not None:
        groups.records.in_force.subscribe(renew_tls)

    async def listen(
        name: str, address: str, auth: Callable[[], HttpAuth], left: HttpHandover | None
    ) -> ServiceListener:
        tls = read_tls(daemon.http_tls_cert, daemon.http_tls_key)

        def make_server(faces: Sequence[Face]) -> HttpServer:
            return HttpServer(
                faces,
                Access(
                    _authenticate_by(groups.tenants.tokens), _bind_by(groups.tenants.tenants), note_wrong=note_wrong
                ),
                names=daemon.http_hosts,
                is_behind_proxy=daemon.http_behind_proxy,
                tls=tls,
            )

        is_protected = tls is not None or daemon.http_behind_proxy
        place = address_of(address, is_protected=is_protected)
        scheme = "http" if tls is None else "https"
        listener = ServiceListener(make_server, control, groups.agents.agents, name, auth, scheme=scheme)
        await listener.open(*place, left)
        servers.add(listener.server)
        return listener

    return listen


def _renew_tls(server: HttpServer, daemon: Daemon) -> None:
    """Reads the certificate again, which may have been renewed; one that cannot be used leaves the old one in use."""
    try:
        tls = read_tls(daemon.http_tls_cert, daemon.http_tls_key)
    except CorralError as error:
        logger.error("%s", error.message)
        return
    assert tls is not None, "the keys themselves do not change while the daemon runs"
    server.renew_tls(tls)


def _authenticate_by(tokens: Tokens) -> Authenticate:
    """Returns the function that knows the tokens: each request brings one, and has its rights and its agents."""
    client_of = _client_by(tokens)
    return lambda sent: client_of(b"" if sent is None else digest_of(sent))


def _note_wrong_token(audit: Audit, address: str) -> None:
    """Records that a token was wrong; further ones of an address are counted in the record of the first."""
    record: dict[str, object] = {
        "at": utc_now(),
        "action": "auth.login",
        "who": {"http": address},
        "names": [],
        "result": "PermissionDenied",
    }
    if audit.refuse(record, f"over {address}"):
        audit.add(record)


def _client_by(tokens: Tokens) -> Callable[[bytes], HttpClient]:
    """Returns the function that knows the tokens by their digests."""

    def client_of(digest: bytes) -> HttpClient:
        grant = tokens.permitted(digest)
        if grant is None:
            reason = {"reason": WRONG_TOKEN} if digest else {}
            raise PermissionDenied("cannot serve the request without a valid bearer token", **reason)
        who = {"http": grant.name, "token": grant.name}
        client = HttpClient(grant.name, grant.rights, who, grant.agents, lambda: tokens.permitted(digest) is not None)
        return _of_tenant(client, grant.tenant) if grant.tenant else client

    return client_of


def _of_tenant(client: HttpClient, tenant: str) -> HttpClient:
    """Returns a client that is bound to a tenant."""
    globs = bound(client.agents, tenant)
    assert globs is not None, "those of a tenant are never all"
    who = {**client.who, "tenant": tenant}
    return replace(client, agents=tuple(globs), tenant=tenant, who=who)


def _bind_by(tenants: Tenants) -> Bind:
    """Returns the function that binds a client to the tenant that its request names."""

    def bind(client: HttpClient, wanted: str) -> HttpClient:
        tenant = narrowed(tenants, client.tenant, wanted)
        return client if tenant == client.tenant else _of_tenant(client, tenant)

    return bind


def _faces(groups: Groups, api: ApiGroup, is_stopping: Callable[[], bool]) -> list[Face]:
    """Returns all faces, in any order: the longest prefix decides."""
    control, agents, tasks = api.control, groups.agents.agents, groups.tasks
    store, bus, allowed = groups.records.store, groups.records.bus, groups.config.daemon.a2a_push
    pushes = Pushes(store, bus, tasks.tasks, tasks.approvals, allowed)
    sources = tool_sources(groups, control)
    return [
        Health(),
        Ready(lambda client: _readiness(agents, client, is_draining=is_stopping())),
        McpFace(_offer(groups.tenants.tokens, sources), version=__version__),
        ApiFace(control),
        RuntimeFace(control, agents),
        A2aFace(control, agents, tasks.approvals, pushes, __version__),
        OpenApiFace(control.methods),
        DocsFace(),
        MetricsFace(figures_of(groups, api), groups.records.in_force),
    ]


def _readiness(agents: Agents, client: HttpClient, *, is_draining: bool) -> Readiness:
    down = (name for name, agent in agents.agents.items() if _is_down(agent) and is_in_scope(name, client.agents))
    return Readiness(is_draining, list(islice(down, MAX_DOWN)))


def _is_down(agent: Agent) -> bool:
    """Returns whether a worker of it is wanted, and is neither up nor a job that has succeeded."""
    workers = (supervisor.worker for supervisor in agent.supervisors)
    return any(worker.wanted and worker.state not in UP and not worker.done for worker in workers)


def _offer(tokens: Tokens, sources: ToolSources) -> Callable[[ViewQuery, Caller, HttpClient], ClientTools]:
    """Returns what makes the tools of an MCP client."""

    def offer(query: ViewQuery, caller: Caller, client: HttpClient) -> ClientTools:
        name = client.name

        def permission() -> Rights | None:
            grant = tokens.named(name)
            return None if grant is None else lesser(grant.rights, MCP_PERMISSION)

        def agents() -> Sequence[str] | None:
            grant = tokens.named(name)
            return () if grant is None else bound(grant.agents, client.tenant)

        who = {**client.who, "http": caller.name}
        gateway_client = Client(caller.name, caller.sharer, who, permission, agents=agents, tenant=client.tenant)
        view = AttachParams(
            only=None if query.only is None else list(query.only),
            deny=list(query.deny),
            read_only=query.read_only,
            profile=query.profile,
            tools=query.tools,
        )
        return sources.tools_of(gateway_client, view)

    return offer
