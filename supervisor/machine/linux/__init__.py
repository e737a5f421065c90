"""Wraps the Linux interfaces that the launcher needs: processes, control groups, Landlock, seccomp, PID namespaces.

The room guarantees two things. A signal reaches the intended process or none: a child is signalled before it is
reaped, any other process through a pidfd that is opened first and checked afterwards. And a restriction is held whole
or refused by name, never held in part.

It holds mechanism only. It knows no worker, no configuration and no policy, and imports the standard library alone,
since it is a part of the launcher, which runs with `python -I -S`.

Begin with `kernel` (processes, /proc, signals), then `cgroup`. `sock_diag` and `durable` are not of the launcher.
"""
