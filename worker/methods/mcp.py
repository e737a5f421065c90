"""Defines the methods about MCP servers, their tools, and logins at them."""

from ..control import params, results
from ..control.logins import LoggedOut, Login, LoginFinishParams, LoginParams, Logins, LoginStarted, LogoutParams
from ..control.tool_pins import Accepted, AcceptParams, ToolDiff, ToolDiffParams
from .faces import faces
from .method import Signature, access, method, open_result
from .rules import NAME, OPEN, TOOL, Rule

RESOURCE_CONTENTS = open_result("ResourceContents", "MCP's result of `resources/read`, as the server sent it: contents")

TOOL_RESULT = open_result("ToolResult", "MCP's result of `tools/call`, as the server sent it: content, isError")

MCP_SERVERS = method(
    Signature("mcp.servers", params.NoParams, results.Servers),
    access("read", Rule(lists=(("servers", "name"),))),
    faces("GET /mcp/servers", python="list_servers", command="mcp servers"),
    "Lists the MCP servers, with the tools that they listed last.",
)

MCP_TOOLS = method(
    Signature("mcp.tools", params.ToolsParams, results.Tools),
    access("read", tenant=TOOL),
    faces("GET /mcp/tools", python="list_tools", command="mcp tools"),
    "Lists the tools of all servers, or of one; a server that never listed any is started first.",
    example={"server": "files"},
)

MCP_CALL = method(
    Signature("mcp.call", params.CallParams, TOOL_RESULT),
    access("operate", tenant=TOOL, recorded="by-itself"),
    faces("POST /mcp/tools/{name}/call", python="call_tool", command="mcp call"),
    "Calls a tool and returns MCP's result object.",
    example={"name": "files__read_file", "arguments": {"path": "notes.txt"}},
)

MCP_ATTACH = method(
    Signature("mcp.attach", params.AttachParams, results.Done),
    access("read", OPEN),
    faces(command="mcp serve", reason="it turns a connection of the socket into one of MCP, which HTTP serves at /mcp"),
    "Switches this connection to MCP, of either era, after the answer; the params narrow the tools that it offers.",
    example={"read_only": True},
)

MCP_PROMPTS = method(
    Signature("mcp.prompts", params.NoParams, results.Prompts),
    access("read", tenant=TOOL),
    faces("GET /mcp/prompts", python="list_prompts", command="mcp prompts"),
    "Lists the prompts of all servers, by exposed name; a server that never listed anything is started first.",
)

MCP_RESOURCES = method(
    Signature("mcp.resources", params.NoParams, results.Resources),
    access("read", tenant=TOOL),
    faces("GET /mcp/resources", python="list_resources", command="mcp resources"),
    "Lists the resources of all servers and their templates; a server that never listed anything is started first.",
)

MCP_READ = method(
    Signature("mcp.read", params.ReadParams, RESOURCE_CONTENTS),
    access("operate", tenant=TOOL),
    faces("POST /mcp/resources/read", python="read_resource", command="mcp read"),
    "Reads a resource and returns MCP's result object.",
    example={"uri": "file:///notes.txt"},
)


MCP_LOGIN = method(
    Signature("mcp.login", LoginParams, LoginStarted),
    access("admin", NAME, recorded="or-refused", recorded_keys=("issuer", "scopes")),
    faces("POST /mcp/servers/{name}/login", python="start_login", command="mcp login"),
    "Starts a login to a remote MCP server (OAuth): returns the address that a person's browser has to open.",
    example={"name": "issues"},
)

MCP_FINISH_LOGIN = method(
    Signature("mcp.finish_login", LoginFinishParams, Login),
    access("admin", NAME, recorded="or-refused", recorded_keys=("state", "issuer", "scopes")),
    faces("POST /mcp/servers/{name}/login/finish", python="finish_login", command="mcp login"),
    "Finishes a login, and starts the server's workers that waited for it; `pending` until the device flow is confirmed.",
    example={
        "name": "issues",
        "login": "8Cw3kJ1vXoQ",
        "redirect": "http://127.0.0.1:41357/callback?code=c0de&state=5tate",
    },
)

MCP_LOGOUT = method(
    Signature("mcp.logout", LogoutParams, LoggedOut),
    access("admin", NAME, recorded="always", recorded_keys=("forgotten",)),
    faces("DELETE /mcp/servers/{name}/login", python="logout", command="mcp logout"),
    "Forgets the token of a remote MCP server and corral's registration there, and revokes the token.",
    example={"name": "issues"},
)

MCP_LOGINS = method(
    Signature("mcp.logins", params.NoParams, Logins),
    access("read", Rule(lists=(("logins", "name"),))),
    faces("GET /mcp/logins", python="list_logins", command="mcp logins"),
    "Lists the remote MCP servers with the state of their logins, without tokens.",
)

MCP_DIFF = method(
    Signature("mcp.diff", ToolDiffParams, ToolDiff),
    access("read", NAME),
    faces("GET /mcp/servers/{name}/changes", python="diff_tools", command="mcp diff"),
    "Returns the tools of an MCP server whose words are not those that were accepted, with both.",
    example={"name": "files"},
)

MCP_ACCEPT = method(
    Signature("mcp.accept", AcceptParams, Accepted),
    access("admin", NAME, recorded="or-refused", recorded_keys=("tools",)),
    faces("POST /mcp/servers/{name}/accept", python="accept_tools", command="mcp accept"),
    "Accepts the words that the tools of an MCP server have now; those that were held can be called again.",
    example={"name": "files", "tool": "read_file"},
)
