"""Defines the sources that an endpoint serves to its client: tools, prompts and resources, and tasks.

Types alone; a transport is given an implementation, which knows the client and its rights.
"""

from collections.abc import Callable, Mapping
from typing import Protocol

from ..protocol.caller import Caller
from ..protocol.catalog import Kind
from ..protocol.tasks import McpTask


class Provider(Protocol):
    """Defines the tools, prompts and resources of one client: those of the pool within its access, and corral's own."""

    @property
    def instructions(self) -> str:
        """Returns the server's instructions for models."""
        ...

    async def listed(self, kind: Kind) -> list[dict[str, object]]:
        """Returns MCP's objects under exposed names, sorted; starts servers that never listed anything."""
        ...

    async def request(self, method: str, params: Mapping[str, object], caller: Caller) -> dict[str, object]:
        """Returns the result of tools/call, prompts/get, resources/read or completion/complete.

        `params` are those of MCP, with the caller's `_meta` except the protocol's own keys, and with
        `inputResponses` and `requestState` where it has them.
        """
        ...

    async def subscribe(self, uri: str, on_updated: Callable[[str], None]) -> Callable[[], None]:
        """Calls `on_updated` with the URI whenever the resource changes; returns a function that ends that."""
        ...

    def watch(self, on_change: Callable[[Kind], None]) -> Callable[[], None]:
        """Calls `on_change` when a list has changed; returns a function that ends that."""
        ...


class TaskFeed(Protocol):
    """Defines the reports of changed statuses of some tasks."""

    def add(self, task_id: str, status: str | None) -> None:
        """Reports each status of a task that differs from the one before, the first from `status`; a final one is the last."""
        ...

    def close(self) -> None:
        """Ends the reports."""
        ...


class TaskSource(Protocol):
    """Defines the tasks of one client: those that it may see, also where another has begun them."""

    async def begin(self, params: Mapping[str, object], caller: Caller) -> McpTask | None:
        """Begins a call of a tool as a task; returns None, without any effect, for a tool whose calls are no tasks."""
        ...

    def requires(self, name: object) -> bool:
        """Returns True if a tool can be called as a task alone."""
        ...

    async def task(self, task_id: str, caller: Caller) -> McpTask:
        """Returns a task."""
        ...

    async def ended(self, task_id: str, caller: Caller) -> McpTask:
        """Returns a task when its status is final; meanwhile the client is asked what the task needs to know."""
        ...

    async def page(self, cursor: str | None, caller: Caller) -> tuple[list[McpTask], str | None]:
        """Returns tasks without results, the newest first, and the cursor of the next ones."""
        ...

    async def cancel(self, task_id: str, caller: Caller) -> McpTask:
        """Cancels a task and returns it when it has ended; one that had ended before stays as it is."""
        ...

    async def answer(self, task_id: str, responses: Mapping[str, object], caller: Caller) -> None:
        """Takes the client's answers to what a task needs to know; those to other questions are ignored."""
        ...

    def feed(self, caller: Caller, on_status: Callable[[McpTask], None]) -> TaskFeed:
        """Returns a feed, without any task, that reports to `on_status`."""
        ...
