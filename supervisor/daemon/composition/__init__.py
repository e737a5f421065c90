"""Makes the groups of the daemon, each of those below it, and says what each part does in its life.

Begin with `groups`, which makes them; `life` is the table of what is loaded, started, run, closed and removed; `method_table`
and `web` make what clients reach them by.
"""
