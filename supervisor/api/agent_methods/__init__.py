"""Serves the methods of the table about packages and their deployments.

Guarantees what all methods do: typed params and results, one right, all faces. The daemon fetches nothing and reads no
file for a caller. The room decides nothing: `packages` keeps packages, `deployment` deploys them.

Begin with `package`.
"""
