"""Holds the functions that serve all methods: importing this enters them into `api.table.HANDLERS`."""

from ..agent_methods import agent, deployment, group, login, mcp, package, revision
from ..agent_methods import exec as interactive
from ..table.table import HANDLERS
from ..task_methods import approval, report, schedule, state, task
from . import access, backup, daemon, node, observe, removal, runtime, secret, tenant

__all__ = [
    "HANDLERS",
    "access",
    "agent",
    "approval",
    "backup",
    "daemon",
    "deployment",
    "group",
    "interactive",
    "login",
    "mcp",
    "node",
    "observe",
    "package",
    "removal",
    "report",
    "revision",
    "runtime",
    "schedule",
    "secret",
    "state",
    "task",
    "tenant",
]
