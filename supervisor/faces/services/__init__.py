"""Serves single agents, teams and workflows over HTTP, each at an address of its own: `[agents.X] http`, `corral expose`.

Guarantees that a service reaches its own agent alone, through the method table; that an address which cannot be had
stops neither the daemon nor the agent, and is tried again; that a change of the address opens, closes or
moves the service without a restart of any worker, and no request under way is lost by it.

Must not know how HTTP is spoken (`http` does), nor how a task is run. aiohttp is imported with `listener`, which is
imported when the first service opens. Begin with `services`, then `face`.
"""
