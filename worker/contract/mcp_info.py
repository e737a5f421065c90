"""Defines the MCP revisions, capabilities and instructions of corral's MCP servers.

The daemon, `corral mcp serve` while the daemon is away, and the memory server send the same. Standard library alone,
because all but the daemon have to be small.
"""

LEGACY_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSIONS = ("2026-07-28",)
"""The revisions of MCP of each era, the oldest first."""

META = "io.modelcontextprotocol/"
"""Prefix of MCP's own keys in `_meta`."""

CAPABILITIES: dict[str, object] = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"subscribe": True, "listChanged": True},
    "completions": {},
    "logging": {},
}
"""Capabilities that the daemon and `corral mcp serve` declare, beside those of tasks."""

TASKS_EXTENSION = META + "tasks"

TASKS_VERSION = "2025-11-25"
"""The only revision in which tasks are part of the protocol itself."""

_TASKS: dict[str, object] = {"list": {}, "cancel": {}, "requests": {"tools": {"call": {}}}}


def capabilities(version: str) -> dict[str, object]:
    """Returns the capabilities that are declared in a revision, those of tasks included."""
    if version in MODERN_VERSIONS:
        return {**CAPABILITIES, "extensions": {TASKS_EXTENSION: {}}}
    return {**CAPABILITIES, "tasks": _TASKS} if version == TASKS_VERSION else CAPABILITIES


FIND_TOOL = "corral__find_tool"
CALL_TOOL = "corral__call_tool"
"""Names of the two tools that stand for the others in a list that would be long."""

INSTRUCTIONS = (
    "corral runs the MCP servers and AI agents of this machine. A tool named SERVER__TOOL belongs to the MCP server"
    " SERVER, which starts at its first call. Tools named corral__* tell of agents, servers, tasks and logs, and"
    " steer them: corral__run gives an agent a task and returns what comes of it. Where corral__find_tool is listed, it"
    " finds the tools that are not."
)
"""Text for models about the server as a whole."""
