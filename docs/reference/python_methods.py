"""Makes the page python_methods.md from the table of methods."""

from corral.worker.methods.table import METHODS

HEAD = """\
# Methods of the Python API

Each method of the daemon is a method of [`AgentRuntime` and `Runtime`](python.md), with the params of the [protocol](protocol.md#methods-of-the-control-socket) as keywords.
Methods for one agent that do something to it have a twin that takes names with globs, and `selector`: `start_agent` and `start_agents`.

| Python | method | needs | does |
|---|---|---|---|
"""


def page() -> str:
    """Returns the page."""
    return HEAD + "".join(
        f"| `{method.faces.python}` | `{name}` | {method.access.permission} | {method.summary.replace('|', chr(92) + '|')} |\n"
        for name, method in sorted(METHODS.items())
        if method.faces.python is not None
    )
