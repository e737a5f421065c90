"""Assembles the method table: importing this enters every method into `api.table.METHODS`."""

from ..api.table import METHODS
from ..package_methods import deployment, package
from . import (
    access,
    agent,
    backup,
    daemon,
    group,
    mcp,
    observe,
    report,
    revision,
    runtime,
    schedule,
    secret,
    state,
    task,
)

__all__ = [
    "METHODS",
    "access",
    "agent",
    "backup",
    "daemon",
    "deployment",
    "group",
    "mcp",
    "observe",
    "package",
    "report",
    "revision",
    "runtime",
    "schedule",
    "secret",
    "state",
    "task",
]
