"""Supervises AI agents and MCP tool servers the way systemd supervises services.

This package exports the API for programs: `AgentRuntime`, which drives a daemon or embeds one, `Runtime`, which does the same without asyncio, and the errors that it
raises. Each name is imported on first use. The API for agents is `corral.worker`.
"""

import sys
from importlib import import_module

__version__ = "1.0.0"

if (
    sys.platform != "linux"
):  # a wheel of Python alone installs everywhere; SystemExit, so that commands print no traceback
    raise SystemExit(f"corral: cannot run on {sys.platform}: it needs Linux (a container or WSL 2 has one)")

TYPE_CHECKING = False  # as type checkers know it; importing typing takes milliseconds of every start
if TYPE_CHECKING:
    from .worker.client.blocking import Runtime
    from .worker.client.events import DaemonEvent, EventStream, Part
    from .worker.client.health_monitor import HealthMonitor
    from .worker.client.runtime import AgentRuntime
    from .worker.client.tasks import Progress, TaskOptions, failure
    from .worker.client.usage import ResourceUsage
    from .worker.contract.errors import (
        Cancelled,
        Conflict,
        CorralError,
        Corrupted,
        InternalError,
        InvalidParams,
        NotFound,
        NotInitialized,
        Overloaded,
        PermissionDenied,
        ResourceLimitExceeded,
        ShuttingDown,
        SpawnFailed,
        TaskFailed,
        Timeout,
        ToolFailed,
        Unreachable,
        WorkerFailed,
    )
    from .worker.contract.records import (
        AgentStatus,
        Boundaries,
        OutputFormat,
        Retry,
        Statistics,
        Status,
        Task,
        TaskParams,
    )
    from .worker.service.agent_service import AgentService

__all__ = [
    "AgentRuntime",
    "AgentService",
    "AgentStatus",
    "Boundaries",
    "Cancelled",
    "Conflict",
    "CorralError",
    "Corrupted",
    "DaemonEvent",
    "EventStream",
    "HealthMonitor",
    "InternalError",
    "InvalidParams",
    "NotFound",
    "NotInitialized",
    "OutputFormat",
    "Overloaded",
    "Part",
    "PermissionDenied",
    "Progress",
    "ResourceLimitExceeded",
    "ResourceUsage",
    "Retry",
    "Runtime",
    "ShuttingDown",
    "SpawnFailed",
    "Statistics",
    "Status",
    "Task",
    "TaskFailed",
    "TaskOptions",
    "TaskParams",
    "Timeout",
    "ToolFailed",
    "Unreachable",
    "WorkerFailed",
    "failure",
]

_MODULES = {
    "worker.client.runtime": ("AgentRuntime",),
    "worker.client.blocking": ("Runtime",),
    "worker.service.agent_service": ("AgentService",),
    "worker.client.health_monitor": ("HealthMonitor",),
    "worker.client.events": ("DaemonEvent", "EventStream", "Part"),
    "worker.client.usage": ("ResourceUsage",),
    "worker.client.tasks": ("Progress", "TaskOptions", "failure"),
    "worker.contract.records": (
        "AgentStatus",
        "Boundaries",
        "OutputFormat",
        "Retry",
        "Statistics",
        "Status",
        "Task",
        "TaskParams",
    ),
}
"""The names of each module; all others are in `worker.contract.errors`."""


if not TYPE_CHECKING:  # else a checker would accept any name

    def __getattr__(name: str) -> object:
        """Imports a name on first use (PEP 562): `import corral` alone costs nothing."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        module = next((module for module, names in _MODULES.items() if name in names), "worker.contract.errors")
        found: object = getattr(import_module(f".{module}", __name__), name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
