"""One MCP server as the tool pool sees it: started by a call, its tools known while it is stopped."""

from collections.abc import Awaitable, Callable

from ..mcp.messages import Tool
from ..mcp.pool import Concurrency
from ..mcp.session import Session
from ..worker.errors import Conflict
from .crew import Agent
from .keeper import Keeper
from .lifecycle import UP


class ToolServer:
    """A backend of the pool.

    Args:
        agent: the server.
        check: raises when nothing is called now.
        bring_up: starts a worker, or waits for one that is on its way.
    """

    def __init__(
        self,
        agent: Agent,
        *,
        check: Callable[[str], None],
        bring_up: Callable[[Keeper], Awaitable[None]],
    ) -> None:
        self._agent = agent
        self._check = check
        self._bring_up = bring_up

    @property
    def name(self) -> str:
        """The server's name."""
        return self._agent.name

    @property
    def concurrency(self) -> Concurrency:
        """How its calls may overlap: auto, serial or parallel."""
        return self._agent.spec.concurrency

    @property
    def request_timeout_s(self) -> float:
        """The longest wait for an answer where the caller names none."""
        return self._agent.spec.mcp.request_timeout

    @property
    def max_retries(self) -> int:
        """How often a call that is safe to repeat is repeated."""
        return self._agent.spec.mcp.max_retries

    @property
    def tools(self) -> tuple[Tool, ...]:
        """Its tools, as it listed them last."""
        return self._agent.tools

    async def acquire(self) -> Session:
        """A session with the server, which is started if it is not up.

        Raises:
            Conflict: somebody stopped or paused it, or an emergency stop is in force.
            SpawnFailed, Timeout: it does not come up.
            ResourceLimitExceeded: there is no room for its process.
        """
        what = f'call MCP server "{self.name}"'
        self._check(what)
        if self._agent.held or not self._agent.keepers:
            raise Conflict(
                f"cannot {what}: it is stopped; corral start {self.name}", server=self.name
            )
        running = [k for k in self._agent.keepers if k.worker.paused_at is None]
        if not running:
            raise Conflict(
                f"cannot {what}: it is paused; corral resume {self.name}",
                server=self.name,
                reason="paused",
            )
        up = [keeper for keeper in running if keeper.worker.state in UP]
        keeper = min(up or running, key=lambda each: len(each.running))
        if keeper.worker.state not in UP:
            await self._bring_up(keeper)
        return keeper.session
