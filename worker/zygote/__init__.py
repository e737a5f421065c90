"""Implements the zygote: a process that imports an agent once and forks its workers.

The room guarantees that a forked worker finds the same signals, descriptors, environment, limits and folder as one that
was started by exec, that forks share nothing that may not be shared (an agent whose import leaves threads or sockets is
reported as unfit), and that every fork dies with the zygote or its launcher.

It must not know any agent but its own, nor policy: the daemon decides when a zygote is made, used and replaced
(`supervisor.workers.zygote`). Of the supervisor it may use `linux` and `launcher`, whose loop it runs; otherwise the standard
library and the SDK.

Begin with `program`; `fork_safety` inspects an import, `sources` watches for changed files, `clone3` forks into cgroups.
"""
