"""Wraps the kernel interfaces that the launcher uses: process calls, Landlock, seccomp, cgroups, PID namespaces."""
