"""Defines the methods about logins at remote MCP servers."""

from ..control.logins import LoggedOut, Login, LoginFinishParams, LoginParams, Logins, LoginStarted, LogoutParams
from ..control.params import NoParams
from .faces import faces
from .method import method
from .rules import NAME, Rule

MCP_LOGIN = method(
    "mcp.login",
    "admin",
    LoginParams,
    LoginStarted,
    recorded="or-refused",
    recorded_keys=("issuer", "scopes"),
    scope=NAME,
    faces=faces("POST /mcp/servers/{name}/login", python="start_login", command="mcp login"),
    doc="Starts a login to a remote MCP server (OAuth): returns the address that a person's browser has to open.",
    example={"name": "issues"},
)

MCP_FINISH_LOGIN = method(
    "mcp.finish_login",
    "admin",
    LoginFinishParams,
    Login,
    recorded="or-refused",
    recorded_keys=("state", "issuer", "scopes"),
    scope=NAME,
    faces=faces("POST /mcp/servers/{name}/login/finish", python="finish_login", command="mcp login"),
    doc="Finishes a login, and starts the server's workers that waited for it; `pending` while a device has not been told yet.",
    example={
        "name": "issues",
        "login": "8Cw3kJ1vXoQ",
        "redirect": "http://127.0.0.1:41357/callback?code=c0de&state=5tate",
    },
)

MCP_LOGOUT = method(
    "mcp.logout",
    "admin",
    LogoutParams,
    LoggedOut,
    recorded="always",
    recorded_keys=("forgotten",),
    scope=NAME,
    faces=faces("DELETE /mcp/servers/{name}/login", python="logout", command="mcp logout"),
    doc="Forgets the token of a remote MCP server and corral's registration there, and revokes the token.",
    example={"name": "issues"},
)

MCP_LOGINS = method(
    "mcp.logins",
    "read",
    NoParams,
    Logins,
    scope=Rule(lists=(("logins", "name"),)),
    faces=faces("GET /mcp/logins", python="list_logins", command="mcp logins"),
    doc="Lists the remote MCP servers with the state of their logins; no token.",
)
