"""What every MCP client is told of corral as a server: by the daemon, and by `corral mcp serve` while it is away.

The standard library alone, since that command has to be small.
"""

CAPABILITIES: dict[str, object] = {
    "tools": {"listChanged": True},
    "prompts": {"listChanged": True},
    "resources": {"subscribe": True, "listChanged": True},
    "completions": {},
    "logging": {},
}

INSTRUCTIONS = (
    "corral runs the MCP servers and AI agents of this machine. A tool named SERVER__TOOL belongs to the MCP server"
    " SERVER, which starts at its first call. Tools named corral__* tell of agents, servers, tasks and logs, and"
    " steer them: corral__run gives an agent a task and returns what comes of it."
)
"""What models read about the whole."""
