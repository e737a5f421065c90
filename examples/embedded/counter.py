"""The agent of summary.py: counts words."""

from corral.worker import Agent, SyncTask

agent = Agent("counter")


@agent.task
def count(task: SyncTask) -> str:
    """How many words a text has."""
    words = str(task.input).split()
    if not words:
        raise ValueError("there is nothing to count")
    return f"{len(words)} words, the longest is {max(words, key=len)}"
