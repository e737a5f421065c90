"""The agents that the scenarios on tasks call as tools, each with the name of its tool."""

import asyncio
import os
import signal

from corral.worker import Agent, Task

slow_compute = Agent("slow_compute")
failing_job = Agent("failing_job")
protocol_error_job = Agent("protocol_error_job")
confirm_delete = Agent("confirm_delete")
multi_input = Agent("multi_input")
test_tool_with_task = Agent("test_tool_with_task")


@slow_compute.task
async def compute(task: Task) -> str:
    await asyncio.sleep(task.input["seconds"])
    return f"computed {task.input.get('label')}"


@failing_job.task
async def fail(_task: Task) -> str:
    raise ValueError("the job fails")


@protocol_error_job.task
async def die(_task: Task) -> str:
    os.kill(os.getpid(), signal.SIGKILL)
    return "unreachable"


@confirm_delete.task
async def confirm(task: Task) -> str:
    return f"{task.input.get('filename')}: {await task.ask('Delete it?', ['yes', 'no'])}"


@multi_input.task
async def ask_twice(task: Task) -> list[str]:
    return list(await asyncio.gather(task.ask("Who?"), task.ask("Surely?", ["yes", "no"])))


@test_tool_with_task.task
async def greet(task: Task) -> str:
    return f"hello {task.input['name']}"
