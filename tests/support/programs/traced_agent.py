"""Agents that pass a trace on: one delegates, the other calls a tool, and one fails at first."""

from corral.worker import Agent, Task, TaskFailed

leads = Agent("leads")
helps = Agent("helps")


@leads.task
async def lead(task: Task) -> object:
    if task.objective == "fail once" and task.attempt == 1:
        raise TaskFailed("not yet")
    if task.objective != "delegate":
        return task.traceparent
    found = await task.delegate("helps", "help")
    return {"own": task.traceparent, "below": found.output}


@helps.task
async def help_(task: Task) -> object:
    answer = await task.tool("traced__where")
    return {"child": task.traceparent, "tool": answer.text}
