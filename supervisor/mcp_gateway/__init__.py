"""Offers corral itself and all its MCP servers as one MCP server."""
