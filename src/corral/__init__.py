"""corral: supervises AI agents and MCP tool servers the way systemd supervises services.

What a program needs is here, and is imported when it is first used: `AgentRuntime` to drive a daemon or to embed
one, and the errors that it raises. Agents are written with `corral.worker`.
"""

from importlib import import_module

__version__ = "0.1.0"

TYPE_CHECKING = False  # as the checkers know it; typing takes milliseconds of every start
if TYPE_CHECKING:
    from .worker.client.events import DaemonEvent, EventStream  # noqa: TID251 - it is relative
    from .worker.client.runtime import AgentRuntime  # noqa: TID251 - it is relative
    from .worker.client.tasks import Progress, TaskOptions, failure  # noqa: TID251 - it is relative
    from .worker.client.usage import ResourceUsage  # noqa: TID251 - it is relative
    from .worker.contract.errors import (  # noqa: TID251 - it is relative
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
    from .worker.contract.records import (  # noqa: TID251 - it is relative
        AgentStatus,
        Boundaries,
        OutputFormat,
        Retry,
        Statistics,
        Status,
        Task,
        TaskParams,
    )

__all__ = [
    "AgentRuntime",
    "AgentStatus",
    "Boundaries",
    "Cancelled",
    "Conflict",
    "CorralError",
    "Corrupted",
    "DaemonEvent",
    "EventStream",
    "InternalError",
    "InvalidParams",
    "NotFound",
    "NotInitialized",
    "OutputFormat",
    "Overloaded",
    "PermissionDenied",
    "Progress",
    "ResourceLimitExceeded",
    "ResourceUsage",
    "Retry",
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

_ROOMS = {
    "worker.client.runtime": ("AgentRuntime",),
    "worker.client.events": ("DaemonEvent", "EventStream"),
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
"""Where what is not in `worker.contract.errors` is."""


if not TYPE_CHECKING:  # else a checker would take any name for one of ours

    def __getattr__(name: str) -> object:
        """What is imported when it is first used (PEP 562): `import corral` alone costs nothing."""
        if name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        room = next(
            (room for room, names in _ROOMS.items() if name in names), "worker.contract.errors"
        )
        found: object = getattr(import_module(f".{room}", __name__), name)
        globals()[name] = found
        return found

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
