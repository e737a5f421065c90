"""Serves the methods `mcp.*` of the table: the shared tool servers."""

import msgspec

from corral.mcp.pool.pool import Pool
from corral.supervisor.agents.membership.agents import Agents
from corral.supervisor.tasks.worker_api.tool_calls import LISTING_S, ToolCalls, caller_of
from corral.worker.contract.errors import NotFound
from corral.worker.contract.names import qualified
from corral.worker.contract.trace_context import KEY
from corral.worker.control.params import AttachParams, CallParams, NoParams, ReadParams, ToolsParams
from corral.worker.control.results import Done, Prompts, Resources, Servers, Tool, Tools
from corral.worker.methods.mcp import MCP_ATTACH, MCP_CALL, MCP_PROMPTS, MCP_READ, MCP_RESOURCES, MCP_SERVERS, MCP_TOOLS

from ..table.caller import Caller
from ..table.handlers import serve
from ..table.results import error_records
from ..table.status import StatusReport


class McpMethods:
    """Serves the methods `mcp.*` about servers and what they offer."""

    def __init__(self, agents: Agents, status: StatusReport, pool: Pool, tool_calls: ToolCalls) -> None:
        self._agents = agents
        self._status = status
        self._pool = pool
        self._tool_calls = tool_calls

    @serve(MCP_SERVERS)
    async def _servers(self, _params: NoParams, _caller: Caller) -> Servers:
        servers = [a for a in self._agents.agents.values() if a.spec.kind == "mcp"]
        return Servers(servers=[self._status.agent_status(server) for server in servers])

    @serve(MCP_TOOLS)
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

    @serve(MCP_CALL)
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

    @serve(MCP_ATTACH)
    async def _attach(self, params: AttachParams, caller: Caller) -> Done:
        caller.attach(params)
        return Done()

    @serve(MCP_PROMPTS)
    async def _prompts(self, _params: NoParams, caller: Caller) -> Prompts:
        access = self._tool_calls.access_for(caller.who if caller.tenant else {})
        failures = await self._pool.list_servers(self._pool.concerned(access), patience_s=LISTING_S)
        return Prompts(prompts=self._pool.offered("prompts", access), failures=error_records(failures))

    @serve(MCP_RESOURCES)
    async def _resources(self, _params: NoParams, caller: Caller) -> Resources:
        access = self._tool_calls.access_for(caller.who if caller.tenant else {})
        failures = await self._pool.list_servers(self._pool.concerned(access), patience_s=LISTING_S)
        return Resources(
            resources=self._pool.offered("resources", access),
            templates=self._pool.offered("resourceTemplates", access),
            failures=error_records(failures),
        )

    @serve(MCP_READ)
    async def _read(self, params: ReadParams, caller: Caller) -> dict[str, object]:
        whose = str(caller.who.get("agent") or f"uid {caller.who.get('uid')}")
        return await self._pool.request(
            "resources/read",
            {"uri": params.uri},
            access=self._tool_calls.access_for(caller.who),
            caller=caller_of(caller.name, whose, str(caller.who.get("tenant", ""))),
            timeout_s=params.timeout_s,
        )
