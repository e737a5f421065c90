"""Answers MCP clients."""
