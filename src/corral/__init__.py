"""corral: supervises AI agents and MCP tool servers the way systemd supervises services."""

__version__ = "0.1.0"
