"""Runs the health checks and recoveries that an agent defines as functions: `health/check` and `health/recover`.

A check is good when its function returns None or True, and bad when it returns False, a text with the fault, or raises.
When a check is due, how often it may fail and what follows is decided by the daemon.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence

from ..contract.errors import NotFound, TaskFailed
from .results import Json
from .stdio import log_traceback
from .task import HealthHook

Call = Callable[[Callable[[], object]], Awaitable[object]]
"""Runs a hook: on the loop, or in a thread."""


class HealthFunctions:
    """Answers the daemon's requests about the health of this worker."""

    def __init__(
        self, checks: Sequence[HealthHook], recoveries: Mapping[str, Callable[[], object]], call: Call
    ) -> None:
        self._checks = {each.name: each for each in checks}
        self._recoveries = recoveries
        self._call = call

    @property
    def offers(self) -> list[dict[str, object]]:
        """Returns the checks, as the answer to `initialize` names them."""
        return [
            {
                "name": each.name,
                "interval_s": each.interval_s,
                "timeout_s": each.timeout_s,
                "threshold": each.threshold,
                "recovers": each.name in self._recoveries,
            }
            for each in self._checks.values()
        ]

    async def check(self, params: dict[str, Json]) -> object:
        """Runs the check `name`, and returns {ok, message}."""
        found = self._checks.get(str(params.get("name")))
        if found is None:
            raise NotFound(f'cannot check "{params.get("name")}": there is no such health check')
        try:
            result = await self._call(found.call)
        except Exception as error:
            log_traceback(error, f'health check "{found.name}" failed')
            return {"ok": False, "message": f"{type(error).__name__}: {error}"}
        if result is None or result is True:
            return {"ok": True, "message": ""}
        return {"ok": False, "message": result if isinstance(result, str) else "it returned False"}

    async def recover(self, params: dict[str, Json]) -> object:
        """Runs the recovery `name`.

        Raises:
            NotFound: there is none.
            TaskFailed: it raised.
        """
        name = str(params.get("name"))
        recovery = self._recoveries.get(name)
        if recovery is None:
            raise NotFound(f'cannot recover "{name}": there is no such recovery')
        try:
            await self._call(recovery)
        except Exception as error:
            log_traceback(error, f'recovery "{name}" failed')
            text = f'cannot recover "{name}": {type(error).__name__}: {error}'
            raise TaskFailed(text, exception=type(error).__name__) from error
        return {}
