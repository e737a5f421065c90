"""Decides which agents, servers, teams and workflows there are: adds, changes and removes them, on request and by the file.

Guarantees that what is answered is in the store, that several agents at once are all taken or none, and that a reload touches
only what has changed. Begin with `agents`, which composes the room and what it stands on: `membership` adds and removes,
`reload` takes up what an earlier daemon had, and follows the configuration file.
"""
