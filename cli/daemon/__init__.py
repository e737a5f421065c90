"""Commands that concern the daemon, this machine and the command itself.

`control` reloads the configuration, sets the log level and stops everything; `doctor` reports what the machine
offers, with or without a daemon; `about` has version and completion, which need none. None of them starts or ends
corrald: the service manager does. Begin with `control`.
"""
