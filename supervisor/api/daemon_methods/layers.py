"""Lists the layers that keep the processes of a tenant apart, as this machine and this daemon have them."""

from corral.supervisor.tenants.registry.accounts import Accounts
from corral.supervisor.workers.process import sandbox
from corral.supervisor.workers.process.containment import Containment
from corral.worker.control.tenants import Layer

FILES_ABI = 3
"""Version of Landlock that holds reads and writes."""


def layers_of(accounts: Accounts, containment: Containment, name: str) -> list[Layer]:
    """Returns the layers between a tenant's processes and others', each with its value or the reason for its lack."""
    abi = sandbox.landlock_abi()
    standing, why = accounts.standing(name), accounts.why_shared(name)
    has = f"version {abi} of Landlock" if abi else "this kernel has no Landlock"
    limits = "" if sandbox.scopes_limits() else "no filter of system calls is known for this machine"
    return [
        Layer("user", not why, why or f"{standing.user}"),
        Layer("folder", abi >= FILES_ABI, standing.folder if abi >= FILES_ABI else has),
        Layer("files", abi >= FILES_ABI, has),
        Layer("signals", sandbox.scopes_signals(), has),
        Layer("abstract-sockets", sandbox.scopes_signals(), has),
        Layer("limits-of-others", sandbox.scopes_limits(), limits),
        Layer("no-new-privileges", True),
        Layer("control-socket", True, "no right is granted on it"),
        Layer("cgroup", containment.tier != "launcher", containment.tier),
    ]
