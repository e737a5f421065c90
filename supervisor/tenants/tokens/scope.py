"""Decides what a caller may know whose token names agents, or who is bound to a tenant: pure functions of its globs and of names.

None in place of the globs means that nothing is restricted, and no glob that nothing may be known. A name that is out of scope is answered as one that is not there, so that
nothing here says which of the two it is. A glob is about the names of one owner: without a tenant it matches no tenant's name.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Literal

from corral.worker.contract import codec
from corral.worker.contract.errors import InvalidParams
from corral.worker.contract.names import SEPARATOR, local_name, qualified, tenant_of
from corral.worker.control.access import RIGHTS, Rights


def lesser(one: Rights, other: Rights) -> Rights:
    """Returns the one of two rights that permits less."""
    return one if RIGHTS.index(one) <= RIGHTS.index(other) else other


def is_in_scope(name: str, globs: Sequence[str] | None) -> bool:
    """Returns whether a caller with these globs may know an agent, server, team or workflow."""
    if globs is None:
        return True
    tenant, local = tenant_of(name), local_name(name)
    return any(tenant_of(glob) == tenant and fnmatchcase(local, local_name(glob)) for glob in globs)


def bound(globs: Sequence[str] | None, tenant: str) -> Sequence[str] | None:
    """Returns the globs of a caller that is bound to `tenant`, "" for none: those of the tenant among its own, or all of the tenant."""
    if not tenant:
        return globs
    if globs is None:
        return (f"{tenant}{SEPARATOR}*",)
    return tuple(glob for glob in globs if tenant_of(glob) == tenant)


def own_globs(globs: Sequence[str] | None, tenant: str) -> list[str] | None:
    """Returns globs with the tenant that they are about, "" for the owner."""
    if globs is None:
        return None
    found = [qualified(glob, tenant) for glob in globs]
    for glob in found:
        if tenant_of(glob) != tenant:
            raise InvalidParams(
                f'cannot restrict to "{glob}": it is about names of another tenant', key="agents", value=glob
            )
    return found


def knows(globs: Sequence[str] | None) -> Callable[[str], bool] | None:
    """Returns the filter of names for a list that is cut into pages; None where nothing is restricted."""
    return None if globs is None else lambda name: is_in_scope(name, globs)


Target = Literal[
    "nothing",
    "names",
    "name",
    "agent",
    "task",
    "new task",
    "checkpoint",
    "approval",
    "schedule",
    "new schedule",
    "new agent",
    "new group",
    "table",
    "tool",
    "own",
    "tenant",
    "package",
    "deployment",
    "new deployment",
]
"""The part of the params that names agents; `nothing` where no part does."""


@dataclass(frozen=True)
class Rule:
    """Describes how a method is restricted to the agents of a caller, or to its tenant; a method without a rule is refused to such a caller.

    Attributes:
        target: the params that must be in scope. The `new` ones are created by the call; `own` is a `name` of another kind, `noun`;
            `tenant` is the name of a tenant, that of the caller without one.
        lists_all: whether it is about all agents where it names none: about those in scope then.
        groups: whether globs and selectors choose teams and workflows, too.
        logs: whether they choose removed agents whose logs are there.
        lists: keys of the result that are lists, each with the path to the agent's name in an entry; others are left out.
        sends: the same of its notifications, by method.
        tenants: key of the result that is a list of tenants; others are left out.
    """

    target: Target = "nothing"
    lists_all: bool = False
    groups: bool = False
    logs: bool = False
    lists: tuple[tuple[str, str], ...] = ()
    sends: tuple[tuple[str, str, str], ...] = ()
    noun: str = ""
    tenants: str = ""


OPEN = Rule()
"""Permits a method whose params and result have nothing of an agent."""

NAMES = Rule("names")
NAMES_AND_GROUPS = Rule("names", groups=True)
ALL_NAMES = Rule("names", lists_all=True, groups=True)
LOGS = Rule("names", lists_all=True, logs=True)
NAME = Rule("name")
AGENT = Rule("agent")
TASK = Rule("task")
NEW_TASK = Rule("new task")
CHECKPOINT = Rule("checkpoint")
APPROVAL = Rule("approval")
SCHEDULE = Rule("schedule")
NEW_AGENT = Rule("new agent")
NEW_TEAM = Rule("new group", noun="team")
NEW_WORKFLOW = Rule("new group", noun="workflow")
TABLE = Rule("table")
TOOL = Rule("tool")
"""Permits a method of the pool, whose names are those of the view of the caller."""
OWN_SECRET = Rule("own", noun="secret")
OWN_TOKEN = Rule("own", noun="token")
OWN_PACKAGE = Rule("package")
OWN_PACKAGES = Rule(lists=(("packages", "name"),))
DEPLOYMENT = Rule("deployment")
NEW_DEPLOYMENT = Rule("new deployment")
OWN_TENANT = Rule("tenant")
"""Permits a method about a tenant: a caller that is bound to one names its own, or none."""
OWN_TENANTS = Rule(tenants="tenants")


def as_glob(name: str) -> str:
    """Returns a glob that a name alone matches: a choice by it is one that does not name it."""
    return f"[{name[0]}]{name[1:]}"


def kept(value: Mapping[str, object], key: str, path: str, globs: Sequence[str]) -> dict[str, object]:
    """Returns an object without the entries of its list `key` whose agent, at `path`, is out of scope or missing."""
    entries = codec.as_array(value.get(key)) or []
    return {**value, key: [each for each in entries if _is_kept(each, path, globs)]}


def _is_kept(entry: object, path: str, globs: Sequence[str]) -> bool:
    found = entry
    for part in path.split("."):
        found = (codec.as_object(found) or {}).get(part)
    return isinstance(found, str) and is_in_scope(found, globs)


NAMING = ("known", "near", "candidates")
"""Keys of an error's data that have names beside the one that was asked for."""


def without_names(data: Mapping[str, object], globs: Sequence[str]) -> dict[str, object]:
    """Returns the data of an error without names that are out of scope."""
    return {
        key: [each for each in codec.as_array(value) or [] if is_in_scope(str(each), globs)] if key in NAMING else value
        for key, value in data.items()
    }
