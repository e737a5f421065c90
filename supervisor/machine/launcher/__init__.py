"""Implements the launcher, the small process that spawns, signals and reaps every worker.

The room guarantees that no process of a worker outlives the daemon: whatever escapes is reparented to the launcher,
attributed to its unit, and killed with it; when the daemon is gone, the launcher kills all descendants and ends.
Limits, user, restrictions and descriptors of a worker are set between fork and exec.

It must not know restarts, grace periods or any other policy, and imports the standard library and `linux` alone, since
it is run by path with `python -I -S`. The zygote of an agent uses the same loop for its forks.

Begin with `program`, then `main_loop`, `shutdown` for its end; `child_setup` is the path from fork to exec, `raw_spawn`
the same without running Python in the child, `sandboxes` and `sandbox_entry` are programs inside a sandbox,
`process_tree` attributes escaped processes, `protocol` is the wire to the daemon.
"""
