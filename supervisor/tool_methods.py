"""The methods `mcp.*` of the table: the shared tool servers."""

import msgspec

from ..worker.errors import NotFound
from ..worker.schema import CallParams, NoParams, ToolsParams
from .control import Caller, Control, method
from .report import agent_status


@method("mcp.servers", "read", NoParams)
async def _servers(control: Control, _params: NoParams, _caller: Caller) -> object:
    """The MCP servers, with the tools that they listed last."""
    servers = [a for a in control.agents.agents.values() if a.spec.kind == "mcp"]
    return {"servers": msgspec.to_builtins([agent_status(control, server) for server in servers])}


@method("mcp.tools", "read", ToolsParams)
async def _tools(control: Control, params: ToolsParams, _caller: Caller) -> object:
    """The tools of all servers, or of one; a server that never listed any is started first."""
    if params.server is not None and params.server not in control.pool.names():
        raise NotFound(f'cannot find MCP server "{params.server}"', name=params.server)
    failures = await control.pool.list_servers(None if params.server is None else [params.server])
    if params.server is not None and params.server in failures:
        raise failures[params.server]
    tools = control.pool.tools()
    if params.server is not None:
        tools = [tool for tool in tools if tool["server"] == params.server]
    refusals = {name: error.to_record() for name, error in failures.items()}
    return {"tools": tools, "failures": refusals}


@method("mcp.call", "operate", CallParams, recorded="by-itself")
async def _call(control: Control, params: CallParams, caller: Caller) -> object:
    """Calls a tool and answers with MCP's result object."""
    return await control.service.call(
        params.name,
        params.arguments,
        caller=caller.name,
        who=caller.who,
        timeout_s=params.timeout_s,
    )
