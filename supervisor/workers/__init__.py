"""Starts, contains, measures, supervises and ends the processes of one worker.

May import: machine, config, records, mcp.protocol, mcp.upstream.
Rooms, each importing only those before it: containers, lifecycle, listening, usage, process, egress, zygote, supervision, exec.
Begin with `lifecycle.transitions`, which decides, then `supervision.worker_supervisor`, which acts.
"""
