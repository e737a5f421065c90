"""Words the refusal of a key: one that the table does not have, and one that this version has nothing behind.

A key that nothing would read is refused by name: a setting that is accepted has its effect.
"""

from collections.abc import Collection
from difflib import get_close_matches

from .spec import FIELDS, SECTIONS

_HINTS = {
    "args": "write the program and its arguments as one list: command",
    "env": "write environment",
    "cwd": "write working_directory in the section process",
    "url": "only an MCP server has one: [mcp.servers.NAME]",
    "mcp_servers": "write each server as [mcp.servers.NAME]",
    "type": "leave it out: a command is spoken to over its pipes, a url over streamable HTTP",
    "mcpServers": "write each server as [mcp.servers.NAME]",
    "servers": "write each server as [mcp.servers.NAME]",
    "server": "write each server as [mcp.servers.NAME]",
    "memory": "write max_memory_bytes in the section resources",
    "cpu": "write cpu_limit_percent in the section resources",
    "autorestart": "write restart in the section recovery",
    "directory": "write working_directory in the section process",
    "working_dir": "write working_directory in the section process",
    "env_file": "write environment_file in the section process",
    "depends_on": "write requires",
    "healthcheck": "write health",
    "replicas": "write instances",
    "numprocs": "write instances",
    "timeout": "write max_task_duration in the section resources",
    "cron": "write a table of its own: [schedules.NAME]",
    "every": "write a table of its own: [schedules.NAME]",
    "schedule": "write a table of its own: [schedules.NAME]",
    "retry_backoff_base_s": "write retry_backoff_base, a duration",
}
"""Words for the same thing elsewhere: in editors, in Docker, in supervisord."""


UNAVAILABLE = {
    "enable_metrics": "this version exports no metrics: leave it out; corral stats and corral top show figures",
}
"""Reasons for refusing keys that nothing reads, by key."""


def why_unknown(key: str, known: Collection[str]) -> str:
    """Returns the reason for refusing a key, with the nearest key that there is, or the one that means it."""
    if key in UNAVAILABLE:
        return f"not available: {UNAVAILABLE[key]}"
    elsewhere = {key: name for name, section in SECTIONS.items() for key in FIELDS[section]}
    if key in _HINTS and key not in known:
        return f"unknown key; {_HINTS[key]}"
    if near := [] if key in elsewhere else get_close_matches(key, known, 1):
        return f'unknown key; did you mean "{near[0]}"?'
    if near := get_close_matches(key, elsewhere, 1, 0.75):
        return f'unknown key here; "{near[0]}" is a key of the section {elsewhere[near[0]]}'
    return "unknown key"


def why_unknown_in_spec(key: str, known: Collection[str]) -> str:
    """Returns the reason for refusing a key of an agent's or server's table."""
    return why_unknown(key, [*known, *SECTIONS])
