"""Assembles the method table: importing this enters every method into `api.table.METHODS`."""

from ..api.table import METHODS
from ..approval_methods import approval
from ..cluster_methods import node
from ..interactive import methods as interactive
from ..login_methods import login
from ..package_methods import deployment, package
from ..tenant_methods import removal, tenant
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
