"""The `corral` command: one call of a method of the daemon per command, printed as a table or as JSON.

`__main__` has the table of commands; a command's module lies in the folder that is its heading in `corral --help`
(agents, tasks, observe, tools, daemon) and is imported when the command is used. At the top is shared code: `context`
(global options, values on the command line), `console` (socket and output), `render` (text that is safe on a terminal)
and `status_fast`, which answers a plain `corral status` without click. Nothing here decides what the daemon decides or
reads its files. Start-up time is part of the interface. Begin with `__main__`.
"""
