"""Decides whether a call is retried after the loss of its server; values in, a decision out."""

from corral.worker.contract.errors import ToolFailed

from ..protocol.messages import Tool

UNSENT_RETRIES = 2
"""Number of restarts for a call of a server that died before the call was sent."""


def may_retry(tool: Tool | None, error: ToolFailed, attempt: int, max_retries: int) -> bool:
    """Returns True if a call is retried after the attempt of this number, from 1, ended with `error`.

    Only after the loss of a server: any call if it was not sent, else those that are safe to repeat.
    """
    if error.data.get("lost") is not True:
        return False
    if error.data.get("sent") is False:
        return attempt <= max(UNSENT_RETRIES, max_retries)
    return (tool is None or tool.is_idempotent) and attempt <= max_retries
