"""Wraps a worker's program for the levels of isolation that need a program of their own: strict and container.

The room decides the command line that makes a sandbox, from values alone, and finds out what this machine can give. It
guarantees that a level is held whole or refused by name, with the way to get it.

It must not know specs, workers or the launcher: it is told paths and limits, and returns a command line and how the
launcher finds the program inside.

Begin with `levels`, the interface of every level; `bubblewrap` is strict, `mounts` finds the real paths and links that
a file system of its own needs, `availability` tries a level on this machine.
"""
