"""The whole method table: importing this enters every method into `control.METHODS`."""

from . import (
    agent_methods,
    audit_methods,
    checkpoint_methods,
    daemon_methods,
    event_methods,
    log_methods,
    memory_methods,
    schedule_methods,
    statistics_methods,
    task_methods,
    team_methods,
    tool_methods,
)
from .control import METHODS, openrpc

__all__ = [
    "METHODS",
    "agent_methods",
    "audit_methods",
    "checkpoint_methods",
    "daemon_methods",
    "event_methods",
    "log_methods",
    "memory_methods",
    "openrpc",
    "schedule_methods",
    "statistics_methods",
    "task_methods",
    "team_methods",
    "tool_methods",
]
