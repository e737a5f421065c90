"""Submits tasks by a timetable (schedules), and executes the tasks of teams and workflows by submitting their parts.

Guarantees that a run of a schedule makes one task, and that a workflow goes on in the next daemon where it stood, since
every part is found by its parent and step. Holds nothing that a record does not. Must not know how a
task is queued or run.

Begin with `workflow_engine` for teams and workflows (their tables are in `config.spec.workflow` and
`config.spec.team`), with `schedules` for schedules; `workflow_decision` decides the next tasks, `cron` the next times,
and both are pure.
"""
