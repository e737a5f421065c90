"""The screen of `corral top`: tables of agents, MCP servers and tasks, one of them in detail, and keys that act on them.

It guarantees that the terminal is restored however the command ends, that nothing of a worker's text reaches the terminal
unchecked, and that each interval asks the daemon for its status once. Changes between two samples come from the stream of events.
The effect of a key and the content of a page are decided by functions of values (`view`, `pages`); only `terminal` knows curses, and only `feed` the daemon.
A plain `corral top` (a pipe, --json, --once) uses `samples` alone. Begin with `screen`.
"""
