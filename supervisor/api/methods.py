"""The whole method table: importing this enters every method into `control.METHODS`."""

from . import (
    audit_methods,
    checkpoint_methods,
    log_methods,
    methods_agent,
    methods_daemon,
    methods_mcp,
    methods_observe,
    methods_state,
    methods_task,
    schedule_methods,
    statistics_methods,
    team_methods,
)
from .table import METHODS, openrpc

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
