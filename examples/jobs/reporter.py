"""Writes a report of one line."""

from corral.worker import Agent

agent = Agent("reporter")


@agent.task
async def report(task):
    return f"nothing is wrong with {task.input['subject']}"


agent.run()
