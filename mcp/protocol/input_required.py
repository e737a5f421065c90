"""Answers results by which a modern server requires input before it goes on (`input_required`).

The request is repeated with the responses, until its result is complete. It must not know who is asked, or how the request is sent.
"""

from collections.abc import Awaitable, Callable, Mapping

from corral.worker.contract.codec import as_object
from corral.worker.contract.errors import ToolFailed

MAX_ROUNDS = 10
"""Number of times that a modern server may ask for input before its result."""

Ask = Callable[[str, Mapping[str, object]], Awaitable[object]]
"""Returns the response to a request of a server, by method and params; raises CorralError."""


def requires_input(result: Mapping[str, object]) -> bool:
    """Returns True if a result is none yet: its request has to be repeated with more input."""
    return result.get("resultType") == "input_required"


async def with_input(
    method: str, params: Mapping[str, object], result: Mapping[str, object], ask: Ask
) -> dict[str, object]:
    """Returns the params of the next request: those of the last one, with the input that its result requires."""
    responses: dict[str, object] = {}
    for key, raw in (as_object(result.get("inputRequests")) or {}).items():
        asked = as_object(raw) or {}
        wanted = asked.get("method")
        if not isinstance(wanted, str):
            raise ToolFailed(f'cannot finish "{method}": its server asks for nothing')
        responses[key] = await ask(wanted, as_object(asked.get("params")) or {})
    again = {**params, "inputResponses": responses}
    again.pop("requestState", None)
    if "requestState" in result:
        again["requestState"] = result["requestState"]
    return again


def too_many_rounds(method: str) -> ToolFailed:
    """Returns the error of a request whose server asks again and again."""
    return ToolFailed(f'cannot finish "{method}": its server asked {MAX_ROUNDS} times for more', limit=MAX_ROUNDS)
