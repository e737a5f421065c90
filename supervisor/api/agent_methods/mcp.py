"""Serves the methods `mcp.*` of the table: the shared tool servers, and the logins at them."""

from datetime import UTC, datetime

import msgspec

from corral.mcp.pool import pins
from corral.mcp.pool.pool import Pool
from corral.supervisor.agents.external.logins import Logins as LoginFlows
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.agents.running.agent import Agent
from corral.supervisor.config.spec.spec import Spec
from corral.supervisor.tasks.worker_api.tool_calls import LISTING_S, ToolCalls, caller_of
from corral.supervisor.workers.lifecycle.state_machine import NEEDS_LOGIN, State
from corral.worker.contract.errors import NotFound
from corral.worker.contract.names import qualified
from corral.worker.contract.trace_context import KEY
from corral.worker.control import logins as shapes
from corral.worker.control import tool_pins
from corral.worker.control.params import AttachParams, CallParams, NoParams, ReadParams, ToolsParams
from corral.worker.control.results import Done, Prompts, Resources, Servers, Tool, Tools
from corral.worker.methods import mcp as methods

from ..table.handlers import Caller, as_result, error_records, serve
from ..table.status import StatusReport


class LoginMethods:
    """Serves the methods of logging in to MCP servers."""

    def __init__(self, agents: Agents, logins: LoginFlows) -> None:
        self._agents = agents
        self._logins = logins

    @serve(methods.MCP_LOGIN)
    async def _login(self, params: shapes.LoginParams, _caller: Caller) -> shapes.LoginStarted:
        spec = self._spec(params.name)
        login = await self._logins.start(spec, port=params.port, device=params.device, scopes=tuple(params.scopes))
        pending = login.pending
        is_device = bool(pending.device_code)
        return shapes.LoginStarted(
            name=spec.name,
            login=login.id,
            issuer=pending.endpoints.issuer,
            scopes=pending.scope.split(),
            url=pending.verification_uri_complete or pending.verification_uri
            if is_device
            else pending.authorization_url,
            redirect_uri=pending.redirect_uri or None,
            user_code=pending.user_code or None,
            expires_at=_text_of(pending.expires_at),
        )

    @serve(methods.MCP_FINISH_LOGIN)
    async def _finish_login(self, params: shapes.LoginFinishParams, _caller: Caller) -> shapes.Login:
        spec = self._spec(params.name)
        logins = self._logins
        if params.redirect is not None:
            await logins.finish(spec, params.login, params.redirect)
        elif await logins.poll(spec, params.login) is None:
            return shapes.Login(name=spec.name, state="pending")
        waiting = [
            supervisor
            for supervisor in self._agents.agents[spec.name].supervisors
            if supervisor.worker.state is State.TERMINATED
            and supervisor.worker.last_exit is not None
            and supervisor.worker.last_exit.result == NEEDS_LOGIN
        ]
        self._agents.operations.reset(waiting)
        return await self._facts(spec)

    @serve(methods.MCP_LOGOUT)
    async def _logout(self, params: shapes.LogoutParams, _caller: Caller) -> shapes.LoggedOut:
        spec = self._spec(params.name)
        forgotten = await self._logins.logout(spec, revoke=params.revoke)
        return shapes.LoggedOut(name=spec.name, forgotten=forgotten)

    @serve(methods.MCP_LOGINS)
    async def _mcp_logins(self, _params: NoParams, _caller: Caller) -> shapes.Logins:
        specs = [agent.spec for agent in self._agents.agents.values() if agent.spec.asks_tokens]
        return shapes.Logins(logins=[await self._facts(spec) for spec in specs])

    def _spec(self, name: str) -> Spec:
        return _server(self._agents, name).spec

    async def _facts(self, spec: Spec) -> shapes.Login:
        facts = await self._logins.facts(spec)
        for key in ("obtained_at", "expires_at"):
            if isinstance(facts.get(key), float):
                facts[key] = _text_of(facts[key])
        return as_result(facts, shapes.Login)


def _server(agents: Agents, name: str) -> Agent:
    agent = agents.agents.get(name)
    if agent is None or agent.spec.kind != "mcp":
        raise NotFound(f'cannot find MCP server "{name}"', name=name)
    return agent


def _text_of(wall_s: object) -> str:
    assert isinstance(wall_s, float), "the caller has looked"
    return datetime.fromtimestamp(wall_s, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


class McpMethods:
    """Serves the methods `mcp.*` about servers and what they offer."""

    def __init__(self, agents: Agents, status: StatusReport, pool: Pool, tool_calls: ToolCalls) -> None:
        self._agents = agents
        self._status = status
        self._pool = pool
        self._tool_calls = tool_calls

    @serve(methods.MCP_SERVERS)
    async def _servers(self, _params: NoParams, _caller: Caller) -> Servers:
        servers = [a for a in self._agents.agents.values() if a.spec.kind == "mcp"]
        return Servers(servers=[self._status.agent_status(server) for server in servers])

    @serve(methods.MCP_DIFF)
    async def _diff(self, params: tool_pins.ToolDiffParams, _caller: Caller) -> tool_pins.ToolDiff:
        agent = _server(self._agents, params.name)
        held = agent.spec.mcp.on_tool_change == "hold"
        found = self._agents.servers.pins.pending(agent.name, params.tool)
        changes = [
            tool_pins.ToolChange(
                tool=name,
                parts=pins.changed_parts(pin),
                accepted=None if pin.accepted is None else _words(pin.accepted),
                pending=_words(pin.pending),
                held=held,
            )
            for name, pin in found.items()
        ]
        return tool_pins.ToolDiff(name=agent.name, digest=pins.digest_of(found, found), changes=changes)

    @serve(methods.MCP_ACCEPT)
    async def _accept(self, params: tool_pins.AcceptParams, _caller: Caller) -> tool_pins.Accepted:
        agent = _server(self._agents, params.name)
        tools = await self._agents.servers.accept(agent, params.tool, params.digest)
        return tool_pins.Accepted(name=agent.name, tools=tools)

    @serve(methods.MCP_TOOLS)
    async def _tools(self, params: ToolsParams, caller: Caller) -> Tools:
        access = self._tool_calls.access_for(caller.who if caller.tenant else {})
        known = sorted(self._pool.concerned(access))
        server = params.server
        if server is not None and caller.tenant and qualified(server, caller.tenant) in known:
            server = qualified(server, caller.tenant)
        if server is not None and server not in known:
            raise NotFound(f'cannot find MCP server "{params.server}"', name=params.server, known=known)
        chosen, patience_s = (known, LISTING_S) if server is None else ([server], None)
        failures = await self._pool.list_servers(chosen, patience_s=patience_s)
        if server is not None and server in failures:
            raise failures[server]
        tools = self._pool.tools(access)
        if server is not None:
            tools = [tool for tool in tools if tool["server"] in (server, params.server)]
        return Tools(tools=msgspec.convert(tools, list[Tool]), failures=error_records(failures))

    @serve(methods.MCP_CALL)
    async def _call(self, params: CallParams, caller: Caller) -> dict[str, object]:
        return await self._tool_calls.call(
            params.name,
            params.arguments,
            caller=caller_of(
                caller.name,
                str(caller.who.get("agent") or f"uid {caller.who.get('uid')}"),
                str(caller.who.get("tenant", "")),
            ),
            who=caller.who,
            access=self._tool_calls.access_for(caller.who),
            timeout_s=params.timeout_s,
            more=None if params.traceparent is None else {"_meta": {KEY: params.traceparent}},
            supervisor=caller.supervisor,
        )

    @serve(methods.MCP_ATTACH)
    async def _attach(self, params: AttachParams, caller: Caller) -> Done:
        caller.attach(params)
        return Done()

    @serve(methods.MCP_PROMPTS)
    async def _prompts(self, _params: NoParams, caller: Caller) -> Prompts:
        access = self._tool_calls.access_for(caller.who if caller.tenant else {})
        failures = await self._pool.list_servers(self._pool.concerned(access), patience_s=LISTING_S)
        return Prompts(prompts=self._pool.offered("prompts", access), failures=error_records(failures))

    @serve(methods.MCP_RESOURCES)
    async def _resources(self, _params: NoParams, caller: Caller) -> Resources:
        access = self._tool_calls.access_for(caller.who if caller.tenant else {})
        failures = await self._pool.list_servers(self._pool.concerned(access), patience_s=LISTING_S)
        return Resources(
            resources=self._pool.offered("resources", access),
            templates=self._pool.offered("resourceTemplates", access),
            failures=error_records(failures),
        )

    @serve(methods.MCP_READ)
    async def _read(self, params: ReadParams, caller: Caller) -> dict[str, object]:
        whose = str(caller.who.get("agent") or f"uid {caller.who.get('uid')}")
        return await self._pool.request(
            "resources/read",
            {"uri": params.uri},
            access=self._tool_calls.access_for(caller.who),
            caller=caller_of(caller.name, whose, str(caller.who.get("tenant", ""))),
            timeout_s=params.timeout_s,
        )


def _words(words: bytes | None) -> dict[str, object]:
    """Returns what is compared of a tool, beside its name."""
    return {key: value for key, value in pins.decoded(words or b"{}").items() if key != "name"}
