"""Serves the methods `mcp.*` of the table: the shared tool servers."""

import msgspec

from corral.supervisor.tasks.worker_api.tool_calls import LISTING_S, caller_of
from corral.worker.contract.errors import NotFound
from corral.worker.contract.names import qualified
from corral.worker.contract.trace_context import KEY
from corral.worker.control.params import AttachParams, CallParams, NoParams, ReadParams, ToolsParams
from corral.worker.control.results import Done, Prompts, Resources, Servers, Tool, Tools
from corral.worker.methods.mcp import MCP_ATTACH, MCP_CALL, MCP_PROMPTS, MCP_READ, MCP_RESOURCES, MCP_SERVERS, MCP_TOOLS

from ..table.results import error_records
from ..table.table import Caller, Control, serve


@serve(MCP_SERVERS)
async def _servers(control: Control, _params: NoParams, _caller: Caller) -> Servers:
    servers = [a for a in control.agents.agents.values() if a.spec.kind == "mcp"]
    return Servers(servers=[control.status.agent_status(server) for server in servers])


@serve(MCP_TOOLS)
async def _tools(control: Control, params: ToolsParams, caller: Caller) -> Tools:
    access = control.tool_calls.access_for(caller.who if caller.tenant else {})
    known = sorted(control.pool.concerned(access))
    server = params.server
    if server is not None and caller.tenant and qualified(server, caller.tenant) in known:
        server = qualified(server, caller.tenant)
    if server is not None and server not in known:
        text = f'cannot find MCP server "{params.server}"'
        raise NotFound(text, name=params.server, known=known)
    chosen, patience_s = (known, LISTING_S) if server is None else ([server], None)
    failures = await control.pool.list_servers(chosen, patience_s=patience_s)
    if server is not None and server in failures:
        raise failures[server]
    tools = control.pool.tools(access)
    if server is not None:
        tools = [tool for tool in tools if tool["server"] in (server, params.server)]
    found = msgspec.convert(tools, list[Tool])
    return Tools(tools=found, failures=error_records(failures))


@serve(MCP_CALL)
async def _call(control: Control, params: CallParams, caller: Caller) -> dict[str, object]:
    return await control.tool_calls.call(
        params.name,
        params.arguments,
        caller=caller_of(
            caller.name,
            str(caller.who.get("agent") or f"uid {caller.who.get('uid')}"),
            str(caller.who.get("tenant", "")),
        ),
        who=caller.who,
        access=control.tool_calls.access_for(caller.who),
        timeout_s=params.timeout_s,
        more=None if params.traceparent is None else {"_meta": {KEY: params.traceparent}},
        supervisor=caller.supervisor,
    )


@serve(MCP_ATTACH)
async def _attach(_control: Control, params: AttachParams, caller: Caller) -> Done:
    caller.attach(params)
    return Done()


@serve(MCP_PROMPTS)
async def _prompts(control: Control, _params: NoParams, caller: Caller) -> Prompts:
    access = control.tool_calls.access_for(caller.who if caller.tenant else {})
    failures = await control.pool.list_servers(control.pool.concerned(access), patience_s=LISTING_S)
    prompts = control.pool.offered("prompts", access)
    return Prompts(prompts=prompts, failures=error_records(failures))


@serve(MCP_RESOURCES)
async def _resources(control: Control, _params: NoParams, caller: Caller) -> Resources:
    access = control.tool_calls.access_for(caller.who if caller.tenant else {})
    failures = await control.pool.list_servers(control.pool.concerned(access), patience_s=LISTING_S)
    return Resources(
        resources=control.pool.offered("resources", access),
        templates=control.pool.offered("resourceTemplates", access),
        failures=error_records(failures),
    )


@serve(MCP_READ)
async def _read(control: Control, params: ReadParams, caller: Caller) -> dict[str, object]:
    whose = str(caller.who.get("agent") or f"uid {caller.who.get('uid')}")
    return await control.pool.request(
        "resources/read",
        {"uri": params.uri},
        access=control.tool_calls.access_for(caller.who),
        caller=caller_of(caller.name, whose, str(caller.who.get("tenant", ""))),
        timeout_s=params.timeout_s,
    )
