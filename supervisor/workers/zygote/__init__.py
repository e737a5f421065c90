"""Forks warm workers: a zygote process per agent has imported its code, and forks each worker from there.

Decides when a zygote is loaded, renewed and ended, which worker is a fork of it, and which spares are forked ahead.
Guarantees that each fork is reported as exited and as empty once, although the zygote runs the agent's code and may send
anything. Must not know tasks, the API or other agents' rules. Begin with `policy`
(pure: the decisions of one agent), then `pool` (performs them; its state is an `agent_record`), `client` (one zygote),
`preloads` (imports that agents share), `fork_processes`, `spares` and `protocol`.
"""
