"""Commands that concern MCP: servers, tools, prompts and resources, the import of servers, and `corral mcp serve`.

`mcp` has the commands that call the daemon; `serve` is an MCP server on stdin and stdout that relays to the daemon
and runs without click, `serve_offline` answers for a daemon that is away. `import_servers` takes over the servers of
editors: `import_files` reads their files, `import_convert` translates. Nothing here starts a server: the
daemon does. Begin with `mcp`.
"""
