"""The SDK for agent authors, and the contract that daemon, workers and clients share."""

from .agent import Agent
from .answer import Result, ToolResult
from .contract.errors import (
    Cancelled,
    Conflict,
    CorralError,
    Corrupted,
    NotFound,
    Overloaded,
    PermissionDenied,
    ResourceLimitExceeded,
    ShuttingDown,
    TaskFailed,
    Timeout,
    ToolFailed,
    WorkerFailed,
)
from .memory import Memory
from .task import Event, Start, SyncTask, Task

__all__ = [
    "Agent",
    "Cancelled",
    "Conflict",
    "CorralError",
    "Corrupted",
    "Event",
    "Memory",
    "NotFound",
    "Overloaded",
    "PermissionDenied",
    "ResourceLimitExceeded",
    "Result",
    "ShuttingDown",
    "Start",
    "SyncTask",
    "Task",
    "TaskFailed",
    "Timeout",
    "ToolFailed",
    "ToolResult",
    "WorkerFailed",
]
