"""Commands that show the past and the present: log lines, events, figures and the audit log.

They only read, but for `corral events publish`. A command that follows ends with 0 on Ctrl-C, and names the position
to go on from when the daemon is lost. How lines are stored and found is not known here. Begin with `log`.
"""
