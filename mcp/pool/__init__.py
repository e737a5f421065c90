"""Shares MCP servers between callers."""
