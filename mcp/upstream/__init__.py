"""Speaks MCP with servers, over pipes and HTTP."""
