"""The SDK for agent authors, and the contract that daemon, workers and clients share."""

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
from .sdk.agent import Agent
from .sdk.results import Result, ToolResult
from .sdk.session import Memory
from .sdk.task import Event, Start, SyncTask, Task

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
