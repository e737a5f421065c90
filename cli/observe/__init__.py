"""Commands that show the past and the present: log lines, events, figures and the audit log.

They only read, except `corral events publish`. A command that follows ends with 0 on Ctrl-C, and names the position
to continue from when the daemon is lost. Storage, rotation and search are the daemon's: nothing here opens
a log file or the database. Begin with `log`.
"""
