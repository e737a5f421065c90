"""Reads, keeps and masks secrets.

Guarantees that no error, log or answer has the value of a secret, and that one which was set is on disk, readable by
the daemon's user alone, before the command is answered. `${secret:NAME}` is expanded when a process is started, and
kept nowhere.

Must not know which agents there are, nor which process gets which secret.

Begin with `secrets`, which finds a secret in its three places, then `store`, which keeps those set by command.
"""
