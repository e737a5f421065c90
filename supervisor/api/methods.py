"""Assembles the method table: importing this enters every method into `table.METHODS`."""

from . import (
    methods_agent,
    methods_daemon,
    methods_mcp,
    methods_observe,
    methods_schedule,
    methods_secret,
    methods_state,
    methods_task,
)
from .table import METHODS, openrpc

__all__ = [
    "METHODS",
    "methods_agent",
    "methods_daemon",
    "methods_mcp",
    "methods_observe",
    "methods_schedule",
    "methods_secret",
    "methods_state",
    "methods_task",
    "openrpc",
]
