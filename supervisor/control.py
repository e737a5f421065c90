"""The one method table of the daemon: what can be asked, by whom, with what params, for what result.

Every face (the unix socket now, others later) calls `Control.call`. A method is a function of the
table with its params as a Struct, a permission and a docstring; `rpc.discover` returns the table as an
OpenRPC document, from which docs/PROTOCOL.md is generated.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Literal, Protocol

import msgspec
from msgspec import Struct

from .. import __version__
from ..mcp.pool import Pool
from ..worker.errors import (
    MethodNotFound,
    PermissionDenied,
)
from .agents import Agents
from .keeper import Shared
from .limits import Limits
from .service import WorkerService, convert
from .spec import Config
from .tasks import Tasks

Permission = Literal["read", "operate", "admin"]

RIGHTS: tuple[Permission, ...] = ("read", "operate", "admin")
"""Each includes those before it."""


class Caller(Protocol):
    """Whoever calls: what it may do, and how it is told things while a call goes on."""

    name: str
    permission: Permission

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Sends a notification."""
        ...

    async def drain(self) -> None:
        """Waits while the caller reads too slowly.

        Raises:
            CorralError: it is gone.
        """
        ...

    def follow(self, following: Awaitable[None]) -> None:
        """Goes on with `following` after the call, until the caller hangs up."""
        ...


@dataclass(frozen=True)
class Daemon:
    """What `status` says of the daemon itself."""

    started: float
    socket: str
    state_dir: str
    config: str | None
    read_config: Callable[[], Config]


@dataclass(frozen=True)
class Method:
    """One entry of the table."""

    name: str
    permission: Permission
    params: type[Struct]
    serve: Callable[["Control", Any, Caller], Awaitable[object]]  # each with its own params

    @property
    def summary(self) -> str:
        """The first line of its docstring."""
        return (self.serve.__doc__ or "").strip().partition("\n")[0]


METHODS: dict[str, Method] = {}
"""Filled by the modules that `supervisor.methods` imports."""

Serve = Callable[["Control", Any, Caller], Awaitable[object]]  # each with its own params


def method(name: str, permission: Permission, params: type[Struct]) -> Callable[[Serve], Serve]:
    """Enters a function into the table."""

    def enter(serve: Serve) -> Serve:
        METHODS[name] = Method(name, permission, params, serve)
        return serve

    return enter


class Control:
    """Answers calls for one daemon."""

    def __init__(
        self,
        shared: Shared,
        agents: Agents,
        tasks: Tasks,
        pool: Pool,
        service: WorkerService,
        limits: Limits,
        daemon: Daemon,
        methods: Mapping[str, Method],
    ) -> None:
        self.shared = shared
        self.agents = agents
        self.tasks = tasks
        self.pool = pool
        self.service = service
        self.limits = limits
        self.daemon = daemon
        self.methods = methods
        self.loop = asyncio.get_running_loop()

    async def call(self, name: str, params: Mapping[str, object], caller: Caller) -> object:
        """The result of a method, as plain values.

        Raises:
            MethodNotFound: there is no such method.
            PermissionDenied: the caller may not call it.
            InvalidParams: its params are not those of the table.
            CorralError: what the method raises.
        """
        entry = self.methods.get(name)
        if entry is None:
            raise MethodNotFound(f'cannot call "{name}": there is no such method', method=name)
        if RIGHTS.index(caller.permission) < RIGHTS.index(entry.permission):
            raise PermissionDenied(
                f'cannot call "{name}": {caller.name} may only {caller.permission}',
                method=name,
                needs=entry.permission,
            )
        asked = convert(params, entry.params, name)
        return await entry.serve(self, asked, caller)


# -- the table as a document


def openrpc() -> dict[str, object]:
    """The method table as an OpenRPC 1.3 document."""
    entries = [METHODS[name] for name in sorted(METHODS)]
    schemas, components = msgspec.json.schema_components(
        [entry.params for entry in entries],
        schema_hook=_any_value,
        ref_template="#/components/schemas/{name}",
    )
    described: list[dict[str, object]] = []
    for entry, schema in zip(entries, schemas, strict=True):
        reference = str(schema["$ref"]).rpartition("/")[2]
        shape = components[reference]
        required = set(shape.get("required", ()))
        described.append(
            {
                "name": entry.name,
                "summary": entry.summary,
                "paramStructure": "by-name",
                "params": [
                    {"name": name, "required": name in required, "schema": each}
                    for name, each in shape.get("properties", {}).items()
                ],
                "result": {"name": "result", "schema": {}},
                "x-permission": entry.permission,
            }
        )
    return {
        "openrpc": "1.3.2",
        "info": {"title": "corral", "version": __version__},
        "methods": described,
        "components": {"schemas": components},
    }


def _any_value(type_: type) -> dict[str, object]:
    """`object` in a Struct stands for any JSON value."""
    assert type_ is object, f"{type_} has a schema of its own"
    return {"description": "any JSON value"}
