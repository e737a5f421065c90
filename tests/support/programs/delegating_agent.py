"""An agent that gives its input to another agent, and returns the record of that task."""

from corral.worker import Agent, Task

agent = Agent("delegating")


@agent.task
async def handle(task: Task) -> object:
    priority = task.context.get("priority")
    done = await task.delegate(
        str(task.context["to"]),
        task.objective,
        input=task.input,
        priority=priority if isinstance(priority, int) else None,
    )
    return done.record


if __name__ == "__main__":
    agent.run()
