"""What corral says as an MCP server, whoever of it speaks: the daemon, `corral mcp serve` while it is away, the memory.

The standard library alone, since all but the daemon have to be small.
"""

LEGACY_VERSIONS = ("2024-11-05", "2025-03-26", "2025-06-18", "2025-11-25")
MODERN_VERSIONS = ("2026-07-28",)
"""The revisions of MCP of each era, the oldest first."""

META = "io.modelcontextprotocol/"
"""What the keys of MCP's own in `_meta` begin with."""

CAPABILITIES: dict[str, object] = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"subscribe": True, "listChanged": True},
    "completions": {},
    "logging": {},
}
"""Of the whole, as the daemon and `corral mcp serve` offer it."""

INSTRUCTIONS = (
    "corral runs the MCP servers and AI agents of this machine. A tool named SERVER__TOOL belongs to the MCP server"
    " SERVER, which starts at its first call. Tools named corral__* tell of agents, servers, tasks and logs, and"
    " steer them: corral__run gives an agent a task and returns what comes of it."
)
"""What models read about the whole."""
