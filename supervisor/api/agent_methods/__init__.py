"""Serves the methods of the table about agents, teams, workflows, MCP servers, packages, deployments and revisions.

Guarantees what all methods do: typed params and results, one right, all faces. The room decides nothing. Begin with `agent`.
"""
