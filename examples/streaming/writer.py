"""A writer that streams what it writes, word by word, and an editor that passes it on in capitals."""

import asyncio

from corral.worker import Agent

writer = Agent("writer")
editor = Agent("editor")


@writer.task
async def write(task):
    for word in task.objective.split():
        yield f"{word} "  # here a model's client would be read
        await asyncio.sleep(0.05)


@editor.task
async def edit(task):
    text = ""
    async with task.delegate_stream("writer", task.objective) as parts:
        async for part in parts:
            if part.is_new_beginning:
                text = ""
            text += part.value.upper()
            await task.stream(part.value.upper())
    return text
