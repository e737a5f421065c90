"""Starts, signals and contains processes: the daemon's side of the launcher.

The room guarantees that every spawned unit is reported once as exited and once as empty, even when the launcher dies;
that no process of an earlier daemon is left when a new one starts; and that a limit, user or path of a spec is enforced
or refused by name, never dropped.

It must not know agents, tasks, health or restarts: it is told specs and units, and calls back with exits.

Begin with `launcher_client` (spawn, signal, exits), then `launch` (a spec becomes a Launch). `containment` claims
cgroups, `orphans` cleans up after a death. `supervisor.workers.usage` measures trees.
"""
