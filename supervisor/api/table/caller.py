"""Defines the caller of a method: its permission, its tenant and agents, its name in the audit, and the way back to it."""

import secrets
from collections.abc import Awaitable, Mapping, Sequence
from pwd import getpwuid
from typing import Protocol

from corral.supervisor.records.audit.log import refusal_key
from corral.supervisor.tenants.registry.tenants import Tenants
from corral.supervisor.workers.supervision.worker_supervisor import WorkerSupervisor
from corral.worker.contract.errors import NotFound
from corral.worker.control.access import Rights
from corral.worker.control.params import AttachParams


class Caller(Protocol):
    """Represents a caller: its permission, and the way to send it notifications during a call."""

    name: str
    permission: Rights
    who: Mapping[str, object]
    """As the audit names it: `uid` and `pid` from the kernel, the `agent` of the worker that it descends from, the name of its `token`, its `tenant`."""
    agents: Sequence[str] | None
    """Globs of the agents that it may know, those of its tenant alone where it has one; None for all."""
    tenant: str
    """Tenant that it is bound to; "" for the owner's view."""
    supervisor: WorkerSupervisor | None
    """Of the worker in whose tree it is, if that is known."""

    def notify(self, method: str, params: Mapping[str, object]) -> None:
        """Sends a notification."""
        ...

    async def drain(self) -> None:
        """Waits while the caller reads too slowly."""
        ...

    def follow(self, following: Awaitable[None]) -> None:
        """Runs `following` after the call, until the caller hangs up."""
        ...

    def attach(self, view: AttachParams) -> None:
        """Switches the connection to MCP."""
        ...

    def log_in(self, digest: bytes | None, tenant: str) -> None:
        """Restricts the connection to what the token of a digest permits, None for no token, and to a tenant, "" for none."""
        ...


def turn_key(caller: Caller) -> str:
    """Returns whose calls wait for one another: those of an agent, a token, an HTTP client's name, or a process of a user."""
    is_shared = not caller.who.keys().isdisjoint(("agent", "token", "http"))
    return refusal_key(caller.who) if is_shared else caller.name


def narrowed(tenants: Tenants, present: str, wanted: str) -> str:
    """Returns the tenant of a caller that is bound to `present` and asks for `wanted`, "" for none."""
    if not wanted or wanted == present:
        return present
    if present:
        raise NotFound(f'cannot find tenant "{wanted}"', name=wanted, known=[])
    return tenants.of(wanted).name


def generated_name(kind: str) -> str:
    """Returns `KIND-` with six hexadecimal digits, the first of them a letter: only a worker's id ends in digits alone."""
    return f"{kind}-{secrets.choice('abcdef')}{secrets.token_hex(3)[1:]}"


def made_by(caller: Caller) -> str:
    """Returns a caller as revisions name it: its token, the agent that it descends from, else the user of its process."""
    who = caller.who
    if isinstance(token := who.get("token"), str):
        return f"token {token}"
    if isinstance(agent := who.get("agent"), str):
        return f"agent {agent}"
    uid = who.get("uid")
    if not isinstance(uid, int):
        return caller.name
    try:
        return getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
