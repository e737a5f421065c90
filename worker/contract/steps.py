"""Names what a task delegates in a step, so that the same step of a later beginning finds the same task again."""

_PREFIX = "corral-step:"


def key_of(task: str, number: int, tries: int) -> str:
    """Returns the idempotency key of the task that a step delegates; after a failure the next one is another task."""
    return f"{_PREFIX}{task}:{number}:{tries}"


def is_key(idempotency_key: str | None) -> bool:
    """Returns whether a task was delegated in a step: it outlives the beginning of the task that waits for it."""
    return idempotency_key is not None and idempotency_key.startswith(_PREFIX)
