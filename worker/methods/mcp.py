"""Defines the methods about MCP servers, their tools, resources and prompts."""

from ..control.params import AttachParams, CallParams, NoParams, ReadParams, ToolsParams
from ..control.results import Done, Prompts, Resources, Servers, Tools
from .faces import faces
from .method import Open, method
from .rules import OPEN, TOOL, Rule

RESOURCE_CONTENTS = Open("ResourceContents", "MCP's result of `resources/read`, as the server sent it: contents")

TOOL_RESULT = Open("ToolResult", "MCP's result of `tools/call`, as the server sent it: content, isError")

MCP_SERVERS = method(
    "mcp.servers",
    "read",
    NoParams,
    Servers,
    scope=Rule(lists=(("servers", "name"),)),
    faces=faces("GET /mcp/servers", python="list_servers", command="mcp servers"),
    doc="Lists the MCP servers, with the tools that they listed last.",
)

MCP_TOOLS = method(
    "mcp.tools",
    "read",
    ToolsParams,
    Tools,
    tenant=TOOL,
    faces=faces("GET /mcp/tools", python="list_tools", command="mcp tools"),
    doc="Lists the tools of all servers, or of one; a server that never listed any is started first.",
    example={"server": "files"},
)

MCP_CALL = method(
    "mcp.call",
    "operate",
    CallParams,
    TOOL_RESULT,
    recorded="by-itself",
    tenant=TOOL,
    faces=faces("POST /mcp/tools/{name}/call", python="call_tool", command="mcp call"),
    doc="Calls a tool and returns MCP's result object.",
    example={"name": "files__read_file", "arguments": {"path": "notes.txt"}},
)

MCP_ATTACH = method(
    "mcp.attach",
    "read",
    AttachParams,
    Done,
    scope=OPEN,
    faces=faces(
        command="mcp serve", reason="it turns a connection of the socket into one of MCP, which HTTP serves at /mcp"
    ),
    doc="Switches this connection to MCP, of either era, after the answer; the params narrow the tools that it offers.",
    example={"read_only": True},
)

MCP_PROMPTS = method(
    "mcp.prompts",
    "read",
    NoParams,
    Prompts,
    tenant=TOOL,
    faces=faces("GET /mcp/prompts", python="list_prompts", command="mcp prompts"),
    doc="Lists the prompts of all servers, by exposed name; a server that never listed anything is started first.",
)

MCP_RESOURCES = method(
    "mcp.resources",
    "read",
    NoParams,
    Resources,
    tenant=TOOL,
    faces=faces("GET /mcp/resources", python="list_resources", command="mcp resources"),
    doc="Lists the resources of all servers and their templates; a server that never listed anything is started first.",
)

MCP_READ = method(
    "mcp.read",
    "operate",
    ReadParams,
    RESOURCE_CONTENTS,
    tenant=TOOL,
    faces=faces("POST /mcp/resources/read", python="read_resource", command="mcp read"),
    doc="Reads a resource and returns MCP's result object.",
    example={"uri": "file:///notes.txt"},
)
