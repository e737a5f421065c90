"""Enters the methods of questions, `approval.*`, into the method table: list, show and answer.

Guarantees nothing of its own: the table decides on rights and on the agents of a caller.
Must not keep a question: `supervisor.tasks.worker_api` does.

Begin with `approval`.
"""
