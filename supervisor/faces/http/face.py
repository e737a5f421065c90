"""Defines a face, which serves the requests below one prefix of the path, and the client of a request.

It must not know aiohttp's server, a face of ours, or how a client was identified.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import Conflict, NotFound
from corral.worker.control.access import Rights
from corral.worker.control.params import AttachParams

if TYPE_CHECKING:
    from aiohttp import web


@dataclass(frozen=True)
class HttpClient:
    """Represents the client of one request.

    Attributes:
        name: of its token, for errors and events.
        permission: the highest that it has.
        who: its name in the audit.
        agents: the globs of the agents that it may reach; None for all.
        tenant: that it is bound to; "" for none.
        is_valid: returns whether its token is valid still, for a stream that lasts.
    """

    name: str
    permission: Rights
    who: Mapping[str, object] = field(default_factory=dict[str, object])
    agents: tuple[str, ...] | None = None
    is_valid: Callable[[], bool] = lambda: True
    tenant: str = ""

    @property
    def owner(self) -> str:
        """Returns what the sessions of this client belong to: its token, and its tenant."""
        return f"{self.name} {self.tenant}"

    @property
    def sharer(self) -> str:
        """Returns whose share of the connections this client uses; "" for the daemon's user, who may use what there is."""
        if self.tenant:
            return f'tenant "{self.tenant}"'
        if self.permission == "admin" and self.agents is None:
            return ""
        return f'token "{self.name}"'


ANONYMOUS = HttpClient("anonymous", "read", {"http": "anonymous"}, ())
"""The client of an open face that sent no token, or a wrong one: it reaches no agent."""

Authenticate = Callable[[str | None], HttpClient]
"""Returns the client of a bearer token, None where there is none; raises PermissionDenied."""

Bind = Callable[[HttpClient, str], HttpClient]
"""Returns a client as it is when it is bound to a tenant; raises NotFound."""


def refuse_tenants(client: HttpClient, tenant: str) -> HttpClient:
    """Refuses to bind a client: there are no tenants."""
    raise NotFound(f'cannot find tenant "{tenant}"', name=tenant, known=[])


TENANT_HEADER = "Corral-Tenant"
TENANT_KEY = "tenant"
"""Key of a query that stands for the header."""


FOREIGN = "origin"
"""`data["reason"]` of the PermissionDenied of a session that another page uses."""

BrowserClient = Callable[["web.BaseRequest"], HttpClient | None]
"""Returns the client of the session of a browser, None where the request has none; raises PermissionDenied."""


@dataclass(frozen=True)
class Access:
    """Identifies clients: by a bearer token, by the session of a browser, and by the tenant that a request names.

    `note_wrong` is told the address of each client whose token is wrong.
    """

    authenticate: Authenticate
    bind: Bind = refuse_tenants
    browser_client: BrowserClient = lambda _request: None
    note_wrong: Callable[[str], None] = lambda _address: None


WRONG_TOKEN = "token"
"""`data["reason"]` of the PermissionDenied of a token that is wrong or has expired."""


class Face(Protocol):
    """Serves all requests below one prefix of the path; the longest prefix that fits decides."""

    @property
    def prefix(self) -> str:
        """Returns the prefix, such as "/api/v1"; it ends where a segment ends. "/" takes what no other face has."""
        ...

    @property
    def open(self) -> bool:
        """Returns whether it is served without a token."""
        ...

    async def serve(self, request: "web.BaseRequest", client: HttpClient) -> "web.StreamResponse":
        """Answers one request."""
        ...

    async def close(self) -> None:
        """Ends all that is under way."""
        ...


class OneAnswer:
    """Represents a caller over HTTP that waits for one answer: notifications are not sent to it."""

    def __init__(self, client: HttpClient) -> None:
        self.name = client.name
        self.permission: Rights = client.permission
        self.who: Mapping[str, object] = client.who
        self.agents: Sequence[str] | None = client.agents
        self.tenant = client.tenant
        self.supervisor: WorkerSupervisor | None = None  # a worker is known by its process alone

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Drops a notification."""

    async def drain(self) -> None:
        """Returns at once."""

    def follow(self, following: Awaitable[None]) -> None:
        """Refuses: it has one answer."""
        raise Conflict("cannot follow anything in one answer: accept text/event-stream")

    def attach(self, view: AttachParams) -> None:
        """Refuses: MCP has a path of its own."""
        raise Conflict("cannot attach over HTTP: MCP is at /mcp")

    def log_in(self, digest: bytes | None, tenant: str) -> None:
        """Refuses: each request brings a token."""
        raise Conflict("cannot log in over HTTP: each request brings its token")
