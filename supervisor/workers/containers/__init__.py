"""Runs a worker's program in a container, by podman, docker or runc.

Decides the command line and the files of a container from values alone, finds out which of the three works here, and
has the program that leads a worker's unit: it runs the engine, passes signals and exit codes on, and leaves no container
behind. Images are never fetched.

Must not know workers or the daemon. Begin with `plan`, which is pure; `engines` tries programs, `monitor` is the leader.
"""
