"""Defines the methods about logins at remote MCP servers."""

from ..control.logins import LoggedOut, Login, LoginFinishParams, LoginParams, Logins, LoginStarted, LogoutParams
from ..control.params import NoParams
from .faces import faces
from .method import Signature, access, method
from .rules import NAME, Rule

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
    Signature("mcp.logins", NoParams, Logins),
    access("read", Rule(lists=(("logins", "name"),))),
    faces("GET /mcp/logins", python="list_logins", command="mcp logins"),
    "Lists the remote MCP servers with the state of their logins, without tokens.",
)
