"""Captures, stores, compresses, reads and forwards the output of workers.

Guarantees that a line that a worker has written is in its file, whole and in order, or is counted and reported as lost;
that capture never waits for a reader or a disk; and that files can be read by any log shipper while they are written.
Knows nothing of processes, tasks or sockets: it takes descriptors and bytes.

Begin with `store` (the folder of all logs). A line goes through `capture_pipe`, `capture` and `rotating_file`; it is read
by `reader` with `seek`, in the format of `file_format`. `daemon_log` is the daemon's own log, `forwarder` sends lines to
`journald`.
"""
