"""Assembles the method table: importing this enters every method into `api.table.METHODS`."""

from ..api.table import METHODS
from . import access, agent, daemon, group, mcp, observe, runtime, schedule, secret, state, task

__all__ = [
    "METHODS",
    "access",
    "agent",
    "daemon",
    "group",
    "mcp",
    "observe",
    "runtime",
    "schedule",
    "secret",
    "state",
    "task",
]
