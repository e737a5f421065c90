"""Defines how a method is restricted to the agents of a caller, or to its tenant: values, which `tenants.tokens.scope` applies."""

from dataclasses import dataclass
from typing import Literal

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
AGENT_OR_ALL = Rule("agent", lists_all=True)
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
