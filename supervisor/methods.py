"""The whole method table: importing this enters every method into `control.METHODS`."""

from . import (
    agent_methods,
    audit_methods,
    daemon_methods,
    event_methods,
    log_methods,
    task_methods,
    tool_methods,
)
from .control import METHODS, openrpc

__all__ = [
    "METHODS",
    "agent_methods",
    "audit_methods",
    "daemon_methods",
    "event_methods",
    "log_methods",
    "openrpc",
    "task_methods",
    "tool_methods",
]
