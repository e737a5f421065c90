"""Serves the methods `mcp.*` of the table: the shared tool servers."""

import msgspec

from corral.supervisor.tasks.worker_api.tool_calls import LISTING_S, caller_of
from corral.supervisor.tenants.tokens.scope import OPEN, TOOL, Rule
from corral.worker.contract.errors import NotFound
from corral.worker.contract.names import qualified
from corral.worker.contract.trace_context import KEY
from corral.worker.control.params import AttachParams, CallParams, NoParams, ReadParams, ToolsParams
from corral.worker.control.results import Done, Prompts, Resources, Servers, Tool, Tools

from ..table.faces import faces
from ..table.results import Open, error_records
from ..table.table import Caller, Control, method

TOOL_RESULT = Open("ToolResult", "MCP's result of `tools/call`, as the server sent it: content, isError")

RESOURCE_CONTENTS = Open("ResourceContents", "MCP's result of `resources/read`, as the server sent it: contents")


@method(
    "mcp.servers",
    "read",
    NoParams,
    Servers,
    scope=Rule(lists=(("servers", "name"),)),
    faces=faces("GET /mcp/servers", python="list_servers", command="mcp servers"),
)
async def _servers(control: Control, _params: NoParams, _caller: Caller) -> Servers:
    """Lists the MCP servers, with the tools that they listed last."""
    servers = [a for a in control.agents.agents.values() if a.spec.kind == "mcp"]
    return Servers(servers=[control.status.agent_status(server) for server in servers])


@method(
    "mcp.tools",
    "read",
    ToolsParams,
    Tools,
    tenant=TOOL,
    faces=faces("GET /mcp/tools", python="list_tools", command="mcp tools"),
)
async def _tools(control: Control, params: ToolsParams, caller: Caller) -> Tools:
    """Lists the tools of all servers, or of one; a server that never listed any is started first."""
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


@method(
    "mcp.call",
    "operate",
    CallParams,
    TOOL_RESULT,
    recorded="by-itself",
    tenant=TOOL,
    faces=faces("POST /mcp/tools/{name}/call", python="call_tool", command="mcp call"),
)
async def _call(control: Control, params: CallParams, caller: Caller) -> dict[str, object]:
    """Calls a tool and returns MCP's result object."""
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


@method(
    "mcp.attach",
    "read",
    AttachParams,
    Done,
    scope=OPEN,
    faces=faces(
        command="mcp serve", reason="it turns a connection of the socket into one of MCP, which HTTP serves at /mcp"
    ),
)
async def _attach(_control: Control, params: AttachParams, caller: Caller) -> Done:
    """Switches this connection to MCP, of either era, after the answer; the params narrow the tools that it offers."""
    caller.attach(params)
    return Done()


@method(
    "mcp.prompts",
    "read",
    NoParams,
    Prompts,
    tenant=TOOL,
    faces=faces("GET /mcp/prompts", python="list_prompts", command="mcp prompts"),
)
async def _prompts(control: Control, _params: NoParams, caller: Caller) -> Prompts:
    """Lists the prompts of all servers, by exposed name; a server that never listed anything is started first."""
    access = control.tool_calls.access_for(caller.who if caller.tenant else {})
    failures = await control.pool.list_servers(control.pool.concerned(access), patience_s=LISTING_S)
    prompts = control.pool.offered("prompts", access)
    return Prompts(prompts=prompts, failures=error_records(failures))


@method(
    "mcp.resources",
    "read",
    NoParams,
    Resources,
    tenant=TOOL,
    faces=faces("GET /mcp/resources", python="list_resources", command="mcp resources"),
)
async def _resources(control: Control, _params: NoParams, caller: Caller) -> Resources:
    """Lists the resources of all servers and their templates; a server that never listed anything is started first."""
    access = control.tool_calls.access_for(caller.who if caller.tenant else {})
    failures = await control.pool.list_servers(control.pool.concerned(access), patience_s=LISTING_S)
    return Resources(
        resources=control.pool.offered("resources", access),
        templates=control.pool.offered("resourceTemplates", access),
        failures=error_records(failures),
    )


@method(
    "mcp.read",
    "operate",
    ReadParams,
    RESOURCE_CONTENTS,
    tenant=TOOL,
    faces=faces("POST /mcp/resources/read", python="read_resource", command="mcp read"),
)
async def _read(control: Control, params: ReadParams, caller: Caller) -> dict[str, object]:
    """Reads a resource and returns MCP's result object."""
    whose = str(caller.who.get("agent") or f"uid {caller.who.get('uid')}")
    return await control.pool.request(
        "resources/read",
        {"uri": params.uri},
        access=control.tool_calls.access_for(caller.who),
        caller=caller_of(caller.name, whose, str(caller.who.get("tenant", ""))),
        timeout_s=params.timeout_s,
    )
