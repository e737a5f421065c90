"""Defines the methods about MCP servers, their tools, resources and prompts."""

from ..control.params import AttachParams, CallParams, NoParams, ReadParams, ToolsParams
from ..control.results import Done, Prompts, Resources, Servers, Tools
from .faces import faces
from .method import Signature, access, method, open_result
from .rules import OPEN, TOOL, Rule

RESOURCE_CONTENTS = open_result("ResourceContents", "MCP's result of `resources/read`, as the server sent it: contents")

TOOL_RESULT = open_result("ToolResult", "MCP's result of `tools/call`, as the server sent it: content, isError")

MCP_SERVERS = method(
    Signature("mcp.servers", NoParams, Servers),
    access("read", Rule(lists=(("servers", "name"),))),
    faces("GET /mcp/servers", python="list_servers", command="mcp servers"),
    "Lists the MCP servers, with the tools that they listed last.",
)

MCP_TOOLS = method(
    Signature("mcp.tools", ToolsParams, Tools),
    access("read", tenant=TOOL),
    faces("GET /mcp/tools", python="list_tools", command="mcp tools"),
    "Lists the tools of all servers, or of one; a server that never listed any is started first.",
    example={"server": "files"},
)

MCP_CALL = method(
    Signature("mcp.call", CallParams, TOOL_RESULT),
    access("operate", tenant=TOOL, recorded="by-itself"),
    faces("POST /mcp/tools/{name}/call", python="call_tool", command="mcp call"),
    "Calls a tool and returns MCP's result object.",
    example={"name": "files__read_file", "arguments": {"path": "notes.txt"}},
)

MCP_ATTACH = method(
    Signature("mcp.attach", AttachParams, Done),
    access("read", OPEN),
    faces(command="mcp serve", reason="it turns a connection of the socket into one of MCP, which HTTP serves at /mcp"),
    "Switches this connection to MCP, of either era, after the answer; the params narrow the tools that it offers.",
    example={"read_only": True},
)

MCP_PROMPTS = method(
    Signature("mcp.prompts", NoParams, Prompts),
    access("read", tenant=TOOL),
    faces("GET /mcp/prompts", python="list_prompts", command="mcp prompts"),
    "Lists the prompts of all servers, by exposed name; a server that never listed anything is started first.",
)

MCP_RESOURCES = method(
    Signature("mcp.resources", NoParams, Resources),
    access("read", tenant=TOOL),
    faces("GET /mcp/resources", python="list_resources", command="mcp resources"),
    "Lists the resources of all servers and their templates; a server that never listed anything is started first.",
)

MCP_READ = method(
    Signature("mcp.read", ReadParams, RESOURCE_CONTENTS),
    access("operate", tenant=TOOL),
    faces("POST /mcp/resources/read", python="read_resource", command="mcp read"),
    "Reads a resource and returns MCP's result object.",
    example={"uri": "file:///notes.txt"},
)
