"""Commands that change and show the running set: agents, MCP servers, their state and their memory.

A module is one noun or a group of verbs; it turns a command line into one call of a method of the daemon, and the
answer into a table or JSON. Nothing is decided here that the daemon decides, and nothing here knows another
folder of commands. Begin with `agent`: status, show, add, rm, start, stop and the other verbs.
"""
