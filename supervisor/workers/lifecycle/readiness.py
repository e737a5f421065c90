"""Describes the sign by which a starting program shows that it is ready."""

import json

from corral.supervisor.config.spec.spec import Spec

TARGET_SHOWN = 100
"""Characters of the target of a readiness probe in the message of a start-timeout."""


def awaited(spec: Spec) -> str:
    """Describes the sign that did not come in time, with a hint for a program that is no agent."""
    if spec.ready is not None:
        target = json.dumps(" ".join(spec.ready.target)[:TARGET_SHOWN], ensure_ascii=False)
        if spec.ready.way == "log":
            return f"no line of its log matched {target}"
        return f"no good answer from {spec.ready.way} {target}"
    if spec.protocol == "webhook" or spec.protocol == "a2a":
        return "corral's own process for it has not started"
    if spec.protocol == "acp":
        return "it did not answer as an agent of ACP, or opened no session"
    if spec.protocol == "corral":
        return 'it did not answer "initialize" (a program that is no agent needs protocol = "none")'
    return "it did not answer as an MCP server"
