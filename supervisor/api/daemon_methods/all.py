"""Assembles the method table: importing this enters every method into `api.table.METHODS`."""

from ..agent_methods import agent, deployment, group, login, mcp, package, revision
from ..agent_methods import exec as interactive
from ..table.table import METHODS
from ..task_methods import approval, report, schedule, state, task
from . import access, backup, daemon, node, observe, removal, runtime, secret, tenant

__all__ = [
    "METHODS",
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
