"""The agent of the memory benchmark: it looks at the whole conversation, and adds a question and an answer to it."""

from corral.worker import Agent, Task

agent = Agent("talker")

replayed: dict[str, list[dict[str, str]]] = {}
"""Conversations of an agent that keeps nothing: in the memory of its process, by the caller's name for them."""

TEXT = "the ledger of the spring market was closed late because two carts had not been counted"


def message(number: int, role: str) -> dict[str, str]:
    """About a hundred bytes of text that is no repetition of the one before."""
    at = number % len(TEXT)
    return {"role": role, "content": f"{number}: {TEXT[at:]}; {TEXT[:at]}"}


def turn(history: list[dict[str, str]]) -> int:
    """Reads everything, as a prompt is made of it; returns the number of the next message."""
    assert sum(len(each["content"]) for each in history) >= 0
    return len(history)


@agent.task
async def run(task: Task) -> object:
    if task.objective == "remembered":
        number = turn(task.memory.history)
        task.memory.add(**message(number, "user"))
        task.memory.add(**message(number + 1, "agent"))
    elif task.objective == "fill":
        for number in range(len(task.memory.history), task.input):
            task.memory.add(**message(number, "user" if number % 2 == 0 else "agent"))
    elif task.objective == "replayed":
        history = replayed.setdefault(task.input, [])
        number = turn(history)
        history += [message(number, "user"), message(number + 1, "agent")]
    elif task.objective == "forget":
        replayed.clear()
    elif task.objective == "given":
        turn(task.input)
    return None
