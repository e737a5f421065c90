"""Reports on tasks: the steps of one in order of time, and the cost of all.

Guarantees that a cost does not depend on how long records are kept: it is summed when a task ends, and stays when
the records of tasks expire and when its agent is removed.

Must not know how a task is run, nor how a caller is answered. Begin with `costs` for sums, and `timeline` for the output and the steps of one
task.
"""
